"""What of an entry is added up, and by what: one definition for the ledger, the sums by hour and their checks."""

from __future__ import annotations

from typing import TypeAlias

from app.domain.books.entries import Ending, UsageEntry

DIMENSIONS = ("tenant", "team", "user", "key", "model", "account", "provider", "task_type", "ending")
"""By what sums are kept, beside the hour."""

SUMS = (
    "calls",
    "unpriced",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
    "cost_nano",
    "savings_nano",
    "duration_ms",
)
"""What is added up; ``unpriced`` counts the calls whose cost is unknown."""

Sums: TypeAlias = tuple[int, ...]
"""In the order of ``SUMS``; of a correction they are differences."""

_INPUT, _OUTPUT, _COST = SUMS.index("input_tokens"), SUMS.index("output_tokens"), SUMS.index("cost_nano")

HOUR_S = 3_600
HOURS_PER_DAY = 24


def dimensions_of(entry: UsageEntry) -> tuple[str, ...]:
    """Return the entry's place in the sums, in the order of ``DIMENSIONS``."""
    owners = entry.owners
    return (
        *(owners.tenant, owners.team, owners.user, owners.key),
        *(entry.model, entry.account, entry.provider, entry.task_type, entry.ending.value),
    )


def sums_of(entry: UsageEntry) -> Sums:
    """Return what the entry adds; an answer out of the cache adds a call, its savings and nothing that was bought."""
    duration_ms = round(entry.duration_s * 1_000)
    if entry.ending is Ending.CACHE_HIT:
        return (1, 0, 0, 0, 0, 0, 0, 0, 0, entry.savings_nano, duration_ms)
    usage = entry.usage
    return (
        1,
        int(entry.cost_nano is None),
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        usage.cache_write_1h_tokens,
        usage.reasoning_tokens,
        entry.cost_nano or 0,
        entry.savings_nano,
        duration_ms,
    )


def charged_nano(sums: Sums) -> int:
    """Return what is owed."""
    return sums[_COST]


def charged_tokens(sums: Sums) -> int:
    """Return the tokens that count against budgets: input and output together."""
    return sums[_INPUT] + sums[_OUTPUT]


def hour_of(at_s: float) -> int:
    """Return the hour since 1970 that ``at_s`` lies in."""
    return int(at_s // HOUR_S)


def day_of(hour: int) -> int:
    """Return the day since 1970, in UTC, that an hour since 1970 lies in."""
    return hour // HOURS_PER_DAY
