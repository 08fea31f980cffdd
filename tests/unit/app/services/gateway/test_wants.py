"""Waiting calls are looked at while somebody could start them; nobody waits in vain, or for what others wait for."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from app.domain.errors import CapacityError, UpstreamKind
from app.domain.gateway import Candidate
from app.domain.limits import LimitSpec
from app.services.gateway.wants import LOOK_AHEAD, Want
from tests.fakes.permit_hosts import an_account
from tests.fakes.permit_world import World, a_world, play, want
from tests.fakes.virtual_time import VirtualClock

SLOW = LimitSpec(rpm=60, burst_ms=1_000)
FAST = LimitSpec(rpm=6_000, burst_ms=5_000)


def of_model(model: str, account: str) -> Want:
    return Want(candidates=(Candidate(model=model, accounts=(account,)),), input_tokens=10, output_tokens_max=0)


async def stop(tasks: list[asyncio.Task[object]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def backlog(world: World, calls: int) -> list[asyncio.Task[object]]:
    return [asyncio.create_task(world.call(want("a"), timeout_s=600.0)) for _ in range(calls)]


def test_call_of_a_free_model_starts_at_once_behind_a_backlog_of_another() -> None:
    """One slow account may not hold up those who do not want it."""

    async def story(clock: VirtualClock) -> None:
        accounts = [an_account("a", limits=SLOW), an_account("b", "other", limits=FAST)]
        async with a_world(clock, *accounts) as world:
            tasks = backlog(world, LOOK_AHEAD // 2)
            await asyncio.sleep(2.0)
            began_s = clock.now_s
            for _ in range(5):
                await world.call(of_model("other", "b"), duration_s=0.0)

            assert clock.now_s - began_s < 0.5
            await stop(tasks)

    play(story)


def test_call_that_nobody_can_ever_serve_is_refused_at_once_behind_a_backlog() -> None:
    """It is not kept waiting for its turn to hear that."""

    async def story(clock: VirtualClock) -> None:
        accounts = [an_account("a", limits=SLOW), an_account("b", "other", limits=FAST)]
        async with a_world(clock, *accounts) as world:
            permit = await world.desks[0].acquire(of_model("other", "b"), timeout_s=1.0)
            world.fail(permit, UpstreamKind.DEAD_KEY)
            tasks = backlog(world, 100)
            await asyncio.sleep(3.0)
            began_s = clock.now_s
            with pytest.raises(CapacityError, match="refused by their provider"):
                await world.desks[0].acquire(of_model("other", "b"), timeout_s=60.0)

            assert clock.now_s - began_s < 1.0
            await stop(tasks)

    play(story)


def test_backlog_costs_few_messages_while_nothing_can_start() -> None:
    """An account whose bucket is empty is asked when its next start comes due, and now and then, not all the time."""

    async def story(clock: VirtualClock) -> None:
        async with a_world(clock, an_account("a", limits=LimitSpec(rpm=6, burst_ms=1_000))) as world:
            tasks = backlog(world, 200)
            await asyncio.sleep(60.0)
            starts, messages = len(world.starts), len(world.hosts.messages)
            await stop(tasks)

            assert starts >= 6
            assert messages <= 60 * 2 + 4 * starts

    play(story)


def test_calls_are_served_in_their_order_when_they_are_alike() -> None:
    """Being looked at, refused or asked for again gives nobody another place."""

    async def story(clock: VirtualClock) -> None:
        order: list[int] = []
        async with a_world(clock, an_account("a", limits=LimitSpec(rpm=300, burst_ms=1_000))) as world:

            async def one(number: int) -> None:
                with contextlib.suppress(asyncio.CancelledError):
                    await world.call(want("a"), timeout_s=600.0, duration_s=0.3)
                    order.append(number)

            await asyncio.gather(*(one(number) for number in range(100)))

            assert max(abs(place - number) for place, number in enumerate(order)) <= 5

    play(story)
