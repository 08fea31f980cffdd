"""What counts as met: checks by code, quotes that are really there, and the pass computed by code."""

from __future__ import annotations

from typing import Any

import pytest

from app.domain.judging import (
    blocked_reason,
    check_by_code,
    feedback,
    find_quote,
    lowered,
    met_share,
    numbered_sentences,
    passed,
    verified,
)
from app.domain.plan import Criterion, CriterionVerdict

MARKDOWN = "# Plan\n- Weigh the waste\n- Order less milk [t1]\n1. Count [t2]\n"


def criterion(check: Any, argument: str | None = None) -> Criterion:
    """Return a criterion of that check."""
    return Criterion(id="c1", statement="s", check=check, check_arg=argument)


def verdict(given: Any, quote: str = "", reasoning: str = "") -> CriterionVerdict:
    """Return a judge's verdict."""
    return CriterionVerdict(criterion_id="c1", verdict=given, evidence=quote, reasoning=reasoning)


@pytest.mark.parametrize(
    ("check", "argument", "artifact", "expected"),
    [
        ("not_empty", None, "text", "met"),
        ("not_empty", None, " \n", "not_met"),
        ("json_valid", None, '{"a": [1]}', "met"),
        ("json_valid", None, '```json\n{"a": 1}\n```', "met"),
        ("json_valid", None, '{"a": 1,}', "not_met"),
        ("json_valid", None, "[" * 100_000, "not_met"),
        ("contains", "Order Less  Milk", MARKDOWN, "met"),
        ("contains", "coffee", MARKDOWN, "not_met"),
        ("regex", r"(?i)weigh the \w+", MARKDOWN, "met"),
        ("regex", r"\d{4}", MARKDOWN, "not_met"),
        ("regex", "(a", MARKDOWN, "cannot_tell"),
        ("regex", "needle", "hay " * 10_000, "cannot_tell"),
        ("min_items", "3", MARKDOWN, "met"),
        ("min_items", "4", MARKDOWN, "not_met"),
        ("min_items", "2", '{"items": [1, 2]}', "met"),
        ("min_items", "many", MARKDOWN, "cannot_tell"),
        ("max_words", "12", MARKDOWN, "met"),
        ("max_words", "5", MARKDOWN, "not_met"),
        ("max_words", "4", "好的再见", "met"),
        ("cites_inputs", None, MARKDOWN, "met"),
        ("cites_inputs", "t1", "Only [t1] here", "met"),
        ("cites_inputs", None, "Only [t1] here", "not_met"),
    ],
)
def test_check_by_code(check: Any, argument: str | None, artifact: str, expected: str) -> None:
    """Deterministic checks first: they cost nothing and cannot be talked to."""
    found = check_by_code(criterion(check, argument), artifact, ["t1", "t2"])

    assert found is not None
    assert found.verdict == expected
    assert found.evidence or found.reasoning


def test_what_needs_a_judge_is_left_to_it() -> None:
    """Code gives no opinion."""
    assert check_by_code(criterion("judge"), "text", []) is None


@pytest.mark.parametrize(
    ("quote", "found"),
    [
        ("paper cups", True),
        ("“Paper  *cups*”", True),
        ("cups … every day", True),
        ("every day … cups", False),
        ("Paper cups.", True),
        ("plastic cups", False),
        ("…", False),
        ("", False),
    ],
)
def test_quote_is_searched_apart_from_form(quote: str, found: bool) -> None:
    """Case, quotes, markup and spaces differ; words may not."""
    assert find_quote(quote, "The paper cups are\nthrown away every day.") is found


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (verdict("met", "paper cups"), "met"),
        (verdict("met", "golden cups"), "cannot_tell"),
        (verdict("met"), "cannot_tell"),
        (verdict("not_met", "golden cups"), "cannot_tell"),
        (verdict("not_met", "", "nothing on lids"), "not_met"),
        (verdict("not_met"), "cannot_tell"),
        (verdict("cannot_tell", "golden cups"), "cannot_tell"),
    ],
)
def test_verdict_without_findable_evidence_is_void(given: CriterionVerdict, expected: str) -> None:
    """Only what is missing cannot be quoted, and then it must be named."""
    found = verified(given, "The paper cups are thrown away.")

    assert found.verdict == expected
    assert found.evidence in ("", "paper cups")


def test_pass_needs_every_must_not_to_fail() -> None:
    """cannot_tell fails nothing; not_met fails only a must."""
    must, may = criterion("judge"), Criterion(id="c2", statement="s", must=False)
    other = CriterionVerdict(criterion_id="c2", verdict="not_met")

    assert passed([must, may], [verdict("cannot_tell"), other])
    assert not passed([must, may], [verdict("not_met"), other])


def test_feedback_names_failing_criteria_musts_first() -> None:
    """A redo is told what, why and what to do."""
    must, may = criterion("judge"), Criterion(id="c2", statement="nice", must=False)
    lines = feedback(
        [may, must],
        [CriterionVerdict(criterion_id="c2", verdict="not_met"), verdict("not_met", "quote", "why"), verdict("met")],
    )

    assert lines == ("not met: s Evidence: 'quote'. why", "not met: nice")


def test_scores_lose_what_could_not_be_told() -> None:
    """A judgement with holes is worth less than one without."""
    assert lowered(1.0, [verdict("met"), verdict("met")]) == 1.0
    assert lowered(1.0, [verdict("met"), verdict("cannot_tell")]) == 0.88
    assert lowered(7.0, []) == 1.0
    assert met_share([verdict("met"), verdict("not_met"), verdict("cannot_tell")]) == 0.5


def test_blocked_is_read_from_the_first_line() -> None:
    """Saying that it cannot be done is a result of its own kind."""
    assert blocked_reason("BLOCKED: no input\nmore") == "no input"
    assert blocked_reason("The road is BLOCKED: yes") is None
    assert blocked_reason("") is None


def test_numbered_sentences_are_short_and_few() -> None:
    """The embedded model sees what fits it."""
    found = numbered_sentences("Ok. " + "This sentence has several words in it. " * 3 + "word " * 60)

    assert len(found) == 4
    assert all(len(sentence.split()) <= 25 for sentence in found)
