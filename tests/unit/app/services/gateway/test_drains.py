"""A call that its client leaves is read to its end where stopping it would not stop the bill, within bounds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from app.domain.chat import Usage
from app.domain.errors import RequestError, UpstreamError, UpstreamKind
from app.services.gateway.drains import AHEAD_MAX, Drains
from tests.fakes.permit_world import play
from tests.fakes.virtual_time import VirtualClock
from tests.unit.app.services.gateway.test_attempts import USAGE, Stage, a_stage, drained, failure

SLOW_S = 5.0


async def begun(stage: Stage, *, stream: bool) -> asyncio.Task[Any]:
    """Start a call and wait until it has been sent."""
    bid = stage.bid()
    work = stage.attempts.open(bid) if stream else stage.attempts.complete(bid)
    task: asyncio.Task[Any] = asyncio.create_task(work)
    await asyncio.sleep(0.5)
    return task


async def left(task: asyncio.Task[Any]) -> None:
    """Have the client of a call go away."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("stream", [False, True])
def test_drains_hold_the_permit_and_report_the_usage_when_the_client_leaves_before_the_answer(stream: bool) -> None:
    """The provider is not stopped; until it is done, its slot is not given to another call."""

    async def story(clock: VirtualClock) -> None:
        async with a_stage(clock, {"a": [SLOW_S]}) as stage:
            stage.going_on = True
            task = await begun(stage, stream=stream)
            await left(task)

            assert (len(stage.attempts.drains), stage.world.desks[0].outstanding, stage.used) == (1, 1, [])
            await asyncio.sleep(SLOW_S)
            await stage.nothing_left()
            assert stage.used == [USAGE]
            assert len(stage.attempts.drains) == 0

    play(story)


@pytest.mark.parametrize("seen", [0, 1, 3, 4])
def test_drains_read_a_stream_to_its_usage_when_the_client_leaves_it(seen: int) -> None:
    """However much the client has read."""

    async def story(clock: VirtualClock) -> None:
        async with a_stage(clock, {"a": [None]}) as stage:
            stage.going_on = True
            deltas, _won = await stage.attempts.open(stage.bid())
            for _ in range(seen):
                await anext(deltas)
            await deltas.aclose()
            await stage.nothing_left()

            assert stage.used == [USAGE]
            assert stage.accounts["a"].closed == 1

    play(story)


def test_drains_change_nothing_for_a_client_that_stays() -> None:
    """Answers, order, failover before the first delta and failures after it are as without them."""

    async def story(clock: VirtualClock) -> None:
        async with a_stage(clock, {"a": [failure(UpstreamKind.CUT)], "b": [None]}) as stage:
            stage.going_on = True
            result, _won = await stage.attempts.complete(stage.bid())
            deltas, _won = await stage.attempts.open(stage.bid())
            assert (result.text, await drained(deltas)) == ("b", ["0", "1", "2"])
            stage.accounts["b"].breaks_after = (2, failure(UpstreamKind.CUT))
            deltas, _won = await stage.attempts.open(stage.bid(("m", "b")))
            with pytest.raises(UpstreamError):
                await drained(deltas)

            assert len(stage.attempts.drains) == 0

    play(story)


@pytest.mark.parametrize("stream", [False, True])
def test_drains_give_a_permit_back_when_no_provider_can_be_told_the_request(stream: bool) -> None:
    """Refused before it was sent: withdrawn, once."""

    async def story(clock: VirtualClock) -> None:
        async with a_stage(clock, {"a": [RequestError("no such field", param="seed")]}) as stage:
            stage.going_on = True
            with pytest.raises(RequestError):
                await (stage.attempts.open(stage.bid()) if stream else stage.attempts.complete(stage.bid()))
            await stage.nothing_left()

            assert stage.endings() == ["withdrawn"]

    play(story)


@pytest.mark.parametrize("stream", [False, True])
def test_drains_stop_a_call_when_it_takes_too_long_or_there_are_too_many(stream: bool) -> None:
    """Beyond its time, and beyond the number, a call is stopped and counts as all that was reserved."""

    async def story(clock: VirtualClock) -> None:
        async with a_stage(clock, {"a": [100.0]}) as stage:
            stage.going_on, stage.attempts.drains = True, Drains(calls_max=1, drain_s=10.0)
            tasks = [await begun(stage, stream=stream) for _ in range(2)]
            for task in tasks:
                await left(task)
            await asyncio.sleep(1.0)
            assert (len(stage.attempts.drains), stage.endings()) == (1, ["cancelled"])
            await asyncio.sleep(10.0)

            await stage.nothing_left()
            assert stage.endings() == ["cancelled", "cancelled"]

    play(story)


@pytest.mark.parametrize("stream", [False, True])
def test_drains_tell_the_usage_once_when_somebody_follows(stream: bool) -> None:
    """Of a call that goes on; of any other nobody is told, and that is said at once."""

    async def story(clock: VirtualClock) -> None:
        async with a_stage(clock, {"a": [SLOW_S, 100.0]}) as stage:
            stage.going_on, stage.attempts.drains = True, Drains(drain_s=10.0)
            told: list[Usage | None] = []
            for _ in range(2):
                bid = stage.bid()
                assert not stage.attempts.follow(bid, told.append)
                work = stage.attempts.open(bid) if stream else stage.attempts.complete(bid)
                task: asyncio.Task[Any] = asyncio.create_task(work)
                await asyncio.sleep(0.5)
                await left(task)
                assert stage.attempts.follow(bid, told.append)
                await asyncio.sleep(20.0)

            assert told == [USAGE, None]

    play(story)


@pytest.mark.parametrize("stream", [False, True])
def test_drains_end_when_they_are_closed(stream: bool) -> None:
    """Shutting down does not wait for them, and nobody can leave a call to them any more."""

    async def story(clock: VirtualClock) -> None:
        async with a_stage(clock, {"a": [100.0]}) as stage:
            stage.going_on = True
            tasks = [await begun(stage, stream=stream) for _ in range(2)]
            await left(tasks[0])
            await stage.attempts.aclose()
            assert len(stage.attempts.drains) == 0
            await left(tasks[1])
            await stage.nothing_left()

            assert stage.endings() == ["cancelled", "cancelled"]

    play(story)


def test_drains_read_only_so_far_ahead_when_the_client_is_slow() -> None:
    """A client that does not read stops the provider's sending, not our memory."""

    async def story(clock: VirtualClock) -> None:
        async with a_stage(clock, {"a": [None]}) as stage:
            stage.going_on = True
            account = stage.accounts["a"]
            account.deltas = 1_000
            deltas, _won = await stage.attempts.open(stage.bid())
            await anext(deltas)
            await asyncio.sleep(60.0)
            ahead = account.yielded
            await deltas.aclose()
            await asyncio.sleep(60.0)

            assert ahead <= AHEAD_MAX + 3
            assert account.yielded == 1_000
            await stage.nothing_left()
            assert stage.used == [USAGE]

    play(story)
