"""Patterns from a model's plan: same answers as Python's engine, in linear time."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.safe_regex import PATTERN_CHARS_MAX, compile_safe
from tests.effort import examples

ATOMS = [
    "a",
    "b",
    ".",
    "[ab]",
    "[^a]",
    "(a|b)",
    "(?:ab|c)",
    r"\d",
    r"\w",
    "^",
    "$",
    r"\b",
    "(a*b)",
    "((ab){1,2})",
    "[a-c]",
]
REPEATS = ["", "", "", "*", "+", "?", "{1,3}", "{2,}", "{0,2}", "*?", "+?"]


@settings(max_examples=examples(400))
@given(
    pieces=st.lists(st.tuples(st.sampled_from(ATOMS), st.sampled_from(REPEATS)), min_size=1, max_size=4),
    flags=st.sampled_from(["", "(?i)", "(?m)", "(?s)"]),
    text=st.text(alphabet="abcABx1 \n", max_size=10),
)
def test_search_agrees_with_the_standard_engine(pieces: list[tuple[str, str]], flags: str, text: str) -> None:
    """A check must mean what its author meant."""
    pattern = flags + "".join(atom + repeat for atom, repeat in pieces if atom not in "^$" or not repeat)
    try:
        expected = re.search(pattern, text) is not None
    except re.error:
        return
    assert compile_safe(pattern).search(text) is expected


@pytest.mark.parametrize(
    ("pattern", "text"), [("(a+)+$", "a" * 9_000 + "b"), ("(a|aa)+c", "a" * 9_000), ("(.*)*(.*)*=", "x" * 9_000)]
)
def test_hostile_pattern_takes_linear_time(pattern: str, text: str) -> None:
    """The standard engine needs longer than the age of the universe for these."""
    started_s = time.process_time()
    found = compile_safe(pattern).search(text)

    assert found is False
    assert time.process_time() - started_s < 5.0


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a)\1",
        "(?=a)",
        "(?<!a)b",
        "a**",
        "(a",
        "a)",
        "[a",
        "*a",
        "a{3,2}",
        "a{999}",
        r"\q",
        "x" * (PATTERN_CHARS_MAX + 1),
    ],
)
def test_what_cannot_be_matched_safely_is_refused(pattern: str) -> None:
    """Refused when the plan is validated, so that the planner can put it right."""
    with pytest.raises(ValueError):
        compile_safe(pattern)


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (r"(?i)thứ hai", "THỨ HAI và thứ ba", True),
        (r"\bday \d+\b", "on day 12 we", True),
        (r"[.!?]$", "Is it?", True),
        (r"第[一二三]天", "第二天去湖边", True),
        (r"\{\}", "{}", True),
        (r"^\s*-\s", "text - dash", False),
    ],
)
def test_usual_patterns_work(pattern: str, text: str, found: bool) -> None:
    """What planners write, in any script."""
    assert compile_safe(pattern).search(text) is found
