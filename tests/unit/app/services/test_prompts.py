"""The prompt files and what may be put into them; the run's context."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.domain.plan import Dependency, Plan, PlannedTask
from app.services.prompts import Prompts, fitted, material, parse_template, shortened
from tests.fakes.models import STRICT, TINY, context, orchestra

PROMPTS = Prompts.load()
ROLES = ("planner", "clarifier", "worker", "redo", "judge", "merger", "evaluator")


@pytest.mark.parametrize("role", [*ROLES, "transcriber", "repair"])
def test_every_standard_prompt_begins_with_its_role(role: str) -> None:
    """Simulators and logs recognise a call by its first line."""
    template = PROMPTS.get(role, STRICT)

    assert template.parts[0][1].startswith(f"ROLE: {role} v1\n")
    assert "{{header}}" in template.parts[0][1]
    assert template.version.startswith(f"{role}.standard.v1+")


@pytest.mark.parametrize("role", ROLES)
def test_every_tiny_prompt_begins_with_its_role(role: str) -> None:
    """The embedded model has prompts of its own, with the same mark."""
    assert PROMPTS.get(role, TINY).parts[0][1].startswith(f"ROLE: {role} v1\n")


def test_values_are_put_in_once_and_never_expanded() -> None:
    """A user may write {{secret}}."""
    template = parse_template("x", "--- user\nSay {{one}} and {{two}}.")
    prompt = template.fill({"one": "{{two}}", "two": "2", "header": ""})

    assert prompt.messages[0].text == "Say {{two}} and 2."


def test_slot_without_value_is_our_bug() -> None:
    """A prompt with a hole must not be sent."""
    with pytest.raises(KeyError):
        parse_template("x", "--- user\n{{one}}").fill({})


def test_version_changes_with_the_text() -> None:
    """Results carry what they were made with."""
    assert parse_template("x", "--- user\na").version != parse_template("x", "--- user\nb").version


def test_template_without_parts_is_refused() -> None:
    """A file that says nobody's words is a mistake."""
    with pytest.raises(ValueError, match="no part"):
        parse_template("x", "just text")


@pytest.mark.parametrize("hostile", ["</data>", "< / data >", "</DATA>", "<data id='x'>", "</\n data"])
def test_material_cannot_close_or_imitate_its_tag(hostile: str) -> None:
    """Delimiters are what keeps content from being instructions."""
    wrapped = material('a"b', f"before {hostile} after")
    inside = wrapped.removeprefix('<data id="a_b">\n').removesuffix("\n</data>")

    assert "<" not in inside


def test_short_texts_keep_their_length_when_long_ones_must_give() -> None:
    """The longest loses first."""
    texts = fitted({"a": "short", "b": "word " * 4_000, "c": "word " * 100}, 1_000)

    assert texts["a"] == "short"
    assert texts["c"] == "word " * 100
    assert len(texts["b"]) < 4_000
    assert "left out" in shortened("x" * 100, 10)


def test_context_ranks_tasks_by_the_path_behind_them() -> None:
    """What more work waits for goes first; stages go before all tasks."""
    first = PlannedTask(id="t1", title="a", instruction="a")
    plan = Plan(
        goal="g",
        tasks=(
            first,
            replace(first, id="t2", depends_on=(Dependency(task_id="t1"),)),
            replace(first, id="t3"),
        ),
    )
    made = context("Plan").with_plan(plan, orchestra())

    assert made.rank_s("t1") > made.rank_s("t2") == made.rank_s("t3") > 0
    assert made.rank_s(None) > made.rank_s("t1")
    assert made.language == "en"
    assert made.today == "1970-01-12"


def test_context_bounds_every_wait_by_the_runs_deadline() -> None:
    """A call is worth nothing after its run."""
    assert context("Plan", timeout_s=30.0).seconds_left() == pytest.approx(30.0)
    assert context("Plan").seconds_left() == pytest.approx(600.0)
