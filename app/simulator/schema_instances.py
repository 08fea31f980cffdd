"""Makes a valid instance of a JSON schema, decided by a random source: what a model with strict output would send.

Covers types, enum, const, properties, items, lengths, bounds, formats, local references, unions and allOf; of
``pattern`` only what one of its candidates happens to satisfy.
"""

from __future__ import annotations

import math
import random
import re

from pydantic import JsonValue

from app.simulator.json_reading import JsonObject, object_at, objects_in
from app.simulator.tokens import filler_words

DEPTH_MAX = 12
"""Below it, optional properties and optional items are left out, so that recursive schemas end."""

_FORMATS: dict[str, str] = {
    "date": "2026-03-0{0}",
    "date-time": "2026-03-0{0}T10:00:00Z",
    "time": "10:0{0}:00Z",
    "email": "person{0}@example.com",
    "uri": "https://example.com/{0}",
    "uuid": "00000000-0000-4000-8000-00000000000{0}",
    "ipv4": "192.0.2.{0}",
    "hostname": "host{0}.example.com",
}
_CANDIDATES = ("t{0}", "task_{0}", "task-{0}", "T{0}", "{0}", "a", "A", "ab", "2026-03-0{0}", "00{0}", "{0}.{0}")


def make_instance(schema: JsonObject, chance: random.Random) -> JsonValue:
    """Return an instance of ``schema``, the same for the same state of ``chance``."""
    return _Maker(schema, chance).make(schema, 0)


class _Maker:
    """Walks one schema; holds its root, where references point."""

    def __init__(self, root: JsonObject, chance: random.Random) -> None:
        self._root = root
        self._chance = chance

    def make(self, given: JsonObject, depth: int) -> JsonValue:
        if depth > 4 * DEPTH_MAX:
            return None  # A schema that requires itself has no instance.
        schema = self._resolved(given, depth)
        if "const" in schema:
            return schema["const"]
        choices = schema.get("enum")
        if isinstance(choices, list) and choices:
            return self._chance.choice(choices)
        match self._type(schema):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "string":
                return self._string(schema)
            case "integer":
                return math.floor(self._number(schema, whole=True))
            case "number":
                return self._number(schema, whole=False)
            case "boolean":
                return self._chance.random() < 0.5
            case _:
                return None

    def _resolved(self, schema: JsonObject, depth: int) -> JsonObject:
        """Follow references, take one branch of a union, and merge ``allOf``."""
        for _ in range(32):
            reference = schema.get("$ref")
            branches = objects_in(schema.get("anyOf")) or objects_in(schema.get("oneOf"))
            if isinstance(reference, str):
                schema = {**self._target(reference), **_without(schema, "$ref")}
            elif branches:
                rest = _without(schema, "anyOf", "oneOf")
                schema = {**rest, **self._branch(branches, depth)}
            elif objects_in(schema.get("allOf")):
                schema = self._merged(schema)
            else:
                break
        return schema

    def _branch(self, branches: list[JsonObject], depth: int) -> JsonObject:
        ends = [branch for branch in branches if _is_leaf(branch)]
        if depth > DEPTH_MAX and ends:
            return ends[0]
        useful = [branch for branch in branches if branch.get("type") not in ("null", "NULL")]
        return self._chance.choice(useful or branches)

    def _merged(self, schema: JsonObject) -> JsonObject:
        parts = [*(self._resolved(part, 0) for part in objects_in(schema.get("allOf"))), _without(schema, "allOf")]
        merged: JsonObject = {}
        properties: JsonObject = {}
        required: list[JsonValue] = []
        for part in parts:
            merged |= part
            properties |= object_at(part, "properties")
            wanted = part.get("required")
            required += [name for name in wanted if name not in required] if isinstance(wanted, list) else []
        if properties:
            merged["properties"] = properties
        if required:
            merged["required"] = required
        return merged

    def _target(self, reference: str) -> JsonObject:
        names = [part.replace("~1", "/").replace("~0", "~") for part in reference.removeprefix("#").split("/") if part]
        return object_at(self._root, *names) if names else self._root

    def _type(self, schema: JsonObject) -> str:
        kind = schema.get("type")
        if isinstance(kind, list):
            named = [item for item in kind if isinstance(item, str) and item != "null"]
            kind = named[0] if named else "null"
        if isinstance(kind, str):
            return kind.lower()  # Gemini writes OBJECT
        if "properties" in schema:
            return "object"
        if "items" in schema or "prefixItems" in schema:
            return "array"
        return "number" if "minimum" in schema or "maximum" in schema else "string"

    def _object(self, schema: JsonObject, depth: int) -> JsonValue:
        properties = object_at(schema, "properties")
        required = schema.get("required")
        needed = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
        names = [*properties, *(name for name in needed if name not in properties)]
        made: JsonObject = {}
        for name in names:
            if depth < DEPTH_MAX or name in needed:
                made[name] = self.make(object_at(properties, name), depth + 1)
        return made

    def _array(self, schema: JsonObject, depth: int) -> JsonValue:
        fixed = objects_in(schema.get("prefixItems"))
        least = max(_integer(schema, "minItems", 0), 0)
        most = max(_integer(schema, "maxItems", max(least, 3)), least)
        count = least if depth >= DEPTH_MAX else self._chance.randint(max(least, min(1, most)), min(most, least + 3))
        items = schema.get("items")
        if items is False or (items is None and fixed):
            count = len(fixed)
        made: list[JsonValue] = []
        for index in range(max(count, len(fixed)) if fixed else count):
            item = fixed[index] if index < len(fixed) else object_at(items)
            value = self.make(item, depth + 1)
            for _ in range(50 if schema.get("uniqueItems") is True else 0):
                if value not in made:
                    break
                value = self.make(item, depth + 1)
            made.append(value)
        return made

    def _string(self, schema: JsonObject) -> str:
        digit = str(self._chance.randint(1, 9))
        least, most = _integer(schema, "minLength", 0), _integer(schema, "maxLength", 1 << 20)
        form, pattern = schema.get("format"), schema.get("pattern")
        if isinstance(form, str) and form in _FORMATS:
            return _FORMATS[form].replace("{0}", digit)
        if isinstance(pattern, str):
            return _fitting(pattern, digit, least, most)
        text = filler_words(self._chance.randint(2, 5), self._chance)
        while len(text) < least:
            text += " " + filler_words(3, self._chance)
        return text[: max(most, 0)] if len(text) > most else text

    def _number(self, schema: JsonObject, *, whole: bool) -> float:
        low, high = _bounds(schema, whole=whole)
        step = schema.get("multipleOf")
        if isinstance(step, int | float) and not isinstance(step, bool) and step > 0:
            first, last = math.ceil(low / step), math.floor(high / step)
            return step * self._chance.randint(first, max(first, last))
        if whole:
            return self._chance.randint(math.ceil(low), max(math.ceil(low), math.floor(high)))
        return round(low + (high - low) * self._chance.uniform(0.1, 0.9), 6)


def _bounds(schema: JsonObject, *, whole: bool) -> tuple[float, float]:
    low, high = _float(schema, "minimum"), _float(schema, "maximum")
    above, below = _float(schema, "exclusiveMinimum"), _float(schema, "exclusiveMaximum")
    if above is not None:
        edge = math.floor(above) + 1 if whole else above
        low = edge if low is None else max(low, edge)
    if below is not None:
        edge = math.ceil(below) - 1 if whole else below
        high = edge if high is None else min(high, edge)
    span = 9.0 if whole else 1.0
    if low is None:
        usual = 1.0 if whole else 0.0
        low = usual if high is None or high > usual else high - span
    return low, low + span if high is None else high


def _fitting(pattern: str, digit: str, least: int, most: int) -> str:
    try:
        expression = re.compile(pattern)
    except re.error:
        return digit
    for candidate in _CANDIDATES:
        text = candidate.replace("{0}", digit)
        if least <= len(text) <= most and expression.search(text):
            return text
    return digit


def _is_leaf(schema: JsonObject) -> bool:
    kind = schema.get("type")
    return "$ref" not in schema and isinstance(kind, str) and kind.lower() not in ("object", "array")


def _without(schema: JsonObject, *names: str) -> JsonObject:
    return {name: value for name, value in schema.items() if name not in names}


def _integer(schema: JsonObject, name: str, default: int) -> int:
    value = schema.get(name)
    if isinstance(value, str) and value.isdecimal():  # Gemini writes int64 as strings
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _float(schema: JsonObject, name: str) -> float | None:
    value = schema.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
