"""Reads parts of a decoded JSON body without trusting its shape; a wrong shape reads as nothing."""

from __future__ import annotations

from pydantic import JsonValue

JsonObject = dict[str, JsonValue]


def object_at(value: JsonValue, *names: str) -> JsonObject:
    """Return the object found by following ``names`` from ``value``; ``{}`` where there is none."""
    for name in names:
        if not isinstance(value, dict):
            return {}
        value = value.get(name)
    return value if isinstance(value, dict) else {}


def objects_in(value: JsonValue) -> list[JsonObject]:
    """Return the objects of a list; ``[]`` where it is none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def text_of(value: JsonValue) -> str | None:
    """Return ``value`` where it is a string."""
    return value if isinstance(value, str) else None


def positive_int(value: JsonValue) -> int | None:
    """Return ``value`` where it is an integer above zero."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
