"""Reads how long a provider asks us to wait, in every spelling seen.

Seconds ("30", "1.5"), Go durations ("6m0s", "12ms"), RetryInfo ("38.2s"), HTTP dates, RFC 3339 times, the headers
``retry-after``, ``retry-after-ms`` and ``x-should-retry``, and OpenAI's "try again in 7.66s" in a message. Pure: the
wall clock is an argument. Where several disagree the longest counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

DELAY_S_MAX = 32 * 86_400.0
"""Longer waits are a mistake of the sender; they are cut to this."""

_UNITS_S = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = r"\d+(?:\.\d+)?(?:ms|us|µs|ns|d|h|m|s)"
_DURATION = re.compile(rf"(?:{_PART})+")
_PARTS = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|d|h|m|s)")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_IN_MESSAGE = re.compile(rf"(?:try again|retry) in ((?:{_PART})+)", re.IGNORECASE)


def parse_delay_s(text: str, *, now_s: float) -> float | None:
    """Return the delay that ``text`` spells, in seconds of at least 0; None where it spells none.

    Args:
        text: A header's or field's value.
        now_s: Wall clock, seconds since the epoch; times of day are relative to it.
    """
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return _bounded(float(text))
    if _DURATION.fullmatch(text):
        return _bounded(sum(float(amount) * _UNITS_S[unit] for amount, unit in _PARTS.findall(text)))
    moment = _parse_time(text)
    return None if moment is None else _bounded(moment.timestamp() - now_s)


def retry_after_s(
    headers: Mapping[str, str], *, now_s: float, retry_delay: str | None = None, message: str = ""
) -> float | None:
    """Return how long the provider asks to wait, in seconds; None where it does not say.

    Args:
        headers: Of the response, names in lower case or case-insensitive.
        now_s: Wall clock, seconds since the epoch.
        retry_delay: Google's ``RetryInfo.retryDelay``.
        message: The error's text; read for "try again in …" only.
    """
    found = [parse_delay_s(headers.get("retry-after", ""), now_s=now_s)]
    milliseconds = parse_delay_s(headers.get("retry-after-ms", "") + "ms", now_s=now_s)
    found += [milliseconds, parse_delay_s(retry_delay or "", now_s=now_s)]
    spoken = _IN_MESSAGE.search(message)
    if spoken is not None:
        found.append(parse_delay_s(spoken.group(1), now_s=now_s))
    return max((delay for delay in found if delay is not None), default=None)


def should_retry(headers: Mapping[str, str]) -> bool | None:
    """Return what ``x-should-retry`` says; None where it is absent."""
    return {"true": True, "false": False}.get(headers.get("x-should-retry", "").strip().lower())


def _parse_time(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
        except ValueError:
            return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _bounded(delay_s: float) -> float:
    return min(max(delay_s, 0.0), DELAY_S_MAX) if math.isfinite(delay_s) else DELAY_S_MAX
