"""Limits are worth to a backlog what they delay it."""

from __future__ import annotations

import random

import pytest

from app.domain.worth import Group, Limit, LimitKey, Shop, Worths
from benchmarks.fluid_bound import Supply, fluid_bound_s

RICH, SMALL = (1.0, 4_000.0), (6.0, 3_000.0)
"""Requests and tokens a second: one is short of requests, the other of tokens."""


def shop(name: str, requests_per_s: float, tokens_per_s: float) -> Shop:
    requests = Limit(
        key=(name, "m", "requests"), level=0.0, rate_per_s=requests_per_s, of_requests=1.0, of_input=0.0, of_output=0.0
    )
    tokens = Limit(
        key=(name, "m", "tokens"), level=0.0, rate_per_s=tokens_per_s, of_requests=0.0, of_input=1.0, of_output=1.0
    )
    return Shop(limits=(requests, tokens))


def key(name: str, kind: str) -> LimitKey:
    return name, "m", kind


def cost(worths: Worths, name: str, rates: tuple[float, float], tokens: float) -> float:
    """Return by how many seconds a call delays the backlog if it goes there."""
    return worths.of(key(name, "requests")) / rates[0] + worths.of(key(name, "tokens")) * tokens / rates[1]


def appraised(sizes: list[tuple[float, float]], waiting: int, rounds: int = 4) -> Worths:
    worths = Worths()
    group = Group(shops=(shop("rich", *RICH), shop("small", *SMALL)), sizes=tuple(sizes))
    for _ in range(rounds):
        worths.appraise([group], waiting)
    return worths


def test_worths_keep_requests_for_those_who_need_tokens_and_cost_those_who_are_shared_the_same() -> None:
    """Half the calls have 100 tokens: they leave the scarce requests to the others, which have to be shared."""
    worths = appraised([(100.0, 0.0), (1_500.0, 500.0)] * 50, 100)

    assert cost(worths, "small", SMALL, 100) < cost(worths, "rich", RICH, 100) / 5
    assert cost(worths, "small", SMALL, 2_000) == pytest.approx(cost(worths, "rich", RICH, 2_000), rel=0.15)


@pytest.mark.parametrize("seed", range(4))
def test_worths_of_all_limits_explain_nearly_the_whole_length_of_a_backlog(seed: int) -> None:
    """Strong duality: where every call goes where it costs least, the costs add up to the shortest possible end."""
    chance = random.Random(seed)
    sizes = [(float(chance.randint(50, 2_000)), float(chance.randint(50, 1_500))) for _ in range(200)]
    worths = appraised(sizes, 200)
    supplies = {"rich": RICH, "small": SMALL}

    told_s = sum(min(cost(worths, name, rates, sum(size)) for name, rates in supplies.items()) for size in sizes)
    bound_s = fluid_bound_s(
        [sum(size) for size in sizes],
        lambda seconds: [Supply(requests=rates[0] * seconds, tokens=rates[1] * seconds) for rates in supplies.values()],
    )

    assert 0.97 * bound_s <= told_s <= 1.001 * bound_s


def test_worth_of_a_limit_that_is_not_short_is_next_to_nothing() -> None:
    """A call may take freely what nobody misses."""
    worths = appraised([(1_000.0, 0.0)] * 60, 60)

    assert worths.of(key("small", "requests")) < 0.01


def test_worths_are_forgotten_when_nobody_waits() -> None:
    """An empty backlog values nothing."""
    worths = appraised([(1_000.0, 0.0)] * 60, 60)
    worths.appraise([], 0)

    assert worths.of(key("small", "tokens")) == 0.0


def test_worths_come_back_when_the_backlog_changes() -> None:
    """The last solution is where the search begins, not where it ends."""
    worths = appraised([(1_500.0, 500.0)] * 60, 60)
    small_calls = Group(shops=(shop("rich", *RICH), shop("small", *SMALL)), sizes=((10.0, 0.0),) * 60)
    for _ in range(8):
        worths.appraise([small_calls], 60)

    assert worths.of(key("small", "requests")) > 0.4
    assert worths.of(key("small", "tokens")) < 0.1
