"""Checks a JSON value against the small part of JSON Schema that Tutti's own schemas use.

The common subset of prompts.md section 6 (type, properties, required, additionalProperties, items, enum), and what the
grammar-constrained embedded model is given on top (const, pattern, prefixItems, minItems, maxItems, minimum, maximum,
maxLength). Any other keyword is our own bug and raises. Not a general validator: schemas of users go to their provider.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from app.domain.chat import Json

_STRUCTURE = {"type", "properties", "required", "additionalProperties", "items", "prefixItems", "description"}
_VALUES = {"enum", "const", "pattern", "minItems", "maxItems", "minimum", "maximum", "maxLength"}
_KNOWN = frozenset(_STRUCTURE | _VALUES)
_TRUE_WORDS = {"true": True, "yes": True, "false": False, "no": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something wrong with a value, and where: ``path`` as in ``tasks[2].depends_on``, empty for the whole."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path or 'the value'}: {self.message}"


def check(value: Json, schema: Mapping[str, Json], path: str = "") -> list[Problem]:
    """Return everything that is wrong with ``value``, in document order.

    Raises:
        ValueError: the schema uses a keyword outside the subset.
    """
    unknown = set(schema) - _KNOWN
    if unknown:
        raise ValueError(f"schema keyword {sorted(unknown)[0]!r} is outside the subset that we check")
    if "const" in schema and value != schema["const"]:
        return [Problem(path=path, message=f"must be {schema['const']!r}, is {_shown(value)}")]
    choices = schema.get("enum")
    if isinstance(choices, list) and value not in choices:
        return [Problem(path=path, message=f"must be one of {_listed(choices)}, is {_shown(value)}")]
    types = _types(schema)
    if types and not any(_is(value, name) for name in types):
        return [Problem(path=path, message=f"must be {' or '.join(types)}, is {_shown(value)}")]
    if isinstance(value, dict):
        return list(_object_problems(value, schema, path))
    if isinstance(value, list):
        return list(_array_problems(value, schema, path))
    return list(_scalar_problems(value, schema, path))


def coerced(value: Json, schema: Mapping[str, Json], changes: list[str], path: str = "") -> Json:
    """Return ``value`` with what the schema allows to read differently: "3" for 3, a scalar for a list of one.

    Also drops unknown keys of closed objects. Every change is appended to ``changes`` in words. Never makes up content.
    """
    value = _coerced_type(value, schema, changes, path)
    if isinstance(value, dict):
        properties = _mapping(schema.get("properties"))
        closed = schema.get("additionalProperties") is False
        kept: dict[str, Json] = {}
        for name, item in value.items():
            if name in properties:
                kept[name] = coerced(item, _mapping(properties[name]), changes, _join(path, name))
            elif closed:
                changes.append(f"dropped the unknown key {_join(path, name)}")
            else:
                kept[name] = item
        return kept
    if isinstance(value, list):
        return [
            coerced(item, _item_schema(schema, index), changes, f"{path}[{index}]") for index, item in enumerate(value)
        ]
    return value


def _coerced_type(value: Json, schema: Mapping[str, Json], changes: list[str], path: str) -> Json:
    types = _types(schema)
    if not types or any(_is(value, name) for name in types):
        return value
    read: Json = value
    if "array" in types and not isinstance(value, dict) and value is not None:
        read = [value]
    elif "null" in types and isinstance(value, str) and value.strip().casefold() in ("", "null", "none"):
        read = None
    elif isinstance(value, str):
        read = _number_or_word(value.strip(), types)
    elif isinstance(value, float) and "integer" in types and value.is_integer():
        read = int(value)
    elif isinstance(value, int | float) and not isinstance(value, bool) and "string" in types:
        read = str(value)
    if read is not value:
        changes.append(f"read {path or 'the value'} {_shown(value)} as {_shown(read)}")
    return read


def _number_or_word(text: str, types: tuple[str, ...]) -> Json:
    if "boolean" in types and text.casefold() in _TRUE_WORDS:
        return _TRUE_WORDS[text.casefold()]
    if "integer" in types and re.fullmatch(r"[+-]?\d{1,18}", text):
        return int(text)
    if "number" in types and re.fullmatch(r"[+-]?\d{1,18}(\.\d{1,18})?", text):
        return float(text)
    return text


def _object_problems(value: dict[str, Json], schema: Mapping[str, Json], path: str) -> Iterator[Problem]:
    properties = _mapping(schema.get("properties"))
    required = schema.get("required")
    for name in required if isinstance(required, list) else ():
        if name not in value:
            yield Problem(path=_join(path, str(name)), message="is missing")
    for name, item in value.items():
        if name in properties:
            yield from check(item, _mapping(properties[name]), _join(path, name))
        elif schema.get("additionalProperties") is False:
            yield Problem(path=_join(path, name), message="is not known here")


def _array_problems(value: list[Json], schema: Mapping[str, Json], path: str) -> Iterator[Problem]:
    least, most = schema.get("minItems"), schema.get("maxItems")
    if isinstance(least, int) and len(value) < least:
        yield Problem(path=path, message=f"needs at least {least} items, has {len(value)}")
    if isinstance(most, int) and len(value) > most:
        yield Problem(path=path, message=f"may have at most {most} items, has {len(value)}")
    for index, item in enumerate(value):
        yield from check(item, _item_schema(schema, index), f"{path}[{index}]")


def _scalar_problems(value: Json, schema: Mapping[str, Json], path: str) -> Iterator[Problem]:
    if isinstance(value, str):
        pattern, longest = schema.get("pattern"), schema.get("maxLength")
        if isinstance(pattern, str) and not re.search(pattern, value):
            yield Problem(path=path, message=f"{_shown(value)} does not have the form {pattern!r}")
        if isinstance(longest, int) and len(value) > longest:
            yield Problem(path=path, message=f"may have at most {longest} characters, has {len(value)}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        least, most = schema.get("minimum"), schema.get("maximum")
        if isinstance(least, int | float) and value < least:
            yield Problem(path=path, message=f"must be at least {least}, is {value}")
        if isinstance(most, int | float) and value > most:
            yield Problem(path=path, message=f"must be at most {most}, is {value}")


def _item_schema(schema: Mapping[str, Json], index: int) -> Mapping[str, Json]:
    first = schema.get("prefixItems")
    if isinstance(first, list) and index < len(first):
        return _mapping(first[index])
    return _mapping(schema.get("items"))


def _types(schema: Mapping[str, Json]) -> tuple[str, ...]:
    named = schema.get("type")
    if isinstance(named, str):
        return (named,)
    return tuple(str(name) for name in named) if isinstance(named, list) else ()


def _is(value: Json, name: str) -> bool:
    if name == "object":
        return isinstance(value, dict)
    if name == "array":
        return isinstance(value, list)
    if name == "string":
        return isinstance(value, str)
    if name == "boolean":
        return isinstance(value, bool)
    if name == "null":
        return value is None
    # True and 1 are different things in JSON, equal ones in Python.
    if isinstance(value, bool):
        return False
    return isinstance(value, int) if name == "integer" else isinstance(value, int | float)


def _mapping(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, dict) else {}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _shown(value: Json) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _listed(choices: list[Json]) -> str:
    shown = ", ".join(repr(choice) for choice in choices[:12])
    return shown + (", …" if len(choices) > 12 else "")
