"""A request goes through real actors on a real Ray cluster and real HTTP to a judged answer; the models are simulated."""

from __future__ import annotations

from typing import Any

import pytest

from app.domain.language import detect_language
from tests.fakes.scripted import CHINESE, ENGLISH, VIETNAMESE, Story
from tests.integration.conftest import Stage

pytestmark = pytest.mark.ray


def by_id(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the tasks of a document by their ids."""
    return {task["id"]: task for task in document["tasks"]}


@pytest.mark.parametrize("story", [ENGLISH, VIETNAMESE, CHINESE], ids=["en", "vi", "zh"])
async def test_run_completes_with_judged_tasks_in_the_language_of_the_request(stage: Stage, story: Story) -> None:
    """Every task is done, judged and evaluated, and everything the user reads is in the user's language."""
    document = await stage.play(story.request)

    assert document["status"] == "completed", document
    assert document["answer"] == story.answer
    assert {task["status"] for task in document["tasks"]} == {"completed"}
    assert {name: result["output"] for name, result in document["results"].items()} == {
        step.id: step.result for step in story.steps
    }
    assert [item["task_id"] for item in document["evaluation"]] == ["t1", "t2", "t3", "t4"]
    assert {item["score"] for item in document["evaluation"]} == {0.9}
    assert {stage["produced_by"] for stage in document["stages"]} == {"model"}
    assert {detect_language(task["title"] + document["answer"]) for task in document["tasks"]} == {
        detect_language(story.request)
    }
    assert stage.simulator.asked("judge") == 4
