"""Idempotency keys: one key, one call, one answer, whichever replica is asked and whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.domain.chat import ChatRequest, ChatResult, Message, Role
from app.domain.errors import ConflictError, DeadlineError, InternalError, RequestError
from app.domain.gateway import EmbeddingRequest, EmbeddingResult, Served
from app.domain.repeats import ANSWER_BYTES_MAX, KEY_CHARS_MAX, LEASE_S, KeptAnswer
from app.domain.repeats import KEPT_S as DAY_S
from app.services.gateway.repeats import CLOSE_S, KEPT_BYTES_MAX, KEPT_MAX, KEPT_S, LEFT_MAX, LEFT_S, RENEW_S, Repeats
from tests.fakes.permit_world import play
from tests.fakes.repeat_keys import RowKeys
from tests.fakes.virtual_time import VirtualClock

ASKED = ChatRequest(model="m", messages=(Message(role=Role.USER, text="hello"),))
OTHER = ChatRequest(model="m", messages=(Message(role=Role.USER, text="bye"),))
SERVED = Served(request_id="r", created_s=1, account="a", provider="p", model="m")


class Calls:
    """Counts what was really bought."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds
        self.made, self.ended, self.stopped = 0, 0, 0
        self.fails = False
        self.text = "answer {}"
        self.given_s: list[float] = []
        self.lost_at_s: list[float | None] = []

    async def __call__(self, left_s: float, lost_at_s: float | None) -> KeptAnswer:
        self.made += 1
        self.lost_at_s.append(lost_at_s)
        self.given_s.append(left_s)
        number = self.made
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        self.ended += 1
        if self.fails:
            raise InternalError("it failed")
        return KeptAnswer(result=ChatResult(text=self.text.format(number)), served=SERVED, upstream_s=self.seconds)


class Replicas:
    """Some replicas over one store."""

    def __init__(self, clock: VirtualClock, count: int) -> None:
        self.clock = clock
        self.keys = RowKeys(clock)
        self.all = [Repeats(self.keys, clock, owner=f"replica-{number}") for number in range(count)]
        self.calls = Calls()

    async def ask(
        self, replica: int, key: str = "k", *, request: ChatRequest = ASKED, who: str = "team", deadline_s: float = 60.0
    ) -> str:
        answer = await self.all[replica].run(who, key, request, self.calls, deadline_s=deadline_s)
        assert isinstance(answer.result, ChatResult)
        return answer.result.text

    def kill(self, replica: int) -> None:
        """Let a replica end as SIGKILL would: whatever it did stops, and it says nothing."""
        dead = self.all[replica]
        dead._keys = RowKeys(self.clock)
        dead._keys.away = True
        for task in (*dead._background, *([dead._renewer] if dead._renewer else [])):
            task.cancel()


@asynccontextmanager
async def some_replicas(clock: VirtualClock, count: int = 2) -> AsyncIterator[Replicas]:
    replicas = Replicas(clock, count)
    try:
        yield replicas
    finally:
        for repeats in replicas.all:
            await repeats.aclose()


def test_two_replicas_buy_once_when_a_key_comes_to_both_at_once_and_later() -> None:
    """The second waits for the first one's call, and needs no more time than that takes."""

    async def story(clock: VirtualClock) -> None:
        async with some_replicas(clock) as replicas:
            began_s = clock.now_s
            both = await asyncio.gather(*(replicas.ask(number) for number in (0, 1, 0, 1)))
            took_s = clock.now_s - began_s
            after = [await replicas.ask(number) for number in (0, 1)]

            assert [*both, *after] == ["answer 1"] * 6
            assert replicas.calls.made == 1
            assert took_s < 1.1

    play(story)


def test_a_known_answer_costs_no_message() -> None:
    """The store is asked once a replica and key."""

    async def story(clock: VirtualClock) -> None:
        async with some_replicas(clock) as replicas:
            for replica in (0, 0, 0, 1, 1):
                await replicas.ask(replica)

            assert replicas.keys.messages == ["claim", "finish", "claim"]

    play(story)


def test_keys_are_the_callers_own_and_belong_to_one_request() -> None:
    """Another caller's key is another key; the same key with another request is a mistake that every replica tells."""

    async def story(clock: VirtualClock) -> None:
        async with some_replicas(clock) as replicas:
            await replicas.ask(0, who="a")
            await replicas.ask(1, who="b")
            assert replicas.calls.made == 2
            for replica in (0, 1):
                with pytest.raises(ConflictError, match="another request"):
                    await replicas.ask(replica, who="a", request=OTHER)
            with pytest.raises(RequestError, match="longer"):
                await replicas.ask(0, "k" * (KEY_CHARS_MAX + 1))
            running = asyncio.create_task(replicas.ask(0, "running"))
            await asyncio.sleep(0.5)
            for replica in (0, 1):
                with pytest.raises(ConflictError, match="another request"):
                    await replicas.ask(replica, "running", request=OTHER)
            await running

            assert replicas.calls.made == 3

    play(story)


def test_a_failed_call_may_be_made_again_by_any_replica_with_any_request() -> None:
    """The key is for repeating what failed; who waited elsewhere makes the call at once."""

    async def story(clock: VirtualClock) -> None:
        async with some_replicas(clock) as replicas:
            replicas.calls.fails = True
            first = asyncio.create_task(replicas.ask(0))
            await asyncio.sleep(0.5)
            second = asyncio.create_task(replicas.ask(1))
            await asyncio.sleep(0.4)
            began_s = clock.now_s
            with pytest.raises(InternalError, match="it failed"):
                await first
            replicas.calls.fails = False

            assert await second == "answer 2"
            assert clock.now_s - began_s < 1.3
            replicas.calls.fails = True
            with pytest.raises(InternalError, match="it failed"):
                await replicas.ask(0, "other")
            replicas.calls.fails = False
            assert await replicas.ask(1, "other", request=OTHER) == "answer 4"

    play(story)


def test_a_call_is_taken_over_when_its_replica_is_killed() -> None:
    """Not before its lease is over, and by one only."""

    async def story(clock: VirtualClock) -> None:
        async with some_replicas(clock, 3) as replicas:
            # Beyond the grace that the store's own start gives.
            await asyncio.sleep(2 * LEASE_S)
            replicas.calls.seconds = 30.0
            dead = asyncio.create_task(replicas.ask(0))
            await asyncio.sleep(1.0)
            replicas.kill(0)
            replicas.calls.seconds = 1.0
            began_s = clock.now_s
            answers = await asyncio.gather(*(replicas.ask(number) for number in (1, 2, 1, 2)))

            assert answers == ["answer 2"] * 4
            assert [lost_at_s is not None for lost_at_s in replicas.calls.lost_at_s] == [False, True]
            assert LEASE_S - 1.0 - RENEW_S < clock.now_s - began_s < LEASE_S + 1.5
            with contextlib.suppress(Exception):
                await dead

    play(story)


def test_a_long_call_is_kept_alive_and_not_taken_over() -> None:
    """Its holder says so again and again."""

    async def story(clock: VirtualClock) -> None:
        async with some_replicas(clock) as replicas:
            replicas.calls.seconds = 10 * LEASE_S
            answers = await asyncio.gather(*(replicas.ask(number, deadline_s=200.0) for number in (0, 1)))

            assert answers == ["answer 1"] * 2
            assert replicas.keys.messages.count("renew") >= 30
            assert not replicas.all[0]._held
            count = len(replicas.keys.messages)
            await asyncio.sleep(60.0)
            assert len(replicas.keys.messages) == count, "nothing is held, so nothing needs to be said"

    play(story)


def test_who_was_taken_for_dead_gives_the_answer_that_stands() -> None:
    """A key has one answer: of two that were bought, the first that was kept."""

    async def story(clock: VirtualClock) -> None:
        async with some_replicas(clock) as replicas:
            await asyncio.sleep(2 * LEASE_S)
            replicas.calls.seconds = 20.0
            slow = asyncio.create_task(replicas.ask(0))
            await asyncio.sleep(1.0)
            renewer = replicas.all[0]._renewer
            assert renewer is not None
            renewer.cancel()  # as a process that was stopped for a while
            replicas.calls.seconds = 1.0

            assert await replicas.ask(1) == "answer 2"
            assert await slow == "answer 2"
            assert await replicas.ask(0) == "answer 2"
            assert replicas.calls.made == 2

    play(story)


def test_a_call_survives_the_store_and_the_answer_survives_both() -> None:
    """While the store is away nobody can say that he lives: leases count from its return."""

    async def story(clock: VirtualClock) -> None:
        async with some_replicas(clock, 3) as replicas:
            replicas.calls.seconds = 4 * LEASE_S
            first = asyncio.create_task(replicas.ask(0))
            await asyncio.sleep(1.0)
            replicas.keys.away = True
            with pytest.raises(InternalError, match="away"):
                await replicas.ask(1)
            await asyncio.sleep(2 * LEASE_S)
            replicas.keys.away = False
            replicas.keys.restart()
            assert await replicas.ask(1) == "answer 1"
            assert await first == "answer 1"
            replicas.kill(0)
            replicas.keys.restart()

            assert await replicas.ask(2) == "answer 1"
            assert replicas.calls.made == 1

    play(story)


def test_an_answer_that_cannot_be_kept_is_given_all_the_same() -> None:
    """It was bought; this replica knows it, the others may buy it again."""

    async def story(clock: VirtualClock) -> None:
        async with some_replicas(clock) as replicas:
            first = asyncio.create_task(replicas.ask(0))
            await asyncio.sleep(0.5)
            replicas.keys.away = True
            assert await first == "answer 1"
            assert await replicas.ask(0) == "answer 1"
            replicas.keys.away = False

            assert await replicas.ask(1) == "answer 2"

    play(story)


def test_a_call_goes_on_when_its_client_leaves_and_answers_the_repeat() -> None:
    """At the same replica and at another one; bought once."""

    async def story(clock: VirtualClock) -> None:
        async with some_replicas(clock) as replicas:
            replicas.calls.seconds = 30.0
            client = asyncio.create_task(replicas.ask(0))
            await asyncio.sleep(1.0)
            client.cancel()
            await asyncio.sleep(1.0)
            same = asyncio.create_task(replicas.ask(0))
            await asyncio.sleep(1.0)
            same.cancel()
            await asyncio.sleep(1.0)
            both = await asyncio.gather(*(replicas.ask(number) for number in (0, 1)))

            assert both == ["answer 1"] * 2
            assert (replicas.calls.made, replicas.calls.stopped) == (1, 0)
            assert replicas.all[0]._left == 0

    play(story)


def test_calls_without_clients_are_bounded_in_number_and_time() -> None:
    """One more is stopped at once, one that takes too long later; their keys are free then."""

    async def story(clock: VirtualClock) -> None:
        async with some_replicas(clock) as replicas:
            replicas.calls.seconds = 10 * LEFT_S
            clients = [asyncio.create_task(replicas.ask(0, str(number))) for number in range(LEFT_MAX + 3)]
            await asyncio.sleep(5.0)
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
            assert replicas.calls.stopped == 3
            await asyncio.sleep(LEFT_S + 1.0)

            assert replicas.calls.stopped == LEFT_MAX + 3
            assert (replicas.all[0]._left, replicas.all[0]._flights, replicas.keys.count()) == (0, {}, 0)
            replicas.calls.seconds = 1.0
            assert await replicas.ask(1, "0") == f"answer {LEFT_MAX + 4}"

    play(story)


def test_who_only_waits_for_another_replica_may_leave_or_run_out_of_time() -> None:
    """The call is the other's, and goes on; what is left of the time is what a call gets."""

    async def story(clock: VirtualClock) -> None:
        async with some_replicas(clock) as replicas:
            replicas.calls.seconds = 40.0
            first = asyncio.create_task(replicas.ask(0, deadline_s=100.0))
            await asyncio.sleep(1.0)
            leaving = asyncio.create_task(replicas.ask(1))
            await asyncio.sleep(1.0)
            leaving.cancel()
            await asyncio.sleep(0.1)
            assert replicas.all[1]._flights == {}
            for replica in (0, 1):
                began_s = clock.now_s
                with pytest.raises(DeadlineError, match="under way"):
                    await replicas.ask(replica, deadline_s=5.0)
                assert clock.now_s - began_s == pytest.approx(5.0, abs=0.1)

            assert await first == "answer 1"
            assert replicas.calls.made == 1
            assert replicas.calls.given_s == [pytest.approx(100.0, abs=0.1)]

    play(story)


def test_an_answer_too_large_for_the_store_is_given_by_its_own_replica_and_refused_by_others() -> None:
    """Refused, never bought again in silence."""

    async def story(clock: VirtualClock) -> None:
        async with some_replicas(clock) as replicas:
            replicas.calls.text = "x" * (ANSWER_BYTES_MAX + 1)
            first = await replicas.ask(0)
            assert await replicas.ask(0) == first
            with pytest.raises(ConflictError, match="too large"):
                await replicas.ask(1)

            assert replicas.calls.made == 1

    play(story)


@pytest.mark.parametrize("store", ["there", "hanging"])
def test_closing_frees_the_keys_of_calls_without_clients_and_does_not_wait_for_a_store_that_hangs(store: str) -> None:
    """Permits are to be given back right after it."""

    async def story(clock: VirtualClock) -> None:
        async with some_replicas(clock) as replicas:
            replicas.calls.seconds = 30.0
            client = asyncio.create_task(replicas.ask(0))
            await asyncio.sleep(1.0)
            client.cancel()
            await asyncio.sleep(0.1)
            replicas.keys._delay_s = 0.002 if store == "there" else 60.0
            began_s = clock.now_s
            await replicas.all[0].aclose()
            took_s = clock.now_s - began_s
            replicas.keys._delay_s = 0.002

            assert took_s <= CLOSE_S + 0.01
            assert replicas.calls.stopped == 1
            replicas.calls.seconds = 1.0
            assert await replicas.ask(1) == "answer 2"
            assert (store == "there") == (clock.now_s - began_s < 2.0)

    play(story)


def test_answers_are_forgotten_by_age_number_and_size() -> None:
    """Memory is bounded; what it no longer has, the store has for a day, and not longer."""

    async def story(clock: VirtualClock) -> None:
        async with some_replicas(clock, 1) as replicas:
            replicas.calls.seconds = 0.0
            await replicas.ask(0, "old")
            await asyncio.sleep(KEPT_S + 1)
            assert await replicas.ask(0, "old") == "answer 1"
            assert replicas.keys.messages == ["claim", "finish", "claim"]
            for number in range(KEPT_MAX + 10):
                await replicas.ask(0, str(number))
            assert len(replicas.all[0]._kept) <= KEPT_MAX
            replicas.calls.text = "x" * (KEPT_BYTES_MAX // 3)
            for number in range(5):
                await replicas.ask(0, f"large {number}")
            assert 0 < replicas.all[0]._kept_bytes <= KEPT_BYTES_MAX
            made = replicas.calls.made
            replicas.calls.text = "new"
            await asyncio.sleep(DAY_S)

            assert await replicas.ask(0, "old") == "new"
            assert replicas.calls.made == made + 1

    play(story)


def test_answers_of_every_kind_come_back_equal_from_another_replica() -> None:
    """Text of any language, tools, vectors to the last digit; time that was the provider's is not spent again."""

    async def story(clock: VirtualClock) -> None:
        async with some_replicas(clock) as replicas:
            result = EmbeddingResult(vectors=((0.1, -1e-17, 1 / 3), (2.0, 3.0, 4.0)), input_tokens=5, model="trà 绿茶")
            request = EmbeddingRequest(model="e", inputs=("a", "b"))

            async def make(left_s: float, lost_at_s: float | None) -> KeptAnswer:
                return KeptAnswer(result=result, served=SERVED, cost_usd="0.001", upstream_s=2.0, cached=False)

            first = await replicas.all[0].run("team", "k", request, make, deadline_s=9.0)
            again = [await each.run("team", "k", request, make, deadline_s=9.0) for each in replicas.all]
            expected = KeptAnswer(result=result, served=SERVED, cost_usd="0.001")

            assert again == [expected] * 2
            assert first.upstream_s == 2.0
            with pytest.raises(ConflictError):
                await replicas.ask(1)

    play(story)
