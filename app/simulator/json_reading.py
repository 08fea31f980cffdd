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


def in_camel_case(value: JsonValue) -> JsonValue:
    """Return a protobuf JSON body with its field names in camel case; both spellings are legal and clients mix them.

    What belongs to the user keeps its names: properties of schemas, arguments and results of functions.
    """
    if isinstance(value, list):
        return [in_camel_case(item) for item in value]
    if not isinstance(value, dict):
        return value
    renamed: JsonObject = {}
    for name, inner in value.items():
        name = _camel(name) if "_" in name else name
        if name == "properties" and isinstance(inner, dict):
            renamed[name] = {own: in_camel_case(schema) for own, schema in inner.items()}
        else:
            renamed[name] = inner if name in _OF_THE_USER else in_camel_case(inner)
    return renamed


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


_OF_THE_USER = frozenset(
    {"args", "response", "responseJsonSchema", "parametersJsonSchema", "enum", "default", "example"}
)


def positive_int(value: JsonValue) -> int | None:
    """Return ``value`` where it is an integer above zero."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
