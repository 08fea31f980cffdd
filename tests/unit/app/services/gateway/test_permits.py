"""Permits never let holders exceed a limit together, waste next to nothing of it, and leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.chat import Usage
from app.domain.errors import GatewayError, UpstreamError, UpstreamKind
from app.domain.leases import PERMIT_VALID_S, PermitReport
from app.domain.limits import LimitSpec
from app.services.gateway.permits import Permit
from tests.effort import examples
from tests.fakes.permit_hosts import an_account
from tests.fakes.permit_world import World, a_world, play, want
from tests.fakes.virtual_time import VirtualClock

ROOMY = LimitSpec(rpm=6_000, concurrency=1_000, burst_ms=6_000)


def excess(starts: list[tuple[float, int]], *, per_min: float, burst_s: float, late_s: float) -> float:
    """Return by how much the worst interval exceeds ``per_min`` x (its length + burst + lateness), in units."""
    worst, total = float("-inf"), 0.0
    lowest = float("inf")
    # Largest sum over i..j of amounts minus rate x (t_j - t_i): a running minimum finds it in one pass.
    for at_s, amount in starts:
        lowest = min(lowest, total - per_min / 60 * at_s)
        total += amount
        worst = max(worst, total - per_min / 60 * at_s - lowest)
    return worst - max(1.0, per_min / 60 * burst_s) - per_min / 60 * late_s


@pytest.mark.parametrize("holders", [1, 3])
@pytest.mark.parametrize(
    ("spec", "tokens"),
    [
        (LimitSpec(rpm=300), 1),
        (LimitSpec(rpm=120, burst_ms=2_000), 1),
        (LimitSpec(tpm=30_000, burst_ms=2_000), 100),
        (LimitSpec(rpm=120, window="sliding"), 1),
        (LimitSpec(rpm=300, concurrency=5, burst_ms=3_000), 1),
    ],
    ids=["requests", "burst", "tokens", "window", "slots"],
)
def test_desks_use_a_limit_to_the_full_and_never_exceed_it_when_many_hammer_one_account(
    holders: int, spec: LimitSpec, tokens: int
) -> None:
    """Whoever holds permits: the account's window admits what it allows, at least 97 % of that is used, by all."""

    async def story(clock: VirtualClock) -> None:
        async with a_world(clock, an_account("a", limits=spec), desks=holders) as world:
            began_s, last_s = clock.now_s, 125.0 if spec.window == "sliding" else 31.0
            rate = spec.rpm or (spec.tpm or 0) / tokens
            running = running_max = 0
            served: Counter[int] = Counter({desk: 0 for desk in range(holders)})

            async def one(number: int) -> None:
                nonlocal running, running_max
                desk = number % holders
                while clock.now_s < began_s + last_s:
                    permit = await world.desks[desk].acquire(want(tokens=tokens), timeout_s=last_s)
                    world.starts.append((clock.now_s, "a", tokens))
                    served[desk] += 1
                    running += 1
                    running_max = max(running, running_max)
                    await asyncio.sleep(0.6 + 0.2 * (number % 3))
                    running -= 1
                    world.desks[desk].report(
                        permit,
                        PermitReport(
                            call_id=permit.call_id, ending="answered", usage=Usage(input_tokens=tokens, output_tokens=0)
                        ),
                    )

            await asyncio.gather(*(one(number) for number in range(int(rate / 60) + 30)))
            starts = [(at_s - began_s, tokens if spec.tpm else 1) for at_s, _account, _tokens in world.starts]
            limit = spec.rpm or spec.tpm or 0
            if spec.window == "sliding":
                assert max(sum(a for t, a in starts if s <= t < s + 60.0) for s, _a in starts) <= limit
            else:
                over = excess(starts, per_min=limit, burst_s=spec.burst_ms / 1e3, late_s=PERMIT_VALID_S)
                assert over <= 1e-6, over
            if spec.concurrency is not None:
                assert running_max <= spec.concurrency
            minutes = 2.0 if spec.window == "sliding" else (last_s - 1.0) / 60
            used = sum(amount for at_s, amount in starts if at_s < minutes * 60)
            assert used >= 0.97 * limit * minutes, used / limit / minutes
            assert min(served.values()) >= 0.5 * max(served.values()), served
            await world.settled()
            assert world.hosts.held == 0
            assert world.waiting == 0

    play(story)


steps = st.lists(
    st.tuples(
        st.sampled_from(["call"] * 4 + ["cancel"] * 2 + ["lose", "unheard", "kill", "bear", "hang"]),
        st.floats(0.0, 0.7),
        st.integers(0, 5),
    ),
    min_size=3,
    max_size=40,
)


class Storm:
    """Calls in any number, and everything that may happen to them."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.dice = random.Random(seed)
        self.calls: list[asyncio.Task[None]] = []
        self.fates: list[str] = []
        world.hosts.fate = lambda _host, _message: self.fates.pop() if self.fates else "fine"

    def step(self, what: str, number: int) -> None:
        hosts, host = self.world.hosts, f"account-{'ab'[number % 2]}"
        if what == "call":
            self.calls.extend(asyncio.create_task(self._call(each)) for each in range(number * 3 + 1))
        elif what == "cancel":
            for task in self.dice.sample(self.calls, min(len(self.calls), number + 1)):
                task.cancel()
        elif what in ("lose", "unheard"):
            self.fates.extend(["lost" if what == "lose" else "unheard"] * (number % 3 + 1))
        elif what == "hang":
            hosts.hanging.symmetric_difference_update({host})
        else:
            (hosts.kill if what == "kill" else hosts.bear)(host)

    async def end(self) -> None:
        """Let the weather clear, and every call end or be cancelled."""
        self.world.hosts.hanging.clear()
        self.fates.clear()
        for host in ("account-a", "account-b"):
            if not self.world.hosts.lives(host):
                self.world.hosts.bear(host)
        for task in self.calls:
            if self.dice.random() < 0.3:
                task.cancel()
        for task in self.calls:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _call(self, number: int) -> None:
        desk = self.world.desks[number % 2]
        wanted = want("a", "b", caller=str(number))
        with contextlib.suppress(GatewayError):
            permit = await desk.acquire(wanted, timeout_s=self.dice.choice([0.05, 0.5, 5.0, 30.0]))
            report = PermitReport(call_id=permit.call_id, ending="cancelled")
            try:
                await asyncio.sleep(self.dice.random() * 2)
                report = self._answer(permit)
            finally:
                desk.report(permit, report)

    def _answer(self, permit: Permit) -> PermitReport:
        kind = self.dice.choice([each for each in UpstreamKind if each is not UpstreamKind.DEAD_KEY])
        if self.dice.random() < 0.7:
            usage = Usage(input_tokens=10, output_tokens=0)
            return PermitReport(call_id=permit.call_id, ending="answered", usage=usage)
        error = UpstreamError("failed", kind=kind, retry_after_s=self.dice.choice([None, 0.3]))
        return PermitReport(call_id=permit.call_id, ending="failed", error=error)


@settings(max_examples=examples(40), deadline=None)
@given(steps, st.integers(0, 1_000_000))
def test_desks_leave_nothing_behind_whatever_happens(steps: list[tuple[str, float, int]], seed: int) -> None:
    """However calls, cancellations, failures, lost messages and deaths mix: at the end nothing is held or waits."""

    async def story(clock: VirtualClock) -> None:
        limits = LimitSpec(rpm=240, concurrency=6, burst_ms=4_000)
        accounts = [an_account(name, limits=limits) for name in "ab"]
        async with a_world(clock, *accounts, desks=2, delay_s=0.005) as world:
            storm = Storm(world, seed)
            for what, pause_s, number in steps:
                await asyncio.sleep(pause_s * storm.dice.choice([0.01, 0.1, 1.0]))
                storm.step(what, number)
            await storm.end()
            await asyncio.sleep(15.0)

            assert world.waiting == 0
            assert [desk.outstanding for desk in world.desks] == [0, 0]
            assert world.hosts.held == 0
            assert set(world.hosts.in_flight().values()) <= {0}

    play(story)


def test_desk_draws_equally_from_accounts_of_one_speed_when_one_of_them_had_the_long_answers() -> None:
    """Both generate 100 tokens a second; a whole call took ten times as long at the one that got the longer ones."""

    async def story(clock: VirtualClock) -> None:
        accounts = [an_account(name, limits=ROOMY) for name in ("long", "short")]
        async with a_world(clock, *accounts) as world:
            for _ in range(10):
                await world.call(want("long", output=1_000), duration_s=5.0, used=500)
                await world.call(want("short", output=1_000), duration_s=0.5, used=50)
            drawn = Counter[str]()
            for _ in range(60):
                served = [world.call(want("long", "short", output=1_000), duration_s=0.1, used=10) for _ in range(4)]
                drawn.update(permit.account for permit in await asyncio.gather(*served))

            assert drawn["long"] >= 0.4 * drawn.total()

    play(story)
