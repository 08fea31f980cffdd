"""The form of a request: its parts, and which build on which; the grammar made from them."""

from __future__ import annotations

import pytest

from app.domain.planning.graph import find_cycle
from app.domain.planning.hints import read_hints
from app.domain.planning.tiny import grouped, keywords, tiny_plan, tiny_plan_schema
from app.domain.planning.validate import PlanLimits, validate
from app.domain.schema_check import check

CAFE = (
    "Write a short guide for a small cafe that wants to reduce waste. 1) List common sources of waste in a cafe. "
    "2) Suggest ways to reduce food waste. 3) Suggest ways to reduce packaging waste. "
    "4) Using the parts above, write a one-week action plan."
)
LIMITS = PlanLimits(tasks_max=24, depth_max=8, task_types=("general",))


@pytest.mark.parametrize(
    ("request_text", "parts"),
    [
        (
            CAFE,
            [
                ("List common sources of waste in a cafe", ()),
                ("Suggest ways to reduce food waste", ()),
                ("Suggest ways to reduce packaging waste", ()),
                ("Using the parts above, write a one-week action plan", (0, 1, 2)),
            ],
        ),
        (
            "Compare tea and coffee for an office: cost, taste, health. Then recommend one.",
            [
                ("Compare tea and coffee for an office: cost", ()),
                ("Compare tea and coffee for an office: taste", ()),
                ("Compare tea and coffee for an office: health", ()),
                ("Then recommend one", (0, 1, 2)),
            ],
        ),
        (
            "Hãy viết: 1. Giới thiệu 2. Ưu điểm 3. Dựa trên những phần trên, viết kết luận",
            [("Giới thiệu", ()), ("Ưu điểm", ()), ("Dựa trên những phần trên, viết kết luận", (0, 1))],
        ),
        (
            "1、介绍Python。2、介绍Rust。3、根据以上内容写总结。",
            [("介绍Python", ()), ("介绍Rust", ()), ("根据以上内容写总结", (0, 1))],
        ),
        (
            "写一份介绍三种编程语言的简短指南,并推荐一种给初学者",
            [("写一份介绍三种编程语言的简短指南", ()), ("并推荐一种给初学者", (0,))],
        ),
        ("Tasks:\n- write a poem\n- translate it to French", [("write a poem", ()), ("translate it to French", (0,))]),
        (
            "1. Find a venue\n2. Find a band\n3. Write an invitation based on step 1",
            [("Find a venue", ()), ("Find a band", ()), ("Write an invitation based on step 1", (0,))],
        ),
        ("Translate 'good morning' to French", []),
        ("Version 1.5 is out. Write 3 lines about it.", []),
        ("Explain: why is the sky blue?", []),
        ("Lập kế hoạch ba ngày du lịch Hà Nội cho gia đình có trẻ nhỏ", []),
        ("", []),
    ],
)
def test_parts_of_a_request_are_read(request_text: str, parts: list[tuple[str, tuple[int, ...]]]) -> None:
    """Numbers, bullets, aspects and turns; a text without any has no parts."""
    assert [(part.text, part.builds_on) for part in read_hints(request_text).parts] == parts


@pytest.mark.parametrize("request_text", [CAFE, "Write a poem", "写一份指南,并推荐一种", ""])
def test_grammar_admits_exactly_its_own_plans(request_text: str) -> None:
    """The first of every choice is a value of the grammar, and its plan is valid."""
    hints = read_hints(request_text or "x")
    plan = tiny_plan(None, hints)
    value = {
        "tasks": [
            {
                "id": task.id,
                "instruction": task.instruction,
                "depends_on": list(task.dependency_ids),
                "criterion": task.criteria[-1].statement,
            }
            for task in plan.tasks
        ]
    }

    assert check(value, tiny_plan_schema(hints)) == []  # type: ignore[arg-type]
    assert tiny_plan(value, hints).tasks == plan.tasks  # type: ignore[arg-type]
    assert validate(plan, LIMITS).problems == ()


def test_more_parts_than_allowed_are_joined_and_none_is_lost() -> None:
    """A request of many parts becomes as many tasks as may be."""
    lines = [f"{number}. Describe shop {number}" for number in range(1, 60)]
    hints, notes = grouped(read_hints("\n".join([*lines, "60. Using the parts above, write a summary"])), 24)
    plan = tiny_plan(None, hints)

    assert len(plan.tasks) == 24
    assert all(any(f"shop {number}" in task.instruction for task in plan.tasks) for number in range(1, 60))
    assert not find_cycle({task.id: task.dependency_ids for task in plan.tasks})
    assert "60 parts" in notes[0]


def test_keywords_are_what_a_text_can_hardly_avoid() -> None:
    """Content words, in English only: other scripts have no such stems."""
    assert keywords("Suggest ways to reduce packaging waste", "en") == ("reduce", "packaging", "waste")
    assert keywords("Giảm rác thải bao bì", "vi") == ()
