"""Generated instances satisfy their schema: a reply that does not would fail the client for the simulator's fault."""

from __future__ import annotations

import random
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from app.simulator.schema_instances import make_instance

PLAN: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["tasks", "kind", "score", "note"],
    "properties": {
        "tasks": {"type": "array", "minItems": 2, "maxItems": 4, "items": {"$ref": "#/$defs/task"}},
        "kind": {"enum": ["a", "b"]},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "note": {"anyOf": [{"type": "string", "maxLength": 5}, {"type": "null"}]},
        "when": {"type": "string", "format": "date"},
    },
    "$defs": {
        "task": {
            "type": "object",
            "required": ["id", "n"],
            "properties": {
                "id": {"type": "string", "pattern": "^t[0-9]+$"},
                "n": {"type": "integer", "exclusiveMinimum": 3, "multipleOf": 5},
                "children": {"type": "array", "items": {"$ref": "#/$defs/task"}, "maxItems": 1},
            },
        }
    },
}
SCHEMAS: list[dict[str, Any]] = [
    PLAN,
    {"type": ["null", "string"], "minLength": 40},
    {"allOf": [{"properties": {"a": {"const": 3}}, "required": ["a"]}, {"properties": {"b": {"type": "boolean"}}}]},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
    {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 3, "maxItems": 3, "uniqueItems": True},
    {"type": "integer", "maximum": -20},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.01},
    {"type": "integer", "minimum": 7, "maximum": 7},
    {"type": "array", "items": {"type": "string"}, "maxItems": 0},
    {"type": "object", "properties": {"x": {"oneOf": [{"type": "integer"}, {"type": "array", "items": {}}]}}},
]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
def test_instance_satisfies_its_schema(schema: dict[str, Any], seed: int) -> None:
    """Checked by an independent validator."""
    jsonschema.validate(make_instance(schema, random.Random(seed)), schema)


def test_instance_reads_the_type_names_of_gemini() -> None:
    """OpenAPI's spelling is upper case, with int64 bounds as strings."""
    schema: dict[str, Any] = {
        "type": "OBJECT",
        "properties": {"a": {"type": "ARRAY", "minItems": "2", "items": {"type": "INTEGER"}}},
    }
    made = make_instance(schema, random.Random(1))

    assert isinstance(made, dict)
    assert isinstance(made["a"], list)
    assert len(made["a"]) >= 2


def test_instance_is_the_same_for_the_same_seed() -> None:
    """A rehearsal can be repeated."""
    assert make_instance(PLAN, random.Random(3)) == make_instance(PLAN, random.Random(3))


def test_instance_ends_for_a_schema_that_requires_itself() -> None:
    """Such a schema has no instance; the server must survive it."""
    endless: dict[str, Any] = {"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}}

    assert isinstance(make_instance(endless, random.Random(1)), dict)
