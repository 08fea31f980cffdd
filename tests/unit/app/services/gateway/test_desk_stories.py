"""What a desk does when accounts refuse, die, hang or leave, and who goes first while calls wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

import pytest

from app.domain.errors import CapacityError, RequestError, UpstreamKind
from app.domain.gateway import Candidate, ServiceClass
from app.domain.leases import PERMIT_VALID_S, Exchange, PermitReport
from app.domain.limits import LimitSpec
from app.domain.permit_office import SILENCE_NS
from app.services.gateway.permits import Bounds, Permit, Want
from tests.fakes.permit_hosts import an_account
from tests.fakes.permit_world import World, a_world, play, want
from tests.fakes.virtual_time import VirtualClock

ROOMY = LimitSpec(rpm=6_000, concurrency=1_000, burst_ms=6_000)
SLOW = LimitSpec(rpm=60, burst_ms=1_000)


async def warm(world: World, *accounts: str, desk: int = 0, calls: int = 20) -> None:
    """Make calls, so that the desk holds spare permits."""
    for _ in range(calls):
        await world.call(want(*accounts), desk=desk, duration_s=0.01)


def spares(world: World, desk: int = 0) -> int:
    return world.hosts.held_by(f"d{desk}") - world.desks[desk].outstanding


def test_desk_gives_spares_back_when_nobody_uses_them() -> None:
    """They hold room that others could use."""

    async def story(clock: VirtualClock) -> None:
        async with a_world(clock, an_account("a", limits=ROOMY)) as world:
            await warm(world)
            assert spares(world) > 0
            await asyncio.sleep(PERMIT_VALID_S + 0.5)

            assert world.hosts.held == 0
            assert world.hosts.in_flight() == {"a": 0}

    play(story)


def test_desks_drop_spares_when_another_holder_is_refused() -> None:
    """One refusal is heard by all at once, not when their permits run out."""

    async def story(clock: VirtualClock) -> None:
        async with a_world(clock, an_account("a", limits=ROOMY), desks=2) as world:
            await warm(world, desk=1)
            permit = await world.desks[0].acquire(want(), timeout_s=1.0)
            await warm(world, desk=1, calls=3)
            assert spares(world, 1) > 0
            world.fail(permit, UpstreamKind.MINUTE_LIMIT, retry_after_s=5.0)
            await asyncio.sleep(0.1)
            assert spares(world, 1) == 0
            began_s = clock.now_s
            await world.call(want(), desk=1)

            assert 4.8 <= world.starts[-1][0] - began_s <= 6.5

    play(story)


def test_desk_loses_nothing_but_permits_when_a_host_is_reborn() -> None:
    """Calls go on under the new life, nothing of the old one is counted against it."""

    async def story(clock: VirtualClock) -> None:
        async with a_world(clock, an_account("a", limits=ROOMY)) as world:
            await warm(world)
            under_way = asyncio.create_task(world.call(want(), duration_s=3.0))
            await asyncio.sleep(0.1)
            world.hosts.kill("account-a")
            await asyncio.sleep(0.3)
            world.hosts.bear("account-a")
            for _ in range(5):
                await world.call(want(), duration_s=0.1)
            await under_way
            await world.settled()

            assert world.hosts.held == 0
            assert world.hosts.in_flight() == {"a": 0}

    play(story)


@pytest.mark.parametrize("how", ["dead", "hanging"])
def test_desk_serves_waiting_calls_elsewhere_when_a_host_does_not_answer(how: str) -> None:
    """The silent one is left alone for a while; nobody waits until it is given up."""

    async def story(clock: VirtualClock) -> None:
        accounts = [an_account(name, limits=ROOMY) for name in "ab"]
        async with a_world(clock, *accounts) as world:
            if how == "dead":
                world.hosts.kill("account-a")
            else:
                world.hosts.hanging.add("account-a")
            began_s = clock.now_s
            permits = await asyncio.gather(*(world.call(want("a", "b"), duration_s=0.1) for _ in range(20)))

            assert {permit.account for permit in permits} == {"b"}
            assert max(at_s for at_s, _account, _tokens in world.starts) - began_s < 2.5
            assert world.waiting == 0
            messages = sum(host == "account-a" for host, _message in world.hosts.messages)
            assert messages < 20
            if how == "dead":
                assert "account-a" in world.hosts.suspected

    play(story)


def test_desk_tells_reports_again_when_a_message_is_lost() -> None:
    """Whether it was lost on its way or on its way back."""

    async def story(clock: VirtualClock) -> None:
        async with a_world(clock, an_account("a", limits=LimitSpec(concurrency=1))) as world:
            lost: list[str] = []

            def fate(_host: str, message: Exchange) -> str:
                if any(report.ending == "answered" for report in message.reports) and len(lost) < 4:
                    lost.append("lost" if len(lost) % 2 else "unheard")
                    return lost[-1]
                return "fine"

            world.hosts.fate = fate
            await world.call(want())
            await asyncio.sleep(10.0)

            assert len(lost) == 4
            assert world.hosts.held == 0

    play(story)


def test_office_frees_what_a_dead_holder_held_when_it_has_been_silent() -> None:
    """A killed replica cannot give back; others get its slots after ``SILENCE_NS``, and not before."""

    async def story(clock: VirtualClock) -> None:
        async with a_world(clock, an_account("a", limits=LimitSpec(concurrency=2)), desks=1) as world:
            victim = world.add_desk("victim")
            for _ in range(2):
                await victim.acquire(want(), timeout_s=5.0)
            await world.kill_desk(victim)
            began_s = clock.now_s
            await world.call(want(), timeout_s=60.0)

            waited_s = world.starts[-1][0] - began_s
            assert SILENCE_NS / 1e9 - 6.0 <= waited_s <= SILENCE_NS / 1e9 + 3.0

    play(story)


def test_desk_keeps_what_it_holds_when_its_calls_take_long() -> None:
    """It says that it lives, also for an account that has been removed meanwhile."""

    async def story(clock: VirtualClock) -> None:
        accounts = [an_account("a", limits=LimitSpec(concurrency=2)), an_account("b", limits=ROOMY)]
        async with a_world(clock, *accounts) as world:
            task = asyncio.create_task(world.call(want("a"), duration_s=90.0))
            await asyncio.sleep(1.0)
            world.hosts.remove("a")
            await asyncio.sleep(80.0)
            assert world.hosts.held == 1
            await task
            await world.settled()

            assert world.hosts.held == 0

    play(story)


def test_desk_forgets_accounts_and_hosts_that_are_gone() -> None:
    """A configuration that changes for months does not make it grow."""

    async def story(clock: VirtualClock) -> None:
        names = [f"a{number}" for number in range(20)]
        async with a_world(clock, *(an_account(name, limits=ROOMY) for name in (*names, "stays"))) as world:
            for name in names:
                await world.call(want(name), duration_s=0.1)
                world.hosts.remove(name)
                if name > "a5":
                    world.hosts.kill(f"account-{name}")
            await asyncio.sleep(200.0)

            slots, boxes = world.sizes()
            assert slots == 0
            assert boxes == 0
            sent = len(world.hosts.messages)
            await asyncio.sleep(100.0)
            assert len(world.hosts.messages) == sent

    play(story)


def test_batch_work_leaves_headroom_when_it_takes_all_it_can() -> None:
    """A call of a person starts at once although batch work has been waiting for long."""

    async def story(clock: VirtualClock) -> None:
        limits = LimitSpec(rpm=60, burst_ms=20_000)
        async with a_world(clock, an_account("a", limits=limits), bounds=Bounds(batch_headroom=0.2)) as world:
            batch = want(service_class=ServiceClass.BATCH)
            tasks = [asyncio.create_task(world.call(batch, timeout_s=100.0)) for _ in range(60)]
            await asyncio.sleep(5.0)
            began_s = clock.now_s
            for _ in range(3):
                await world.call(want(service_class=ServiceClass.INTERACTIVE), duration_s=0.0)
            waited_s = clock.now_s - began_s
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

            assert waited_s < 1.5

    play(story)


def test_desk_serves_callers_in_turns_when_one_has_a_burst_waiting() -> None:
    """The burst delays itself; weights share what there is."""

    async def story(clock: VirtualClock) -> None:
        async with a_world(clock, an_account("a", limits=LimitSpec(rpm=300, burst_ms=1_000))) as world:
            served: Counter[str] = Counter()

            async def one(caller: str) -> None:
                await world.call(want(caller=caller), timeout_s=60.0, duration_s=0.2)
                served[caller] += 1

            tasks = [asyncio.create_task(one("burst")) for _ in range(200)]
            await asyncio.sleep(2.0)
            began_s = clock.now_s
            await asyncio.gather(*(one("quiet") for _ in range(10)))
            took_s, of_burst = clock.now_s - began_s, served["burst"]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

            assert took_s < 2.5 * 10 / 5
            assert of_burst < 10 + 30

    play(story)


def two_models(first: str, second: str) -> Want:
    candidates = (Candidate(model="m", accounts=(first,)), Candidate(model="later", accounts=(second,)))
    return Want(candidates=candidates, input_tokens=10, output_tokens_max=0)


def test_desk_takes_a_later_model_only_when_the_first_cannot_serve_soon() -> None:
    """The client's first choice is worth a short wait, not a long one."""

    async def story(clock: VirtualClock) -> None:
        accounts = [an_account("a", limits=SLOW), an_account("b", "later", limits=ROOMY)]
        async with a_world(clock, *accounts) as world:
            for _ in range(4):
                assert (await world.call(two_models("a", "b"), duration_s=0.1)).model == "m"
            permit = await world.desks[0].acquire(two_models("a", "b"), timeout_s=10.0)
            world.fail(permit, UpstreamKind.MINUTE_LIMIT, retry_after_s=30.0)
            await asyncio.sleep(3.0)

            assert (await world.call(two_models("a", "b"), duration_s=0.1)).model == "later"

    play(story)


def test_desk_refuses_by_name_when_a_call_is_too_large_for_every_account() -> None:
    """It could wait for ever; the client is told what to change."""

    async def story(clock: VirtualClock) -> None:
        limits = LimitSpec(tpm=1_000, window="sliding")
        async with a_world(clock, an_account("a", limits=limits), an_account("b", limits=limits)) as world:
            with pytest.raises(RequestError, match="900 \\+ 200 tokens") as caught:
                await world.desks[0].acquire(want("a", "b", tokens=900, output=200), timeout_s=60.0)

            assert caught.value.param == "max_tokens"
            assert world.waiting == 0

    play(story)


def test_desk_takes_the_account_that_is_large_enough_when_another_is_not() -> None:
    """One account's refusal for good is no refusal of the call."""

    async def story(clock: VirtualClock) -> None:
        small = an_account("a", limits=LimitSpec(tpm=1_000, window="sliding"))
        large = an_account("b", limits=LimitSpec(tpm=5_000, window="sliding"))
        async with a_world(clock, small, large) as world:
            permit = await world.call(want("a", "b", tokens=900, output=200))

            assert permit.account == "b"

    play(story)


def test_desk_says_when_to_come_back_when_nobody_can_start_the_call_in_time() -> None:
    """The earliest recovery known, over all accounts."""

    async def story(clock: VirtualClock) -> None:
        accounts = [an_account(name, limits=ROOMY) for name in "ab"]
        async with a_world(clock, *accounts) as world:
            for name, retry_after_s in (("a", 40.0), ("b", 25.0)):
                permit = await world.desks[0].acquire(want(name), timeout_s=1.0)
                world.fail(permit, UpstreamKind.MINUTE_LIMIT, retry_after_s=retry_after_s)
            await asyncio.sleep(1.0)
            with pytest.raises(CapacityError) as caught:
                await world.desks[0].acquire(want("a", "b"), timeout_s=5.0)

            assert caught.value.retry_after_s == pytest.approx(25.0 - 6.0, abs=0.5)

    play(story)


def test_desk_refuses_at_once_when_every_key_is_dead() -> None:
    """Nothing to wait for."""

    async def story(clock: VirtualClock) -> None:
        async with a_world(clock, an_account("a", limits=ROOMY)) as world:
            permit = await world.desks[0].acquire(want(), timeout_s=1.0)
            world.fail(permit, UpstreamKind.DEAD_KEY)
            await asyncio.sleep(3.0)
            began_s = clock.now_s
            with pytest.raises(CapacityError, match="refused by their provider") as caught:
                await world.desks[0].acquire(want(), timeout_s=60.0)

            assert clock.now_s - began_s < 1.0
            assert caught.value.retry_after_s is None

    play(story)


def test_desk_refuses_the_newest_of_the_burst_when_the_queue_is_full() -> None:
    """A burst may not shut others out; it learns when to come back."""

    async def story(clock: VirtualClock) -> None:
        bounds = Bounds(queue_max=10)
        async with a_world(clock, an_account("a", limits=LimitSpec(concurrency=1)), bounds=bounds) as world:
            first = asyncio.create_task(world.call(want(), duration_s=8.0))
            await asyncio.sleep(0.1)
            burst = [asyncio.create_task(world.call(want(caller="burst"), duration_s=0.1)) for _ in range(12)]
            await asyncio.sleep(0.1)
            refused = [task for task in burst if task.done()]
            assert len(refused) == 2
            other = asyncio.create_task(world.call(want(caller="other"), duration_s=0.1))
            await asyncio.sleep(0.1)
            refused = [task for task in burst if task.done()]
            assert len(refused) == 3
            for task in refused:
                error = task.exception()
                assert isinstance(error, CapacityError)
                assert error.retry_after_s is not None
                assert error.retry_after_s > 0
            await asyncio.gather(first, other, *(task for task in burst if task not in refused))

    play(story)


def test_desk_lets_a_call_wait_on_when_its_promised_start_is_taken_back_though_the_queue_is_full() -> None:
    """It was within the bound before."""

    async def story(clock: VirtualClock) -> None:
        bounds = Bounds(queue_max=4)
        async with a_world(clock, an_account("a", limits=SLOW), bounds=bounds) as world:
            permit = await world.desks[0].acquire(want(), timeout_s=1.0)
            await asyncio.sleep(0.4)
            promised = asyncio.create_task(world.call(want(), duration_s=0.1))
            await asyncio.sleep(0.25)
            others = [asyncio.create_task(world.call(want(), duration_s=0.1)) for _ in range(4)]
            await asyncio.sleep(0.05)
            world.fail(permit, UpstreamKind.MINUTE_LIMIT, retry_after_s=3.0)
            await promised

            assert world.starts[0][0] - 1_000.0 >= 3.0
            with contextlib.suppress(CapacityError):
                await asyncio.gather(*others)

    play(story)


def test_desk_says_everything_that_is_unsaid_when_it_closes() -> None:
    """Also what was in a message under way."""

    async def story(clock: VirtualClock) -> None:
        async with a_world(clock, an_account("a", limits=ROOMY), delay_s=0.2) as world:
            desk = world.add_desk("leaving")
            permits: list[Permit] = [await desk.acquire(want(), timeout_s=5.0) for _ in range(3)]
            for permit in permits:
                desk.report(permit, PermitReport(call_id=permit.call_id, ending="cancelled"))
            await asyncio.sleep(0.1)
            await world.kill_desk(desk, politely=True)

            assert world.hosts.held_by("leaving") == 0

    play(story)
