"""Reads the rate-limit headers of a response into observations.

Pure. OpenAI-style headers carry Go durations, Anthropic's RFC 3339 times; DeepSeek and Gemini send none. What an
observation means for our own level is decided in ``app/domain/limiter``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from app.domain.chat import LimitObservation
from app.providers.retry_after import parse_delay_s

_Scope = Literal["requests", "tokens", "input_tokens", "output_tokens"]

# Spelled out once: these are looked up in every response.
_Names = tuple[_Scope, str, str, str]
"""What a limit is of, and the names of its headers: limit, remaining, reset."""


def _names(scope: _Scope, pattern: str) -> _Names:
    return scope, pattern.format("limit"), pattern.format("remaining"), pattern.format("reset")


_PRECISE: tuple[_Names, ...] = (
    _names("requests", "x-ratelimit-{}-requests"),
    _names("tokens", "x-ratelimit-{}-tokens"),
    _names("requests", "anthropic-ratelimit-requests-{}"),
    _names("input_tokens", "anthropic-ratelimit-input-tokens-{}"),
    _names("output_tokens", "anthropic-ratelimit-output-tokens-{}"),
)
_VAGUE = _names("tokens", "anthropic-ratelimit-tokens-{}")


def read_observations(headers: Mapping[str, str], *, now_s: float) -> tuple[LimitObservation, ...]:
    """Return one observation per limit that ``headers`` speak of.

    Args:
        headers: Of the response, names in lower case or case-insensitive.
        now_s: Wall clock, seconds since the epoch.
    """
    found = [seen for names in _PRECISE if (seen := _observation(names, headers, now_s)) is not None]
    # Anthropic's plain "tokens" restates whichever token limit is tightest, so it may be an input or an output limit:
    # it is read only where neither of those is there.
    if not any(seen.scope in ("input_tokens", "output_tokens") for seen in found):
        vague = _observation(_VAGUE, headers, now_s)
        if vague is not None:
            found.append(vague)
    return tuple(found)


def exhausted_reset_s(observations: tuple[LimitObservation, ...]) -> float | None:
    """Return when the last of the limits with nothing remaining is full again, in seconds; None where none is."""
    return max(
        (seen.reset_s for seen in observations if seen.remaining == 0 and seen.reset_s is not None), default=None
    )


def _observation(names: _Names, headers: Mapping[str, str], now_s: float) -> LimitObservation | None:
    scope, limit_name, remaining_name, reset_name = names
    limit, remaining = _whole(headers.get(limit_name)), _whole(headers.get(remaining_name))
    if limit is None and remaining is None:
        return None
    reset = headers.get(reset_name)
    reset_s = None if reset is None else parse_delay_s(reset, now_s=now_s)
    return LimitObservation(scope=scope, limit=limit, remaining=remaining, reset_s=reset_s)


def _whole(text: str | None) -> int | None:
    if text is None:
        return None
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
