"""A caller's own limits hold exactly over all replicas; who is over one is told at once when to come back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from app.domain.chat import Usage
from app.domain.errors import InternalError, QuotaError
from app.domain.gateway import ANONYMOUS, Caller
from app.domain.hosting import CALLERS_HOST, caller_specs
from app.domain.leases import Exchange
from app.domain.limits import LimitSpec
from app.services.gateway.caller_gate import PATIENCE_S, SLOT_PATIENCE_S, CallerGate
from tests.fakes.permit_hosts import OfficeHosts, cancel
from tests.fakes.permit_world import play
from tests.fakes.virtual_time import VirtualClock


def a_caller(name: str = "team", **limits: int) -> Caller:
    return Caller(name=name, limits=LimitSpec(**limits))  # type: ignore[arg-type]


@asynccontextmanager
async def some_gates(
    clock: VirtualClock, *callers: Caller, gates: int = 1
) -> AsyncIterator[tuple[list[CallerGate], OfficeHosts]]:
    hosts = OfficeHosts(clock, caller_specs(callers), one_host=CALLERS_HOST)
    made = [CallerGate(hosts, clock, owner=f"g{number}", on_silence=hosts.suspect) for number in range(gates)]
    tasks = [asyncio.create_task(gate.run()) for gate in made]
    try:
        yield made, hosts
        assert not any(task.done() for task in tasks), "a background task ended"
    finally:
        await cancel(*tasks)
        await asyncio.gather(*(gate.aclose() for gate in made))


def test_gate_lets_everything_pass_when_a_caller_has_no_limits() -> None:
    """No limit, no message."""

    async def story(clock: VirtualClock) -> None:
        async with some_gates(clock) as ([gate], hosts):
            gate.settle(await gate.admit(ANONYMOUS, 10, 10), None)

            assert hosts.messages == []

    play(story)


@pytest.mark.parametrize("gates", [1, 2])
def test_gates_admit_what_the_window_allows_and_no_more_when_hammered(gates: int) -> None:
    """Over all replicas: never more than the limit in any minute, at least 97 % of it."""

    async def story(clock: VirtualClock) -> None:
        caller = a_caller(rpm=120, burst_ms=2_000)
        async with some_gates(clock, caller, gates=gates) as (made, _hosts):
            began_s, starts = clock.now_s, []

            async def one(gate: CallerGate) -> None:
                while clock.now_s - began_s < 90.0:
                    try:
                        admitted = await gate.admit(caller, 10, 10)
                    except QuotaError as error:
                        await asyncio.sleep(error.retry_after_s or 1_000.0)
                        continue
                    starts.append(clock.now_s)
                    await asyncio.sleep(0.3)
                    gate.settle(admitted, Usage(input_tokens=5, output_tokens=5))

            await asyncio.gather(*(one(made[number % gates]) for number in range(8)))
            for first, at_s in enumerate(starts):
                for number, later_s in enumerate(starts[first:], start=1):
                    # What a bundle was given for may be used a second later.
                    assert number <= 2.0 * (later_s - at_s + 2.0 + 1.0) + 1e-6
            used = sum(1 for at_s in starts if at_s - began_s < 90.0)
            assert used >= 0.97 * 180

    play(story)


def test_gate_refuses_at_once_and_says_when_to_come_back_when_a_limit_is_used_up() -> None:
    """Waiting is the client's choice; its limit is told by name."""

    async def story(clock: VirtualClock) -> None:
        caller = a_caller(rpm=6, burst_ms=0)
        async with some_gates(clock, caller) as ([gate], _hosts):
            gate.settle(await gate.admit(caller, 1, 1), None)
            began_s = clock.now_s
            with pytest.raises(QuotaError) as caught:
                await gate.admit(caller, 1, 1)

            assert clock.now_s - began_s < 0.1
            assert caught.value.limit == "rpm"
            assert caught.value.retry_after_s == pytest.approx(10.0, abs=0.1)

    play(story)


def test_gate_names_the_limit_when_a_call_is_larger_than_all_of_it() -> None:
    """Such a call is never admitted: nobody should come back with it."""

    async def story(clock: VirtualClock) -> None:
        caller = Caller(name="team", limits=LimitSpec(tpm=1_000, window="sliding"))
        async with some_gates(clock, caller) as ([gate], _hosts):
            with pytest.raises(QuotaError, match="whole limit tpm of your key") as caught:
                await gate.admit(caller, 900, 200)

            assert caught.value.limit == "tpm"
            assert caught.value.retry_after_s is None

    play(story)


def test_gate_corrects_the_reservation_when_a_call_is_settled() -> None:
    """What was reserved and not used is the caller's again; what was never sent costs nothing."""

    async def story(clock: VirtualClock) -> None:
        limits = LimitSpec(tpm=1_000, window="sliding", charge="used")
        caller = Caller(name="team", limits=limits)
        async with some_gates(clock, caller) as ([gate], _hosts):
            first = await gate.admit(caller, 100, 800)
            with pytest.raises(QuotaError):
                await gate.admit(caller, 100, 200)
            gate.settle(first, Usage(input_tokens=100, output_tokens=100))
            await asyncio.sleep(1.0)
            second = await gate.admit(caller, 100, 600)
            gate.settle(second, None, sent=False)
            await asyncio.sleep(1.0)

            gate.settle(await gate.admit(caller, 100, 600), None)

    play(story)


def test_gate_needs_no_message_when_it_has_spare_permits() -> None:
    """Far from the limit nearly every call is admitted from the hand; what is not used goes back."""

    async def story(clock: VirtualClock) -> None:
        caller = a_caller(rpm=60_000)
        async with some_gates(clock, caller) as ([gate], hosts):
            asked = 0
            for _ in range(400):
                began_s = clock.now_s
                admitted = await gate.admit(caller, 10, 10)
                asked += clock.now_s > began_s
                await asyncio.sleep(0.005)
                gate.settle(admitted, Usage(input_tokens=10, output_tokens=1))
            await asyncio.sleep(3.0)

            assert asked < 40
            assert hosts.held == 0

    play(story)


@pytest.mark.parametrize("how", ["dead", "hanging", "lost"])
def test_gate_refuses_when_the_limiters_cannot_be_asked(how: str) -> None:
    """Nothing is let past limits that cannot be checked; when they are back, calls pass again."""

    async def story(clock: VirtualClock) -> None:
        caller = a_caller(rpm=600)
        async with some_gates(clock, caller) as ([gate], hosts):
            gate.settle(await gate.admit(caller, 1, 1), None)
            await asyncio.sleep(2.0)
            if how == "dead":
                hosts.kill(CALLERS_HOST)
            elif how == "hanging":
                hosts.hanging.add(CALLERS_HOST)
            else:
                hosts.fate = lambda _host, _message: "unheard"
            for deadline_s in (2.0, 60.0):
                began_s = clock.now_s
                with pytest.raises(InternalError):
                    await gate.admit(caller, 1, 1, deadline_s=deadline_s)
                assert clock.now_s - began_s == pytest.approx(min(deadline_s, PATIENCE_S), abs=0.1)
            hosts.hanging.clear()
            hosts.fate = lambda _host, _message: "fine"
            if how == "dead":
                hosts.bear(CALLERS_HOST)
            await asyncio.sleep(20.0)

            gate.settle(await gate.admit(caller, 1, 1), Usage(input_tokens=1, output_tokens=1))
            await asyncio.sleep(5.0)
            assert hosts.held == 0

    play(story)


@pytest.mark.parametrize("away_s", [0.1, 3.0, 8.0])
@pytest.mark.parametrize("how", ["dead", "lost", "unheard"])
def test_calls_wait_for_the_limiters_to_come_back_and_limits_stay_exact(how: str, away_s: float) -> None:
    """No call fails in the seconds of a restart, and none is let past unchecked or counted twice."""

    async def story(clock: VirtualClock) -> None:
        caller = Caller(name="team", limits=LimitSpec(concurrency=20), user_limits=LimitSpec(concurrency=3))
        async with some_gates(clock, caller, gates=2) as (made, hosts):
            first = await made[0].admit(caller, 1, 1, "ann")
            made[0].settle(first, Usage(input_tokens=1, output_tokens=1))
            await asyncio.sleep(2.0)
            if how == "dead":
                hosts.kill(CALLERS_HOST)
            else:
                hosts.fate = lambda _host, _message: how
            calls = [(gate, made[gate].admit(caller, 1, 1, user)) for gate in (0, 1) for user in ("ann", "bob", "ann")]
            tasks = [(gate, asyncio.create_task(call)) for gate, call in calls]
            began_s = clock.now_s
            await asyncio.sleep(away_s)
            assert not any(task.done() for _gate, task in tasks)
            hosts.fate = lambda _host, _message: "fine"
            if how == "dead":
                hosts.bear(CALLERS_HOST, lost=False)
            outcomes = await asyncio.gather(*(task for _gate, task in tasks), return_exceptions=True)

            assert clock.now_s - began_s < PATIENCE_S + 0.1
            assert sum(isinstance(outcome, QuotaError) for outcome in outcomes) == 1, "ann's fourth"
            admitted = [(gate, each) for (gate, _task), each in zip(tasks, outcomes, strict=True)]
            for gate, each in admitted:
                if not isinstance(each, BaseException):
                    made[gate].settle(each, Usage(input_tokens=1, output_tokens=1))
            await asyncio.sleep(8.0)
            assert hosts.held == 0

    play(story)


def test_call_of_a_key_configured_a_moment_ago_waits_until_the_limiters_know_it() -> None:
    """As after a restart, before the directory has told them the configuration."""

    async def story(clock: VirtualClock) -> None:
        team = a_caller("team", rpm=6)
        async with some_gates(clock, a_caller("other", rpm=6)) as ([gate], hosts):
            task = asyncio.create_task(gate.admit(team, 1, 1))
            await asyncio.sleep(3.0)
            assert not task.done()
            hosts._specs[CALLERS_HOST] = list(caller_specs([team]))
            hosts.bear(CALLERS_HOST, lost=False)
            began_s = clock.now_s
            gate.settle(await task, None, sent=False)

            assert clock.now_s - began_s < 1.0
            assert len(hosts.messages) < 40

    play(story)


def test_gate_does_not_blame_the_caller_when_its_limiter_is_not_there_yet() -> None:
    """A key that was configured a moment ago is not over its limit."""

    async def story(clock: VirtualClock) -> None:
        async with some_gates(clock, a_caller("other", rpm=6)) as ([gate], _hosts):
            with pytest.raises(InternalError):
                await gate.admit(a_caller("team", rpm=6), 1, 1)

    play(story)


@pytest.mark.parametrize("after_s", [0.0, 0.0005, 0.001, 0.0015, 0.002, 0.0025])
def test_gate_leaves_nothing_when_a_call_is_cancelled_while_it_is_admitted(after_s: float) -> None:
    """At whichever moment the client goes."""

    async def story(clock: VirtualClock) -> None:
        caller = a_caller(rpm=600, concurrency=4)
        async with some_gates(clock, caller) as ([gate], hosts):
            task = asyncio.create_task(gate.admit(caller, 1, 1))
            await asyncio.sleep(after_s)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                gate.settle(await task, None)
            await asyncio.sleep(3.0)

            assert hosts.held == 0

    play(story)


@pytest.mark.parametrize("gates", [1, 2, 3])
def test_gates_refuse_nobody_who_keeps_to_the_slots_whichever_replica_each_call_comes_to(gates: int) -> None:
    """As many clients as slots, each with one call at a time: what was just freed is waited for, wherever it was."""

    async def story(clock: VirtualClock) -> None:
        slots = 4
        caller = a_caller(concurrency=slots)
        async with some_gates(clock, caller, gates=gates) as (made, hosts):
            running = running_max = 0

            async def client(number: int) -> None:
                nonlocal running, running_max
                for turn in range(30):
                    gate = made[(number + turn) % gates]
                    admitted = await gate.admit(caller, 10, 10)
                    running += 1
                    running_max = max(running_max, running)
                    await asyncio.sleep(0.02 * (1 + (number + turn) % 5))
                    running -= 1
                    gate.settle(admitted, Usage(input_tokens=5, output_tokens=5))

            await asyncio.gather(*(client(number) for number in range(slots)))

            assert running_max == slots
            await asyncio.sleep(3.0)
            assert hosts.held == 0

    play(story)


def test_gate_refuses_a_call_when_no_slot_becomes_free_in_a_moment() -> None:
    """Not at once, and not much later."""

    async def story(clock: VirtualClock) -> None:
        caller = a_caller(concurrency=1)
        async with some_gates(clock, caller) as ([gate], _hosts):
            admitted = await gate.admit(caller, 1, 1)
            began_s = clock.now_s
            with pytest.raises(QuotaError, match="concurrency"):
                await gate.admit(caller, 1, 1)
            assert SLOT_PATIENCE_S <= clock.now_s - began_s <= SLOT_PATIENCE_S + 0.5

            began_s = clock.now_s
            with pytest.raises(QuotaError, match="concurrency"):
                await gate.admit(caller, 1, 1, deadline_s=0.3)
            assert clock.now_s - began_s <= 0.3 + 0.25
            gate.settle(admitted, None)

    play(story)


def test_gate_leaves_nothing_when_an_answer_comes_as_it_gives_up() -> None:
    """The message takes exactly as long as the gate waits."""

    async def story(clock: VirtualClock) -> None:
        caller = a_caller(rpm=600)
        async with some_gates(clock, caller) as ([gate], hosts):
            for delay_s in (PATIENCE_S / 2 - 0.0001, PATIENCE_S / 2, PATIENCE_S / 2 + 0.0001):
                hosts.delay_s = delay_s
                with contextlib.suppress(InternalError):
                    gate.settle(await gate.admit(caller, 1, 1), Usage(input_tokens=1, output_tokens=1))
                hosts.delay_s = 0.001
                await asyncio.sleep(60.0)

                assert hosts.held == 0

    play(story)


def test_gate_tells_its_reports_again_when_a_message_is_lost() -> None:
    """A settled call is settled at the limiter too, whatever happens to messages."""

    async def story(clock: VirtualClock) -> None:
        caller = a_caller(concurrency=2)
        async with some_gates(clock, caller) as ([gate], hosts):
            admitted = await gate.admit(caller, 1, 1)
            lost: list[Exchange] = []

            def fate(_host: str, message: Exchange) -> str:
                if message.reports and len(lost) < 3:
                    lost.append(message)
                    return "lost" if len(lost) % 2 else "unheard"
                return "fine"

            hosts.fate = fate
            gate.settle(admitted, Usage(input_tokens=1, output_tokens=1))
            await asyncio.sleep(10.0)

            assert len(lost) == 3
            assert hosts.held == 0

    play(story)


MINUTE = LimitSpec(rpm=6, tpm=600, window="sliding", counted_from="start", charge="used")
USED = Usage(input_tokens=10, output_tokens=10)


@pytest.mark.parametrize("gates", [1, 2])
def test_gates_give_every_user_their_own_limit_within_that_of_the_key(gates: int) -> None:
    """A user over the limit is refused without touching the others' share; over all replicas."""

    async def story(clock: VirtualClock) -> None:
        caller = Caller(
            name="team", limits=LimitSpec(rpm=9, window="sliding", counted_from="start"), user_limits=MINUTE
        )
        async with some_gates(clock, caller, gates=gates) as (made, hosts):

            async def calls(user: str | None, count: int) -> int:
                admitted = 0
                for number in range(count):
                    gate = made[number % gates]
                    with contextlib.suppress(QuotaError):
                        gate.settle(await gate.admit(caller, 10, 50, user), USED)
                        admitted += 1
                    await asyncio.sleep(0.1)
                return admitted

            assert await calls("ann", 8) == 6
            await asyncio.sleep(1.5)  # spare permits go back
            assert await calls("bob", 8) == 3
            with pytest.raises(QuotaError, match="your key's limit 'rpm'"):
                await made[0].admit(caller, 10, 10, "carl")
            with pytest.raises(QuotaError, match="your user's limit 'rpm'"):
                await made[0].admit(caller, 10, 10, "ann")
            await asyncio.sleep(63.0)

            assert await calls("ann", 8) == 6
            await asyncio.sleep(2.0)
            assert hosts.held == 0

    play(story)


def test_users_who_do_not_say_who_they_are_share_one_limit() -> None:
    """Leaving the name out is no way around it."""

    async def story(clock: VirtualClock) -> None:
        caller = Caller(name="team", user_limits=MINUTE)
        async with some_gates(clock, caller) as ([gate], hosts):
            for user in (None, "", None, "", None, ""):
                gate.settle(await gate.admit(caller, 10, 10, user), USED)
            with pytest.raises(QuotaError):
                await gate.admit(caller, 10, 10)
            gate.settle(await gate.admit(caller, 10, 10, "ann"), USED)
            await asyncio.sleep(2.0)

            assert hosts.held == 0

    play(story)


def test_long_call_of_a_user_keeps_its_reservation() -> None:
    """A holder that says nothing for half a minute is taken for dead: while a user's call runs, ours speaks."""

    async def story(clock: VirtualClock) -> None:
        caller = Caller(name="team", user_limits=LimitSpec(concurrency=1))
        async with some_gates(clock, caller) as ([gate], hosts):
            admitted = await gate.admit(caller, 10, 10, "ann")
            for _ in range(100):
                await asyncio.sleep(1.0)
                hosts.sweep()
            with pytest.raises(QuotaError):
                await gate.admit(caller, 10, 10, "ann")
            gate.settle(admitted, USED)
            await asyncio.sleep(1.0)

            gate.settle(await gate.admit(caller, 10, 10, "ann"), None)

    play(story)


def test_allowance_is_exact_call_by_call_and_that_of_whoever_has_less_left() -> None:
    """Spare permits in the hand count as left; the user's limit is told where it is the tighter one."""

    async def story(clock: VirtualClock) -> None:
        wide = LimitSpec(rpm=100, window="sliding", counted_from="start", charge="used")
        caller = Caller(name="team", limits=wide, user_limits=MINUTE)
        alone = replace(caller, user_limits=LimitSpec())
        async with some_gates(clock, caller) as ([gate], _hosts):
            seen = []
            for _ in range(4):
                gate.settle(await gate.admit(alone, 10, 10), USED)
                seen.append([(each.limit, each.remaining) for each in gate.allowances(alone)])
                await asyncio.sleep(0.3)
            assert seen == [[(100, 100.0 - count)] for count in (1, 2, 3, 4)]

            gate.settle(await gate.admit(caller, 10, 10, "ann"), USED)
            await asyncio.sleep(1.0)
            told = {each.kind: each for each in gate.allowances(caller, "ann")}
            assert (told["requests"].limit, told["requests"].remaining) == (6, 5.0)
            assert (told["tokens"].limit, told["tokens"].remaining) == (600, 580.0)
            assert 58.0 <= told["requests"].reset_s <= 62.0
            assert [(each.limit, each.remaining) for each in gate.allowances(caller, "bob")] == [(100, 95.0)]

    play(story)


@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.002, 0.003, 0.004, 0.005])
def test_gate_leaves_nothing_of_user_or_key_when_a_call_is_cancelled_while_it_is_admitted(after_s: float) -> None:
    """At whichever of the two reservations the client goes."""

    async def story(clock: VirtualClock) -> None:
        caller = Caller(name="team", limits=LimitSpec(concurrency=2), user_limits=MINUTE)
        async with some_gates(clock, caller) as ([gate], hosts):
            task = asyncio.create_task(gate.admit(caller, 1, 1, "ann"))
            await asyncio.sleep(after_s)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                gate.settle(await task, None)
            await asyncio.sleep(3.0)

            assert hosts.held == 0

    play(story)
