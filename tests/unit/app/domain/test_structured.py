"""Rungs 0 to 3 of the repair ladder: whatever a model writes, nothing is invented."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.chat import Json
from app.domain.schema_check import Problem, check, coerced
from app.domain.structured import is_blank, leaves, numbered, read, strip_thinking, touched_elsewhere, unsupported

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "count": {"type": ["integer", "null"]},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "count", "tags"],
    "additionalProperties": False,
}
VALUE = {"name": "a", "count": 1, "tags": ["x"]}
PLAIN = json.dumps(VALUE)


@pytest.mark.parametrize(
    ("text", "blank"),
    [("", True), (" \n\t", True), ("\u200b\ufeff", True), ("<think>long thought</think>", True), ("0", False)],
)
def test_blank_answers_are_recognised(text: str, blank: bool) -> None:
    """Some providers replace what is not JSON by spaces."""
    assert is_blank(text) is blank


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        f"<think>maybe {{1}}</think>\n{PLAIN}",
        f"maybe so</think>{PLAIN}",
        f"Here you are:\n```json\n{PLAIN}\n```\nBye.",
        f"The answer is {PLAIN}. Done.",
    ],
)
def test_value_is_found_inside_of_talk(text: str) -> None:
    """Thinking, fences and politeness are stripped; that is no repair."""
    reading = read(text, None, SCHEMA)

    assert reading.value == VALUE
    assert reading.good
    assert not reading.repaired


def test_endless_thought_is_no_answer() -> None:
    """An opening tag without an end is thinking to its end."""
    assert strip_thinking(f"<think>so I will write {PLAIN}") == ""


def test_reasoning_content_is_used_only_where_the_answer_is_blank() -> None:
    """Servers without a think tag put all of it there."""
    other = json.dumps({**VALUE, "name": "thought"})

    assert read("  ", other, SCHEMA).value == {**VALUE, "name": "thought"}
    assert read(PLAIN, other, SCHEMA).value == VALUE


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "a", "count": 1, "tags": ["x",],}',
        "{'name': 'a', 'count': 1, 'tags': ['x']}",
        '{name: "a", count: 1, tags: ["x"]}',
        '{"name": "a", "count": 1, "tags": ["x"',
        '```json\n{"name": "a", "count": 1 "tags": ["x"]}',
    ],
)
def test_syntax_is_repaired_and_marked(text: str) -> None:
    """Commas, quotes, brackets."""
    reading = read(text, None, SCHEMA)

    assert reading.value == VALUE
    assert reading.repaired


@pytest.mark.parametrize("text", ["I would rather not.", "[1, 2", "NaN", '"just a string"', "{}}{"])
def test_what_is_no_such_value_is_not_made_one(text: str) -> None:
    """A repair that needs content is no repair."""
    assert not read(text, None, SCHEMA).good


@given(st.text(alphabet="{}[]\":, abc123.\\\n'tfn", max_size=60))
def test_no_scalar_of_a_reading_is_invented(text: str) -> None:
    """Every string and number of a repaired value stands in the source."""
    reading = read(text, None, {})
    # An escape such as \\n stands for a character: its letter is no content, and must not stand between two that are.
    plain = re.sub(r"\\[nrtbf]", " ", text)
    squeezed = "".join(letter for letter in plain if letter.isalnum()).casefold()
    whole = "".join(letter for letter in text if letter.isalnum()).casefold()
    for _path, item in leaves(reading.value) if reading.found else ():
        if isinstance(item, str):
            wanted = "".join(letter for letter in item if letter.isalnum()).casefold()
            assert wanted in squeezed or wanted in whole


def test_types_are_coerced_and_unknown_keys_dropped_with_notes() -> None:
    """Rung 3: "1" for 1, a scalar for a list of one, null for an empty word."""
    reading = read('{"name": 7, "count": "1", "tags": "x", "extra": true}', None, SCHEMA)

    assert reading.value == {"name": "7", "count": 1, "tags": ["x"]}
    assert reading.repaired
    assert any("extra" in note for note in reading.notes)
    assert read('{"name": "a", "count": "null", "tags": []}', None, SCHEMA).value == {
        "name": "a",
        "count": None,
        "tags": [],
    }


def test_dropped_key_alone_is_no_repair() -> None:
    """What the model said is still what is used."""
    assert not read(json.dumps({**VALUE, "extra": 1}), None, SCHEMA).repaired


def test_problems_name_their_place() -> None:
    """The repair prompt shows a numbered list."""
    reading = read('{"name": null, "tags": [{}]}', None, SCHEMA)

    assert [problem.path for problem in reading.problems] == ["count", "name", "tags[0]"]
    assert numbered(reading.problems).splitlines()[0] == "1. count: is missing"


def test_changes_outside_the_named_places_are_found() -> None:
    """A repair may change what the problems name, and what is inside of it."""
    before: Json = {"tasks": [{"id": "t1", "needs": ["t9"]}, {"id": "t2", "needs": []}]}
    after: Json = {"tasks": [{"id": "t1", "needs": []}, {"id": "t2", "needs": []}]}
    worse: Json = {"tasks": [{"id": "t1", "needs": []}, {"id": "t2", "needs": ["t1"]}]}
    problems = [Problem(path="tasks[0].needs[0]", message="")]

    assert touched_elsewhere(before, after, problems) == []
    assert touched_elsewhere(before, worse, problems) == ["tasks[1].needs", "tasks[1].needs[0]"]


def test_unsupported_content_is_found() -> None:
    """Only long strings count: enums and ids are form, not content."""
    value: Json = {"verdict": "met", "quote": "The cups are thrown away."}

    assert unsupported(value, "he said: the  cups are thrown\naway.", chars_min=10) == []
    assert unsupported(value, "he said nothing", chars_min=10) == ["quote"]


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"const": []}, [], ["t1"]),
        ({"enum": ["a", "b"]}, "a", "c"),
        ({"type": "integer", "minimum": 0, "maximum": 10}, 10, 11),
        ({"type": "integer"}, 1, True),
        ({"type": "number"}, 1, True),
        ({"type": "string", "pattern": "^a+$", "maxLength": 3}, "aaa", "aaaa"),
        ({"type": "array", "prefixItems": [{"const": 1}], "minItems": 1, "maxItems": 2}, [1, 2], [2]),
        ({"type": ["string", "null"]}, None, 1),
    ],
)
def test_schema_subset_is_checked(schema: Any, good: Any, bad: Any) -> None:
    """What our schemas use is checked, and true is not 1."""
    assert check(good, schema) == []
    assert len(check(bad, schema)) == 1


def test_schema_outside_the_subset_is_our_bug() -> None:
    """A keyword that is silently ignored would be a hole."""
    with pytest.raises(ValueError, match="oneOf"):
        check(1, {"oneOf": []})


def test_coercion_leaves_what_it_cannot_read() -> None:
    """No number is made out of a word."""
    changes: list[str] = []

    assert coerced("many", {"type": "integer"}, changes) == "many"
    assert changes == []
