"""What a desk does while every account refuses: it asks few, tells the truth, and goes on by itself afterwards."""

from __future__ import annotations

import asyncio

import pytest

from app.domain.errors import CapacityError, UpstreamKind
from app.domain.limits import LimitSpec
from tests.fakes.permit_hosts import an_account
from tests.fakes.permit_world import World, a_world, play, want
from tests.fakes.virtual_time import VirtualClock

RATELESS = LimitSpec(concurrency=64)
CALLERS = 30
KINDS = [UpstreamKind.MINUTE_LIMIT, UpstreamKind.OVERLOADED]


async def ask_until(world: World, clock: VirtualClock, *, ends_s: float, kind: UpstreamKind) -> None:
    """Ask, as one client after another that waits for its turn; until ``ends_s`` the provider refuses."""
    while True:
        try:
            permit = await world.desks[0].acquire(want("a", "b"), timeout_s=120.0)
        except CapacityError:
            await asyncio.sleep(1.0)
            continue
        world.starts.append((clock.now_s, permit.account, 10))
        await asyncio.sleep(0.05)
        if clock.now_s >= ends_s:
            world.succeed(permit)
            return
        world.fail(permit, kind, retry_after_s=2.0)


@pytest.mark.parametrize("kind", KINDS)
def test_desk_does_not_feed_a_storm_and_recovers_from_it(kind: UpstreamKind) -> None:
    """Who was refused again after its own time is asked one call at a time; one that succeeds opens it to all."""

    async def story(clock: VirtualClock) -> None:
        async with a_world(clock, an_account("a", limits=RATELESS), an_account("b", limits=RATELESS)) as world:
            began_s = clock.now_s
            ends_s = began_s + 60.0
            clients = [asyncio.create_task(ask_until(world, clock, ends_s=ends_s, kind=kind)) for _ in range(CALLERS)]
            await asyncio.sleep(60.0)
            refused = len(world.starts)
            await asyncio.gather(*clients)
            took_s = clock.now_s - ends_s

            # A wave, one more that every account refuses, then one call per account at the end of ever longer pauses.
            assert refused <= 3 * CALLERS + 2 * 10
            assert took_s < 70.0

    play(story)


def test_desk_tells_when_an_account_that_is_being_tried_may_serve() -> None:
    """While one call tries it, nobody is told to come back when that try would be given up for lost."""

    async def story(clock: VirtualClock) -> None:
        async with a_world(clock, an_account("a", limits=RATELESS)) as world:
            for _ in range(8):
                permit = await world.desks[0].acquire(want(), timeout_s=120.0)
                world.fail(permit, UpstreamKind.OVERLOADED)
            probe = await world.desks[0].acquire(want(), timeout_s=300.0)
            with pytest.raises(CapacityError) as refusal:
                await world.desks[0].acquire(want(), timeout_s=1.0)
            world.succeed(probe)
            permit = await world.desks[0].acquire(want(), timeout_s=10.0)
            world.succeed(permit)

            assert 0 < (refusal.value.retry_after_s or 0.0) <= 60.0

    play(story)
