"""A burst over a pool of unequal accounts is nearly as fast as their limits allow, and waiting costs few messages."""

from __future__ import annotations

import asyncio
import random
from typing import Literal

import pytest

from app.domain.accounts import AccountSpec
from app.domain.chat import Usage
from app.domain.leases import PermitReport
from app.domain.limits import LimitSpec
from app.services.gateway.gateway import OUTPUT_TOKENS_DEFAULT
from app.simulator.config import Limits
from app.simulator.limits import Demand, Quota
from benchmarks.fluid_bound import Supply, fluid_bound_s
from tests.fakes.permit_hosts import an_account
from tests.fakes.permit_world import a_world, play, want
from tests.fakes.virtual_time import VirtualClock

CALLS = 400
BURST_S = 5.0
CALL_S = 0.3
LIMITS = {"a": (600, 160_000), "b": (320, 320_000), "c": (160, 240_000), "d": (80, 240_000)}
"""Requests and tokens a minute."""


def sizes() -> list[tuple[int, int]]:
    """Return input and output tokens: a third each of small, middle and large calls, in mixed order."""
    chance = random.Random(7)
    kinds = [((40, 240), (100, 300)), ((240, 800), (300, 900)), ((600, 1_600), (700, 1_500))]
    made = [(chance.randint(*kinds[n % 3][0]), chance.randint(*kinds[n % 3][1])) for n in range(CALLS)]
    chance.shuffle(made)
    return made


def supply(seconds: float) -> list[Supply]:
    spans = (seconds + BURST_S) / 60
    return [Supply(requests=rpm * spans, tokens=tpm * spans) for rpm, tpm in LIMITS.values()]


def account(name: str, rpm: int, tpm: int, charge: Literal["max_tokens", "used"]) -> AccountSpec:
    return an_account(name, limits=LimitSpec(rpm=rpm, tpm=tpm, burst_ms=int(BURST_S * 1e3), charge=charge))


@pytest.mark.parametrize("replicas", [1, 2])
def test_burst_over_a_pool_takes_little_longer_than_its_limits_allow(replicas: int) -> None:
    """Each account gets the sizes that suit it, is asked when its start is due, and is never asked for too much."""

    async def story(clock: VirtualClock) -> None:
        accounts = [account(name, rpm, tpm, "max_tokens") for name, (rpm, tpm) in LIMITS.items()]
        async with a_world(clock, *accounts, desks=replicas) as world:
            began_s, work = clock.now_s, sizes()

            async def one(number: int, input_tokens: int, output_tokens: int) -> None:
                wanted = want(*LIMITS, tokens=input_tokens, output=output_tokens)
                await world.call(wanted, desk=number % replicas, duration_s=CALL_S, timeout_s=600.0)

            await asyncio.gather(*(one(number, *size) for number, size in enumerate(work)))
            makespan_s = clock.now_s - began_s

            bound_s = fluid_bound_s([sum(size) for size in work], supply) + CALL_S
            assert makespan_s / bound_s <= 1.03
            starts = sorted(world.starts)
            for name, (rpm, tpm) in LIMITS.items():
                own = [(at_s - began_s, tokens) for at_s, account, tokens in starts if account == name]
                for first, (from_s, _tokens) in enumerate(own):
                    requests = used = 0
                    for at_s, tokens in own[first:]:
                        requests, used = requests + 1, used + tokens
                        span = (at_s - from_s + BURST_S + 0.01) / 60
                        assert requests <= rpm * span
                        assert used <= tpm * span
            assert len(world.hosts.messages) <= (1.6 if replicas == 1 else 3.5) * CALLS

    play(story)


def test_burst_of_unknown_lengths_is_never_refused_and_nearly_as_fast_as_inputs_alone_allow() -> None:
    """What is reserved and not generated is used at once; the provider, which counts output when it is there, has room.

    The provider is the simulator's own accounting, with buckets of a second more. Nobody who does not know lengths can
    beat the bound in the mean: there, all answers have the mean length.
    """

    async def story(clock: VirtualClock) -> None:
        accounts = [account(name, rpm, tpm, "used") for name, (rpm, tpm) in LIMITS.items()]
        quotas = {
            name: Quota(Limits(rpm=rpm, tpm=tpm, burst_s=BURST_S + 1.0, charge="used"), wall_offset_ns=0)
            for name, (rpm, tpm) in LIMITS.items()
        }
        chance = random.Random(8)
        work = [(size[0], max(20, int(chance.lognormvariate(6.217, 0.6)))) for size in sizes()]
        refused = []
        async with a_world(clock, *accounts) as world:
            desk, began_s = world.desks[0], clock.now_s

            async def one(input_tokens: int, output_tokens: int) -> None:
                wanted = want(*LIMITS, tokens=input_tokens, output=OUTPUT_TOKENS_DEFAULT)
                permit = await desk.acquire(wanted, timeout_s=600.0)
                quota = quotas[permit.account]
                demand = Demand(input_tokens=input_tokens, uncached_input_tokens=input_tokens, output_tokens=0)
                refusal = quota.admit(demand, clock.monotonic_ns())
                if refusal is not None:
                    refused.append(refusal)
                await asyncio.sleep(CALL_S)
                quota.settle(output_tokens, clock.monotonic_ns())
                usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
                report = PermitReport(call_id=permit.call_id, ending="answered", usage=usage, duration_s=CALL_S)
                desk.report(permit, report)

            await asyncio.gather(*(one(*size) for size in work))
            makespan_s = clock.now_s - began_s

        assert refused == []
        mean = sum(output for _input, output in work) / CALLS
        bound_s = fluid_bound_s([input_tokens + mean for input_tokens, _output in work], supply) + CALL_S
        assert makespan_s / bound_s <= 1.05

    play(story)
