"""Reads JSON of strangers without trusting it: wrong types read as absent, sizes as whole numbers.

Pure. Adapters decide what an absent field means; nothing here raises but ``parse_json``.
"""

from __future__ import annotations

import math

import orjson

from app.domain.chat import Json


def parse_json(data: bytes | str) -> Json:
    """Return the JSON value in ``data``; leading blank lines (a provider's keep-alive) are allowed.

    Raises:
        ValueError: it is not JSON.
    """
    value: Json = orjson.loads(data.strip())
    return value


def dump_json(value: Json) -> str:
    """Return compact JSON text."""
    return orjson.dumps(value).decode()


def as_object(value: Json) -> dict[str, Json]:
    """Return ``value`` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Json) -> list[Json]:
    """Return ``value`` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def as_text(value: Json) -> str:
    """Return ``value`` if it is a string, else an empty one."""
    return value if isinstance(value, str) else ""


def find_text(value: Json) -> str | None:
    """Return ``value`` if it is a non-empty string, else None."""
    return value if isinstance(value, str) and value else None


def find_count(value: Json) -> int | None:
    """Return ``value`` as a whole number of at least 0, else None."""
    if type(value) is int:
        return max(0, value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return max(0, int(value))


def as_count(value: Json) -> int:
    """Return ``value`` as a whole number of at least 0; 0 where it is no number."""
    return find_count(value) or 0
