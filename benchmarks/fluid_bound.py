"""How fast requests of known size could pass a pool of keys, each short of requests and of tokens, if they were fluid.

The bound is a linear program: split every request over the keys so that no key admits more requests or tokens than its
full bucket and its refill until T; the smallest T that fits is the bound. It is solved from below, by its dual: a price
on every key's requests and tokens; each request goes where it is cheapest, and what all of them then cost, in units of
what there is, is never more than the true load. Any prices give a valid bound; the search only makes it tight (the
primal solution that falls out of it agrees within a percent). Requests are indivisible and buckets refill while nobody
knows what comes: the optimum is above, unknown where.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

ROUNDS = 8
STEPS = 300
FIRST_STEP = 0.25
HALVINGS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """What one key admits until some moment."""

    requests: float
    tokens: float


def fluid_bound_s(sizes: Sequence[float], supply: Callable[[float], Sequence[Supply]]) -> float:
    """Return the moment before which nobody can have admitted all requests, in seconds from the start.

    Args:
        sizes: Tokens of every request.
        supply: What every key admits until a moment in seconds; never falling.
    """
    ordered = sorted(sizes)
    if not ordered:
        return 0.0
    logs = [0.0] * (2 * len(supply(0.0)))
    low_s, high_s = 0.0, 1.0
    while _is_too_much(ordered, supply(high_s), logs):
        low_s, high_s = high_s, 2 * high_s
    for _ in range(HALVINGS):
        middle_s = (low_s + high_s) / 2
        if _is_too_much(ordered, supply(middle_s), logs):
            low_s = middle_s
        else:
            high_s = middle_s
    return low_s


def _is_too_much(sizes: Sequence[float], supplies: Sequence[Supply], best_logs: list[float]) -> bool:
    """Tell whether some prices prove that the fullest limit must admit more than there is.

    Args:
        sizes: Ascending.
        supplies: By key.
        best_logs: Logarithms of the best prices so far, where the search begins; replaced by better ones.
    """
    prefix = [0.0, *itertools.accumulate(sizes)]
    keys = len(supplies)
    amounts = [each.requests for each in supplies] + [each.tokens for each in supplies]
    best, step = 0.0, FIRST_STEP
    for _ in range(ROUNDS):
        logs = list(best_logs)
        for _ in range(STEPS):
            top = max(logs)
            weights = [math.exp(each - top) for each in logs]
            total = sum(weights)
            prices = [weight / total / amount for weight, amount in zip(weights, amounts, strict=True)]
            used = _cheapest(sizes, prefix, prices[:keys], prices[keys:])
            cost = sum(price * units for price, units in zip(prices, used, strict=True))
            if cost > best:
                best, best_logs[:] = cost, logs
            if best > 1.0:
                return True
            loads = [units / amount for units, amount in zip(used, amounts, strict=True)]
            scale = step / max(loads)
            logs = [log + scale * load for log, load in zip(logs, loads, strict=True)]
        step /= 2
    return False


def _cheapest(
    sizes: Sequence[float], prefix: Sequence[float], request_prices: Sequence[float], token_prices: Sequence[float]
) -> list[float]:
    """Send each request to its cheapest key; return requests by key, then tokens by key.

    The cost of a size is a line for each key, so the cheapest changes a few times at most as sizes grow.
    """
    keys = range(len(request_prices))
    requests, tokens = [0.0] * len(keys), [0.0] * len(keys)
    now, start = min(keys, key=lambda key: (request_prices[key], token_prices[key])), 0
    while True:
        crossings = [
            ((request_prices[key] - request_prices[now]) / (token_prices[now] - token_prices[key]), key)
            for key in keys
            if token_prices[key] < token_prices[now]
        ]
        size, after = min(crossings, default=(math.inf, now))
        stop = max(start, bisect.bisect_left(sizes, size))
        requests[now] += stop - start
        tokens[now] += prefix[stop] - prefix[start]
        if not crossings:
            return [*requests, *tokens]
        now, start = after, stop
