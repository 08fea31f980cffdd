"""What each limit is worth to the calls that wait: found by trying how they would share the accounts.

A backlog is a linear program: split the calls over the accounts so that the limit that takes longest takes as short as
possible. Its dual gives every limit a worth: the seconds by which the end of the backlog moves when a second of that
limit's supply is taken away. A limit that is not short is worth nothing. Solved step by step, from the last solution
on: each class of calls goes where it costs least; what then takes longer than the mean gains worth, the rest loses it.

Pure; ``placement`` asks. A level says little of what its limit is worth: a bucket that holds three requests goes up and
down with every call.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

STEPS = 48
STEP, STEP_HALVED_AFTER = 0.5, 20
CLASSES = 24
"""Calls of similar size are one class; so many in all groups."""
GROUPS = 6
"""So many groups of calls that may go to the same accounts, the largest; what they find holds for the others too."""
FLOOR = -8.0
"""Logarithm of the least worth, relative to the greatest: so that it may come back."""

LimitKey = tuple[str, str, str]
"""Scope, model, kind of limit."""
Size = tuple[float, float]
"""Input and output tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One limit of a shop."""

    key: LimitKey
    level: float
    rate_per_s: float
    """Positive."""
    of_requests: float
    of_input: float
    of_output: float
    """What a call takes of it: the sum of its requests, input and output, each times 0 or 1."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shop:
    """Where calls may go: the limits of one account or quota group, for one model."""

    limits: tuple[Limit, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Calls that may go to the same shops."""

    shops: tuple[Shop, ...]
    sizes: tuple[Size, ...]


class Worths:
    """The worth of every limit, kept from one backlog to the next.

    Not thread-safe: one event loop.
    """

    def __init__(self) -> None:
        self._logs: dict[LimitKey, float] = {}
        self._found: dict[LimitKey, float] = {}

    def of(self, key: LimitKey) -> float:
        """Return the seconds by which the backlog ends later when a second's supply is taken; all together make 1."""
        return self._found.get(key, 0.0)

    def appraise(self, groups: Collection[Group], waiting: int) -> None:
        """Find the worths anew.

        Args:
            groups: The calls that were looked at.
            waiting: How many wait in all: as many more, of the same kinds.
        """
        largest = sorted(groups, key=lambda group: -len(group.sizes))[:GROUPS]
        seen = sum(len(group.sizes) for group in largest)
        if not seen:
            self._found = {}
            return
        classes = [
            (count * waiting / seen, size, group.shops)
            for group in largest
            for count, size in _classes(group.sizes, max(2, round(CLASSES * len(group.sizes) / seen)))
        ]
        limits = {limit.key: limit for _count, _size, shops in classes for shop in shops for limit in shop.limits}
        if not limits:
            self._found = {}
            return
        logs = {key: self._logs.get(key, 0.0) for key in limits}
        means = dict.fromkeys(limits, 0.0)
        for number in range(STEPS):
            worths = _shares(logs)
            loads = _loads(classes, worths)
            needs = {key: (loads[key] - each.level) / each.rate_per_s for key, each in limits.items()}
            typical_s = sum(worths[key] * needs[key] for key in limits)
            step = STEP / (1 + number / STEP_HALVED_AFTER) / max(1.0, typical_s)
            top = max(logs.values())
            for key, need_s in needs.items():
                moved = logs[key] + max(-STEP, min(STEP, step * (need_s - typical_s)))
                logs[key] = max(top + FLOOR, moved)
                if 2 * number >= STEPS:
                    means[key] += logs[key] * 2 / STEPS
        self._logs = {key: log - max(logs.values()) for key, log in logs.items()}
        self._found = _shares(means)


def _shares(logs: dict[LimitKey, float]) -> dict[LimitKey, float]:
    top = max(logs.values())
    weights = {key: math.exp(log - top) for key, log in logs.items()}
    total = sum(weights.values())
    return {key: weight / total for key, weight in weights.items()}


def _classes(sizes: Sequence[Size], count: int) -> list[tuple[int, Size]]:
    """Return groups of about as many calls of similar size, each as its count and mean size."""
    ordered = sorted(sizes, key=sum)
    found = []
    for number in range(count):
        part = ordered[len(ordered) * number // count : len(ordered) * (number + 1) // count]
        if part:
            mean = sum(each[0] for each in part) / len(part), sum(each[1] for each in part) / len(part)
            found.append((len(part), mean))
    return found


def _loads(
    classes: Sequence[tuple[float, Size, tuple[Shop, ...]]], worths: dict[LimitKey, float]
) -> dict[LimitKey, float]:
    """Send every class where it costs least; return what is then taken of each limit."""
    costs: dict[Shop, tuple[float, float, float]] = {}
    taken: dict[Shop, list[float]] = {}
    for count, (input_tokens, output_tokens), shops in classes:
        cheapest, least = shops[0], math.inf
        for shop in shops:
            cost = costs.get(shop)
            if cost is None:
                cost = costs[shop] = _unit_costs(shop, worths)
            price = cost[0] + cost[1] * input_tokens + cost[2] * output_tokens
            if price < least:
                cheapest, least = shop, price
        sums = taken.setdefault(cheapest, [0.0, 0.0, 0.0])
        sums[0] += count
        sums[1] += count * input_tokens
        sums[2] += count * output_tokens
    loads: defaultdict[LimitKey, float] = defaultdict(float)
    for shop, (requests, inputs, outputs) in taken.items():
        for limit in shop.limits:
            loads[limit.key] += limit.of_requests * requests + limit.of_input * inputs + limit.of_output * outputs
    return loads


def _unit_costs(shop: Shop, worths: dict[LimitKey, float]) -> tuple[float, float, float]:
    """Return what a request, a token of input and one of output cost there."""
    prices = [(limit, worths[limit.key] / limit.rate_per_s) for limit in shop.limits]
    return (
        sum(price * limit.of_requests for limit, price in prices),
        sum(price * limit.of_input for limit, price in prices),
        sum(price * limit.of_output for limit, price in prices),
    )
