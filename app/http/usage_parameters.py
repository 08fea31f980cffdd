"""Turns what a client asks of usage, as text, into a question for the books; used by the routes and the command line.

Every refusal names the parameter. Times are instants in ISO 8601, days, or seconds since 1970.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from app.domain.books.usage import Dimension, Period, UsageQuery
from app.http.errors import HttpProblem

DAY_S = 86_400.0
DEFAULT_RANGE_S = 7 * DAY_S
SECONDS_MAX = 7_258_118_400.0
"""The year 2200; later is a slip, for instance milliseconds."""
VALUES_MAX = 200
VALUE_CHARS_MAX = 500
PERIODS = {Period.DAY.value: Period.DAY, Period.HOUR.value: Period.HOUR}
GROUPS = (*(each.value for each in Dimension), *PERIODS)
_SECONDS = re.compile(r"\d{1,12}(\.\d{1,9})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageParameters:
    """What was written, as it was written."""

    since: str | None = None
    until: str | None = None
    time_zone: str = "UTC"
    group_by: Sequence[str] = ()
    """Each may hold several, separated by commas."""
    filters: Mapping[Dimension, Sequence[str]] = field(default_factory=dict)


def read_query(parameters: UsageParameters, now_s: float) -> UsageQuery:
    """Return the question.

    Raises:
        HttpProblem: 422 with the name of the parameter that cannot be understood.
    """
    zone = _zone(parameters.time_zone)
    to_s = now_s if parameters.until is None else parse_instant(parameters.until, zone, "to")
    from_s = to_s - DEFAULT_RANGE_S if parameters.since is None else parse_instant(parameters.since, zone, "from")
    if to_s <= from_s:
        raise HttpProblem(
            422, "The range of time is empty: `to` is not after `from`.", param="to", remedy="Name a later end."
        )
    groups, period = _groups(parameters.group_by)
    return UsageQuery(
        from_s=from_s,
        to_s=to_s,
        period=period,
        time_zone=parameters.time_zone,
        group_by=groups,
        filters=tuple(
            (dimension, _values(dimension, found)) for dimension, found in parameters.filters.items() if found
        ),
    )


def parse_instant(text: str, zone: ZoneInfo, param: str) -> float:
    """Return an instant in seconds since 1970: a day begins in ``zone``, and times without an offset are its own.

    Raises:
        HttpProblem: 422, it is neither a time nor a day nor seconds.
    """
    if _SECONDS.fullmatch(text):
        found = float(text)
    else:
        try:
            moment = datetime.fromisoformat(text)
            found = (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC).timestamp()
        except (ValueError, OverflowError):
            raise _no_time(text, param) from None
    if not 0 <= found <= SECONDS_MAX:
        raise _no_time(text, param)
    return found


def _no_time(text: str, param: str) -> HttpProblem:
    return HttpProblem(
        422,
        f"`{param}` must be a time from 1970 to 2200; it is {text[:40]!r}.",
        param=param,
        remedy="Write for instance 2026-11-01, 2026-11-01T08:00:00+01:00, or seconds since 1970.",
    )


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        # Unknown is a KeyError, a path a ValueError, a directory ("Europe") an OSError.
        raise HttpProblem(
            422,
            f"There is no time zone {name[:40]!r}.",
            param="time_zone",
            remedy="Use an IANA name, for instance Europe/Berlin.",
        ) from None


def _groups(written: Sequence[str]) -> tuple[tuple[Dimension, ...], Period]:
    words = list(dict.fromkeys(word.strip() for item in written for word in item.split(",") if word.strip()))
    unknown = next((word for word in words if word not in GROUPS), None)
    if unknown is not None:
        raise HttpProblem(
            422,
            f"Usage cannot be grouped by {unknown[:40]!r}.",
            param="group_by",
            remedy=f"Use {', '.join(GROUPS)}, separated by commas.",
        )
    periods = [PERIODS[word] for word in words if word in PERIODS]
    if len(periods) > 1:
        raise HttpProblem(422, "Usage is grouped by hour or by day, not by both.", param="group_by", remedy="Keep one.")
    return tuple(Dimension(word) for word in words if word not in PERIODS), periods[0] if periods else Period.ALL


def _values(dimension: Dimension, found: Sequence[str]) -> tuple[str, ...]:
    values = tuple(dict.fromkeys(found))
    if len(values) > VALUES_MAX or any(len(value) > VALUE_CHARS_MAX for value in values):
        raise HttpProblem(
            422,
            f"`{dimension.value}` takes at most {VALUES_MAX} values of at most {VALUE_CHARS_MAX} characters.",
            param=dimension.value,
            remedy="Ask several times.",
        )
    return values
