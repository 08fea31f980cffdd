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

_OPENAI: tuple[_Scope, ...] = ("requests", "tokens")
_ANTHROPIC: tuple[_Scope, ...] = ("requests", "input_tokens", "output_tokens")


def read_observations(headers: Mapping[str, str], *, now_s: float) -> tuple[LimitObservation, ...]:
    """Return one observation per limit that ``headers`` speak of.

    Args:
        headers: Of the response, names in lower case or case-insensitive.
        now_s: Wall clock, seconds since the epoch.
    """
    found = [_observation(scope, headers, f"x-ratelimit-{{}}-{scope}", now_s) for scope in _OPENAI]
    for scope in _ANTHROPIC:
        found.append(_observation(scope, headers, f"anthropic-ratelimit-{scope.replace('_', '-')}-{{}}", now_s))
    # Anthropic's plain "tokens" restates whichever token limit is tightest, so it may be an input or an output limit:
    # it is read only where neither of those is there.
    if not any(seen is not None and seen.scope in ("input_tokens", "output_tokens") for seen in found):
        found.append(_observation("tokens", headers, "anthropic-ratelimit-tokens-{}", now_s))
    return tuple(seen for seen in found if seen is not None)


def exhausted_reset_s(observations: tuple[LimitObservation, ...]) -> float | None:
    """Return when the last of the limits with nothing remaining is full again, in seconds; None where none is."""
    return max(
        (seen.reset_s for seen in observations if seen.remaining == 0 and seen.reset_s is not None), default=None
    )


def _observation(scope: _Scope, headers: Mapping[str, str], name: str, now_s: float) -> LimitObservation | None:
    limit = _whole(headers.get(name.format("limit")))
    remaining = _whole(headers.get(name.format("remaining")))
    reset_s = parse_delay_s(headers.get(name.format("reset"), ""), now_s=now_s)
    if limit is None and remaining is None:
        return None
    return LimitObservation(scope=scope, limit=limit, remaining=remaining, reset_s=reset_s)


def _whole(text: str | None) -> int | None:
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
