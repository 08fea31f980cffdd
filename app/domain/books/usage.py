"""What is asked of stored usage: a time range, filters, groups; and the periods that a range falls into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from app.domain.books.money import usd_from_nano
from app.domain.books.sums import HOUR_S, SUMS, Sums
from app.domain.errors import RequestError

PERIODS_MAX = 3_000
"""Four months of hours, eight years of days: more is a mistake in the range."""
ROWS_MAX = 100_000


class Dimension(StrEnum):
    """By what usage can be filtered and grouped."""

    TENANT = "tenant"
    TEAM = "team"
    USER = "user"
    KEY = "key"
    MODEL = "model"
    ACCOUNT = "account"
    PROVIDER = "provider"
    TASK_TYPE = "task_type"
    ENDING = "ending"
    RUN = "run"


class Period(StrEnum):
    """Into which stretches of time a range is cut."""

    ALL = "all"
    DAY = "day"
    HOUR = "hour"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """One question about usage."""

    from_s: float
    """First instant, in seconds since 1970."""
    to_s: float
    """First instant that is outside again."""
    period: Period = Period.ALL
    time_zone: str = "UTC"
    """IANA name; days begin there, hours are named in it."""
    group_by: tuple[Dimension, ...] = ()
    filters: tuple[tuple[Dimension, tuple[str, ...]], ...] = ()
    """Dimensions, each with the values that count; an empty value means "none"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """Sums of one group in one period."""

    period: str
    """Day or hour as ISO text in the query's time zone; empty for the whole range."""
    group: tuple[str, ...]
    """Values in the order of ``group_by``."""
    calls: int
    unpriced: int
    """Of the calls, those whose cost is unknown: ``cost_nano`` is too low by them."""
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    """Included in ``input_tokens``."""
    cache_write_tokens: int
    """Included in ``input_tokens``."""
    cache_write_1h_tokens: int
    """Included in ``cache_write_tokens``."""
    reasoning_tokens: int
    """Included in ``output_tokens``."""
    cost_nano: int
    savings_nano: int
    duration_ms: int
    """Of all calls together."""


Stretch: TypeAlias = tuple[str, float, float]
"""Its name, first instant, first instant after it."""


def row_of(period: str, group: tuple[str, ...], sums: Sums) -> UsageRow:
    """Return sums as a row."""
    return UsageRow(period=period, group=group, **dict(zip(SUMS, sums, strict=True)))


def stretches(query: UsageQuery) -> list[Stretch]:
    """Return the stretches of the range in order; the first and last may be cut short by it.

    Raises:
        RequestError: there is no such time zone, the range is empty, or there would be too many stretches.
    """
    if query.to_s <= query.from_s:
        raise RequestError("the range of time is empty", param="to", remedy="name a later end")
    try:
        zone = ZoneInfo(query.time_zone)
    except (ZoneInfoNotFoundError, ValueError):
        raise RequestError(
            f"there is no time zone {query.time_zone!r}", param="time_zone", remedy="use an IANA name: Europe/Berlin"
        ) from None
    if query.period is Period.ALL:
        return [("", query.from_s, query.to_s)]
    found: list[Stretch] = []
    start = query.from_s
    while start < query.to_s:
        if len(found) == PERIODS_MAX:
            raise RequestError(
                f"the range has more than {PERIODS_MAX} periods",
                param="from",
                remedy="ask for days, or a shorter range",
            )
        name, end = _stretch_at(query.period, zone, start)
        found.append((name, start, min(end, query.to_s)))
        start = end
    return found


def whole_hours(from_s: float, to_s: float) -> tuple[int, int]:
    """Return the whole hours inside as (first, first after); equal or reversed where there are none."""
    return -int(-from_s // HOUR_S), int(to_s // HOUR_S)


def csv_rows(query: UsageQuery, rows: Sequence[UsageRow]) -> Iterator[tuple[str, ...]]:
    """Yield a head and one line of cells a row; money in dollars."""
    figures = [name for name in SUMS if not name.endswith("_nano")]
    yield ("period", *(one.value for one in query.group_by), *figures, "cost_usd", "savings_usd")
    for row in rows:
        yield (
            *(row.period, *row.group, *(str(getattr(row, name)) for name in figures)),
            *(usd_from_nano(row.cost_nano), usd_from_nano(row.savings_nano)),
        )


def _stretch_at(period: Period, zone: ZoneInfo, at_s: float) -> tuple[str, float]:
    """Return the name of the stretch that ``at_s`` lies in, and its end."""
    local = datetime.fromtimestamp(at_s, zone)
    if period is Period.DAY:
        after = local.date() + timedelta(days=1)
        end = datetime(after.year, after.month, after.day, tzinfo=zone).astimezone(UTC).timestamp()
        return local.date().isoformat(), end
    # Local hours begin with UTC's but for zones that are half or quarter hours off, and name the offset: in autumn one
    # hour comes twice.
    offset_s = (local.utcoffset() or timedelta()).total_seconds()
    end = ((at_s + offset_s) // HOUR_S + 1) * HOUR_S - offset_s
    return local.replace(minute=0, second=0, microsecond=0).isoformat(), end
