"""The commands that conduct: run and plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rich.text import Text

from app.domain.chat import Json
from app.domain.plan import Question
from app.domain.run import RunRecord, RunRequest, RunStatus
from app.http.follow import document_of
from app.http.wire import plain
from app.terminal.ask import ask_all
from app.terminal.board import RunBoard
from app.terminal.connect import Target
from app.terminal.display import display_on
from app.terminal.execute import Doors
from app.terminal.output import (
    ExitStatus,
    check_writable,
    emit_json,
    standard_error,
    standard_output,
    status_of,
    write_document,
)
from app.terminal.plan_report import render_plan
from app.terminal.play import Asker, play
from app.terminal.report import print_report, render_questions
from app.terminal.words import list_of, object_of, text_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Conducting:
    """What run and plan were asked to do."""

    request: RunRequest
    target: Target
    as_json: bool = False
    out: Path | None = None


async def run(doors: Doors, wanted: Conducting) -> int:
    """Conduct a request and print its answer."""
    check_writable(wanted.out, "--out")
    record, _ = await _conduct(doors, wanted)
    document = document_of(record)
    if wanted.out is not None:
        write_document(wanted.out, document)
    if wanted.as_json:
        emit_json(document)
    elif record.status is not RunStatus.NEEDS_ANSWERS:
        print_report(standard_output(), document)
    if record.status is RunStatus.NEEDS_ANSWERS:
        say_questions(document)
    return int(status_of(document))


async def plan(doors: Doors, wanted: Conducting) -> int:
    """Plan a request, print the DAG with its estimate, do none of it."""
    check_writable(wanted.out, "--out")
    record, board = await _conduct(doors, wanted)
    document = plan_document(record, board)
    if wanted.out is not None:
        write_document(wanted.out, document)
    if wanted.as_json:
        emit_json(document)
    if record.status is RunStatus.NEEDS_ANSWERS:
        say_questions(document)
        return int(ExitStatus.NEEDS_ANSWERS)
    if not list_of(document.get("tasks")):
        error = text_of(document.get("error"), "no plan was made")
        standard_error().print(Text.assemble(("error: ", "bold red"), error))
        return int(ExitStatus.NO_ANSWER)
    if not wanted.as_json:
        standard_output().print(render_plan(document))
    return int(ExitStatus.ANSWERED)


def plan_document(record: RunRecord, board: RunBoard) -> dict[str, Json]:
    """Return what `tutti plan --json` prints: every planned task in full, with the models that may take it."""
    models = {
        text_of(object_of(task).get("id")): object_of(task).get("models") for task in list_of(board.plan.get("tasks"))
    }
    tasks: list[Json] = []
    for task in record.plan.tasks if record.plan else ():
        fields = plain(task)
        tasks.append({**fields, "depends_on": list(task.dependency_ids), "models": models.get(task.id)})
    assumptions = record.plan.assumptions if record.plan else ()
    return {
        "run_id": record.run_id,
        "status": record.status.value,
        "goal": record.plan.goal if record.plan else board.goal,
        "produced_by": record.plan.produced_by if record.plan else None,
        "tasks": tasks,
        "estimate": board.plan.get("estimate"),
        "assumptions": [*dict.fromkeys((*record.assumptions, *assumptions))],
        "questions": cast("list[Json]", [plain(question) for question in record.questions]),
        "error": text_of(record.document.get("error")) or None if record.document else None,
    }


def say_questions(document: Mapping[str, Json]) -> None:
    """Say on standard error what the run wants to know and how to answer."""
    console = standard_error()
    console.print(Text("This cannot be planned without answers:", style="yellow"))
    console.print(render_questions(document))
    run_id = text_of(document.get("run_id"))
    ids = [text_of(object_of(question).get("id")) for question in list_of(document.get("questions"))]
    given = " ".join(f"{question_id}=…" for question_id in ids)
    console.print(
        Text(f"Answer with `tutti projects answer {run_id} {given}`, or run again with --assume-defaults."),
        soft_wrap=True,
    )


def asker_of(doors: Doors) -> Asker | None:
    """Return who answers questions: the person at the terminal, or nobody."""
    if not doors.interactive():
        return None

    def ask(questions: Sequence[Question]) -> dict[str, str] | None:
        return ask_all(questions, standard_error(), doors.read_line)

    return ask


async def _conduct(doors: Doors, wanted: Conducting) -> tuple[RunRecord, RunBoard]:
    with display_on(standard_error()) as display:
        async with doors.open_desk(wanted.target, display.note) as desk:
            record = await play(desk, wanted.request, display, asker_of(doors))
        return record, display.board
