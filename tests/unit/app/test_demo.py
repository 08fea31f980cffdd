"""The demonstration checks itself: every point of its checklist can fail."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from app import demo
from app.domain.errors import InternalError
from app.domain.ports import Desk
from app.terminal.connect import Progress, Target
from app.terminal.execute import Doors
from tests.fakes.desk import FakeDesk
from tests.fakes.runs import sample_document

Document = dict[str, Any]


def _document() -> Document:
    document: Document = json.loads(json.dumps(sample_document("run-1").to_json()))
    return document


def test_recorded_run_passes_every_point() -> None:
    """The sample run has four tasks, a dependency, two at once, models everywhere."""
    points = demo.verify(_document())

    assert [point.name for point in points if not point.holds] == []
    assert len(points) == 8


def _drop_a_task(document: Document) -> None:
    document["tasks"].pop()


def _drop_dependencies(document: Document) -> None:
    for task in document["tasks"]:
        task["depends_on"] = []


def _one_after_the_other(document: Document) -> None:
    for number, task in enumerate(document["tasks"]):
        task["started_s"], task["finished_s"] = float(number), number + 1.0


def _merge_by_fallback(document: Document) -> None:
    next(stage for stage in document["stages"] if stage["name"] == "merge")["produced_by"] = "fallback"


def _no_plan_stage(document: Document) -> None:
    document["stages"] = [stage for stage in document["stages"] if stage["name"] != "plan"]


def _evaluate_by_fallback(document: Document) -> None:
    document["evaluation"][2]["produced_by"] = "fallback"


def _forget_an_evaluation(document: Document) -> None:
    document["evaluation"].pop()


def _partial(document: Document) -> None:
    document["status"] = "partial"


def _no_answer(document: Document) -> None:
    document["answer"] = " "


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (_drop_a_task, "at least 4 tasks"),
        (_drop_dependencies, "a task that waits for another"),
        (_one_after_the_other, "two tasks running at once"),
        (_merge_by_fallback, "merge is made by a model"),
        (_no_plan_stage, "plan is made by a model"),
        (_evaluate_by_fallback, "every task is evaluated, by a model"),
        (_forget_an_evaluation, "every task is evaluated, by a model"),
        (_partial, "the run is completed with an answer"),
        (_no_answer, "the run is completed with an answer"),
    ],
)
def test_each_point_fails_when_its_fact_is_missing(spoil: Callable[[Document], None], name: str) -> None:
    """A checklist that cannot fail shows nothing."""
    document = _document()
    spoil(document)

    assert name in [point.name for point in demo.verify(document) if not point.holds]


def test_checklist_says_which_point_fails() -> None:
    """By name, with what was found instead."""
    console = Console(record=True, width=120, file=io.StringIO())
    good = demo.print_checklist(console, [replace(demo.verify(_document())[1], holds=False, found="3")])

    assert not good
    assert "✗ at least 4 tasks: 3" in console.export_text()


def _doors(desk: Desk, targets: list[Target]) -> Doors:
    @asynccontextmanager
    async def open_desk(target: Target, on_progress: Progress) -> AsyncIterator[Desk]:
        assert target.config is not None
        assert "provider: local" in target.config.read_text()
        targets.append(target)
        yield desk

    return Doors(open_desk=open_desk)


def test_demo_plays_the_sample_and_writes_its_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It exits 0, uses the embedded model and a data directory of its own, and leaves run.json."""
    desk, targets = FakeDesk(), list[Target]()
    status = demo.main(_doors(desk, targets), tmp_path / "run.json")

    assert status == 0
    assert "1)" in desk.requests[0].text
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "completed"
    assert "✓ two tasks running at once" in capsys.readouterr().out
    assert targets[0].config is not None
    assert not targets[0].config.exists(), "its folder is gone"


def test_demo_fails_when_a_point_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit status 1 where the run was not what it should show."""
    monkeypatch.setattr(demo, "TASKS_MIN", 5)

    assert demo.main(_doors(FakeDesk(), []), tmp_path / "run.json") == 1


def test_demo_says_what_failed_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A cluster that does not start is told in words."""
    desk = FakeDesk()
    desk.failing["start"] = InternalError("the cluster does not answer", remedy="Try again.")

    assert demo.main(_doors(desk, []), tmp_path / "run.json") == 4
    assert "the cluster does not answer" in capsys.readouterr().err
