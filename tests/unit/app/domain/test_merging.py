"""References, numbers, groups and the answer that code makes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.merging import (
    FAN_IN,
    answer_of_picks,
    concatenated,
    groups,
    merge_problems,
    missing_section,
    names_missing,
    numbers_from_nowhere,
    pickable,
    references,
)
from app.domain.plan import Plan, PlannedTask

PLAN = Plan(goal="g", tasks=tuple(PlannedTask(id=f"t{n}", title=f"Title {n}", instruction="x") for n in (1, 2, 3)))


@pytest.mark.parametrize(
    ("answer", "real", "unknown"),
    [
        ("A [t1]. B [t2][t3].", {"t1", "t2", "t3"}, set()),
        ("A [t1, t2; t9].", {"t1", "t2"}, {"t9"}),
        ("A [note] and [t2](http://x) and [t1].", {"t1"}, set()),
        ("array[0] and t1 without brackets", set(), set()),
    ],
)
def test_references_are_read(answer: str, real: set[str], unknown: set[str]) -> None:
    """Links and other brackets are text."""
    assert references(answer, ["t1", "t2", "t3"]) == (real, unknown)


def test_every_result_is_used_or_named() -> None:
    """Problems name the answer or the gaps, so that a repair may touch either."""
    problems = merge_problems("A [t1].", [], {"t1": "a", "t2": "b"})

    assert {problem.path for problem in problems} == {"answer", "gaps"}
    assert merge_problems("A [t1].", ["t2 was not needed"], {"t1": "a", "t2": "b"}) == []
    assert merge_problems(" ", ["t1"], {"t1": "a"})[0].message == "is empty"


@pytest.mark.parametrize(
    ("answer", "sources", "strange"),
    [
        ("1. In 2024, 1,000 cups [t1].\n2. 3.5 kg", ["in 2024 1000 cups, 3,5 kg"], []),
        ("Save 35 % in 7 days", ["save much"], ["35"]),
        ("On 3.10.2024 at 12:30", ["3.10.2024", "12:30"], []),
        ("See [t12] and ten of 10", ["x"], []),
        ("1'250 and 1\u00a0300", ["1250"], ["1300"]),
    ],
)
def test_numbers_must_come_from_somewhere(answer: str, sources: list[str], strange: list[str]) -> None:
    """Separators differ; numbering, references and small counts do not matter."""
    assert numbers_from_nowhere(answer, sources) == strange


def test_concatenation_has_headings_references_and_what_is_missing() -> None:
    """In the language of the request."""
    text = concatenated(PLAN, {"t2": "B", "t1": "A"}, {"t3": "超时"}, "zh")

    assert text == "## Title 1\n\nA [t1]\n\n## Title 2\n\nB [t2]\n\n## 缺少的部分\n\n- Title 3 (原因: 超时)"
    assert missing_section(PLAN, {}, "en") == ""


def test_answer_that_names_the_missing_part_needs_no_section() -> None:
    """By title or by id."""
    assert names_missing("There is no title 3 here.", PLAN, {"t3": "x"})
    assert names_missing("t3 failed", PLAN, {"t3": "x"})
    assert not names_missing("t31 failed", PLAN, {"t3": "x"})


@given(st.integers(0, 200), st.integers(2, 12))
def test_groups_keep_order_and_bound(count: int, fan_in: int) -> None:
    """As few groups as possible, none larger than the fan-in, nearly equal."""
    found = groups(range(count), fan_in)

    assert [item for group in found for item in group] == list(range(count))
    assert len(found) == -(-count // fan_in)
    assert all(0 < len(group) <= fan_in for group in found)
    assert max(map(len, found), default=0) - min(map(len, found), default=0) <= 1
    assert FAN_IN == 8


def test_pickable_sentences_are_whole_and_plain() -> None:
    """What the grammar offers must be worth repeating and possible to write."""
    text = (
        'Here are some examples:\n1. Use less milk today.\nNo.\nHe said "stop it now".\n- Buy big cups.\n' + "w " * 40
    )

    assert pickable(text) == ["Use less milk today.", "Buy big cups."]


def test_picked_sentences_become_referenced_paragraphs_without_repeats() -> None:
    """Each result keeps its reference, though its only sentence was said before."""
    picks = {"t1": ["Use less milk.", "Use less milk."], "t2": ["Use less milk."], "t3": ["先买杯子。", "再数。"]}

    assert answer_of_picks(picks) == "Use less milk. [t1]\n\nUse less milk. [t2]\n\n先买杯子。再数。 [t3]"
