"""The service tier that a request asks its provider for, in whichever provider's words.

Price rows say what a tier costs (``prices.at_tier``). What the provider grants in the end, it tells in its answer; the
books go by what was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable

import orjson

STANDARD = ""
"""The tier of a request that asks for none."""
STANDARD_NAMES = frozenset({"auto", "default", "standard", "standard_only"})
"""How providers call it where a request may name it."""
_TIER_FIELDS = frozenset({"service_tier", "serviceTier"})
"""OpenAI's and Anthropic's word, and Gemini's."""
_SPEED_FIELD = "speed"
"""Anthropic's; other servers have a number of that name."""


def asked_tier(extra: Iterable[tuple[str, str]]) -> str:
    """Return the tier that a request's extra fields ask for; one that no price row knows where they ask for several.

    Args:
        extra: As in ``ChatRequest``: names and JSON text.
    """
    fields = [(name, text) for name, text in extra if name in _TIER_FIELDS or name == _SPEED_FIELD]
    asked = {_tier(name, text) for name, text in fields} - STANDARD_NAMES - {STANDARD}
    return "+".join(sorted(asked))


def _tier(name: str, text: str) -> str:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    if isinstance(value, str):
        return value or text
    return STANDARD if value is None or name == _SPEED_FIELD else text
