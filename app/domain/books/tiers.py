"""The service tier that a request asks its provider for, in whichever provider's words.

A tier is whatever a request may wish that changes the price of all its tokens: how soon it is served, how fast, or
where. Price rows say what a tier costs (``prices.at_tier``). What the provider grants in the end, it tells in its
answer; the books go by what was asked for. What a provider's console makes of requests that wish for nothing (a
project's or a workspace's default) is seen by nobody here: such prices are to be configured.
"""

from __future__ import annotations

from collections.abc import Iterable

import orjson

STANDARD = ""
"""The tier of a request that asks for none."""
STANDARD_NAMES = frozenset({"auto", "default", "standard", "standard_only", "global"})
"""How providers call it where a request may name it."""
_TIER_FIELDS = frozenset({"service_tier", "serviceTier"})
"""OpenAI's and Anthropic's word, and Gemini's."""
_SPEED_FIELD = "speed"
"""Anthropic's; other servers have a number of that name."""
_PLACE_FIELD = "inference_geo"
"""Anthropic's: where the model runs. Source: platform.claude.com, "Data residency"."""
_FIELDS = _TIER_FIELDS | {_SPEED_FIELD, _PLACE_FIELD}


def asked_tier(extra: Iterable[tuple[str, str]]) -> str:
    """Return the tier that a request's extra fields ask for; of several, their names in order, joined by ``+``.

    Args:
        extra: As in ``ChatRequest``: names and JSON text.
    """
    asked = {_tier(name, text) for name, text in extra if name in _FIELDS} - STANDARD_NAMES - {STANDARD}
    return "+".join(sorted(asked))


def _tier(name: str, text: str) -> str:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    if isinstance(value, str):
        return value or text
    return STANDARD if value is None or name == _SPEED_FIELD else text
