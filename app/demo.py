"""Plays the main job on this machine with the embedded model and checks that all of it really happened.

Run as ``python -m app.demo`` (`make run`). Uses a data directory of its own, so that it never meets a running server;
writes ``run.json``. Exit status 0 only if every point of the checklist holds, 1 where one does not; 4 and 130 as for
`tutti run`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from app.domain.chat import Json
from app.domain.run import RunRequest
from app.http.follow import document_of
from app.terminal.connect import Target
from app.terminal.display import display_on
from app.terminal.execute import Doors, execute
from app.terminal.output import standard_error, standard_output, write_document
from app.terminal.play import play
from app.terminal.report import print_report
from app.terminal.words import float_of, list_of, object_of, text_of

EXAMPLE = Path(__file__).parents[1] / "examples" / "request.txt"
RESULT = Path("run.json")
TASKS_MIN = 4

CONFIGURATION = """\
accounts:
  - name: embedded
    provider: local
    models: [smollm2-135m]
    limits: {{concurrency: 2}}
data_dir: {data_dir}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One point of the checklist."""

    name: str
    holds: bool
    found: str


def verify(document: Mapping[str, Json]) -> Sequence[Point]:
    """Return what a run must show, and whether this one does; judged from its result document alone."""
    tasks = [object_of(task) for task in list_of(document.get("tasks"))]
    edges = [
        f"{text_of(task.get('id'))} needs {needed}" for task in tasks for needed in list_of(task.get("depends_on"))
    ]
    together = running_together(tasks)
    stages = {text_of(object_of(stage).get("name")): object_of(stage) for stage in list_of(document.get("stages"))}
    evaluation = [object_of(item) for item in list_of(document.get("evaluation"))]
    missing = {text_of(task.get("id")) for task in tasks} - {text_of(item.get("task_id")) for item in evaluation}
    made_by = {
        name: text_of(stages.get(name, {}).get("produced_by"), "missing") for name in ("plan", "merge", "evaluate")
    }
    scored_by = {text_of(item.get("produced_by"), "missing") for item in evaluation}
    status = text_of(document.get("status"))
    return (
        Point(name="the run is completed with an answer", holds=_answered(document), found=status),
        Point(name=f"at least {TASKS_MIN} tasks", holds=len(tasks) >= TASKS_MIN, found=str(len(tasks))),
        Point(name="a task that waits for another", holds=bool(edges), found=", ".join(edges) or "none"),
        Point(name="two tasks running at once", holds=bool(together), found=" and ".join(together) or "never"),
        *(
            Point(name=f"{name} is made by a model", holds=by in ("model", "repaired"), found=by)
            for name, by in made_by.items()
        ),
        Point(
            name="every task is evaluated, by a model",
            holds=bool(tasks) and not missing and scored_by <= {"model", "repaired"},
            found=f"without: {', '.join(sorted(missing))}" if missing else ", ".join(sorted(scored_by)) or "none",
        ),
    )


def running_together(tasks: Sequence[Mapping[str, Json]]) -> tuple[str, ...]:
    """Return the ids of two tasks whose running times overlap; none if there are no such two."""
    spans = sorted(
        (float_of(task.get("started_s")), float_of(task.get("finished_s")), text_of(task.get("id")))
        for task in tasks
        if task.get("started_s") is not None and task.get("finished_s") is not None
    )
    for (_, finished_s, first), (started_s, _, second) in pairwise(spans):
        if started_s < finished_s:
            return first, second
    return ()


def print_checklist(console: Console, points: Sequence[Point]) -> bool:
    """Print every point and return whether all hold."""
    console.print()
    for point in points:
        mark = ("✓ ", "green") if point.holds else ("✗ ", "bold red")
        console.print(Text.assemble(mark, point.name, (f": {point.found}", "dim")), soft_wrap=True)
    return all(point.holds for point in points)


async def demonstrate(doors: Doors, config: Path, result: Path) -> int:
    """Play the sample request, print the report, write the document, verify it."""
    request = RunRequest(text=EXAMPLE.read_text(encoding="utf-8"), assume_defaults=True)
    target = Target(config=config, own_cluster=True)
    with display_on(standard_error()) as display:
        async with doors.open_desk(target, display.note) as desk:
            record = await play(desk, request, display, None)
    document = document_of(record)
    write_document(result, document)
    console = standard_output()
    print_report(console, document)
    good = print_checklist(console, verify(document))
    console.print(f"\nThe result document is in {result}.", highlight=False)
    return 0 if good else 1


def main(doors: Doors | None = None, result: Path = RESULT) -> int:
    """Entry point."""
    with tempfile.TemporaryDirectory(prefix="tutti-demo-", ignore_cleanup_errors=True) as folder:
        config = Path(folder) / "tutti.yaml"
        config.write_text(CONFIGURATION.format(data_dir=os.path.join(folder, "data")), encoding="utf-8")
        chosen = doors or Doors()
        try:
            execute(chosen, lambda: demonstrate(chosen, config, result))
        except typer.Exit as left:
            return left.exit_code
    return 0


def _answered(document: Mapping[str, Json]) -> bool:
    return text_of(document.get("status")) == "completed" and bool(text_of(document.get("answer")).strip())


if __name__ == "__main__":
    sys.exit(main())
