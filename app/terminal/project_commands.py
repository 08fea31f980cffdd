"""The commands about projects that exist: list, show, watch, answer, cancel."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.table import Table
from rich.text import Text

from app.domain.errors import ConflictError, RequestError
from app.domain.run import RunRecord, RunStatus
from app.http.follow import document_of
from app.http.wire import project_json, summary_json
from app.terminal.connect import Target
from app.terminal.display import display_on
from app.terminal.execute import Doors
from app.terminal.output import ExitStatus, emit_json, standard_error, standard_output, status_of
from app.terminal.play import watch as watch_run
from app.terminal.report import print_report, render_questions
from app.terminal.run_commands import asker_of, say_questions
from app.terminal.words import one_line, seconds


async def list_(doors: Doors, target: Target, *, limit: int, as_json: bool) -> int:
    """Print the newest projects."""
    async with doors.open_desk(target, _quiet) as desk:
        records = await desk.list_runs(limit=limit)
    if as_json:
        emit_json([summary_json(record) for record in records])
    else:
        standard_output().print(_table(records) if records else "No projects yet.")
    return int(ExitStatus.ANSWERED)


async def show(doors: Doors, target: Target, run_id: str, *, as_json: bool) -> int:
    """Print one project: its report once it rests, its state before."""
    async with doors.open_desk(target, _quiet) as desk:
        record = await desk.get(run_id)
    if as_json:
        emit_json(project_json(record))
    else:
        _print_record(record)
    return int(ExitStatus.ANSWERED)


async def watch(doors: Doors, target: Target, run_id: str, *, as_json: bool) -> int:
    """Show a project live until it rests, then its report; leaving does not stop it."""
    with display_on(standard_error()) as display:
        async with doors.open_desk(target, display.note) as desk:
            record = await watch_run(desk, run_id, display, None)
    return _finish(record, as_json=as_json)


async def answer(
    doors: Doors, target: Target, run_id: str, given: Sequence[str], *, assume_rest: bool, as_json: bool
) -> int:
    """Answer a project's questions, from the arguments or by asking, and return at once: the run goes on.

    Raises:
        RequestError: an argument is not ID=TEXT, or there are none and nobody to ask.
    """
    answers = parse_answers(given)
    async with doors.open_desk(target, _quiet) as desk:
        if not answers and not assume_rest:
            record = await desk.get(run_id)
            if record.status is not RunStatus.NEEDS_ANSWERS:
                raise ConflictError(f"The run {run_id!r} is {record.status.value}; it is not waiting for answers.")
            asker = asker_of(doors)
            answers = (asker(record.questions) if asker else None) or {}
            if not answers:
                say_questions(document_of(record))
                return int(ExitStatus.NEEDS_ANSWERS)
        record = await desk.answer(run_id, answers, assume_rest=assume_rest)
    if as_json:
        emit_json(project_json(record))
    if record.status is RunStatus.NEEDS_ANSWERS:
        say_questions(document_of(record))
        return int(ExitStatus.NEEDS_ANSWERS)
    standard_error().print(f"{record.run_id} goes on; follow it with `tutti projects watch {record.run_id}`")
    return int(ExitStatus.ANSWERED)


async def cancel(doors: Doors, target: Target, run_id: str, *, as_json: bool) -> int:
    """Stop a project and its model calls."""
    async with doors.open_desk(target, _quiet) as desk:
        record = await desk.cancel(run_id)
    if as_json:
        emit_json(project_json(record))
    else:
        standard_output().print(f"{record.run_id} is {record.status.value}")
    return int(ExitStatus.ANSWERED)


def parse_answers(given: Sequence[str]) -> dict[str, str]:
    """Return answers by question id from ``ID=TEXT`` arguments."""
    answers: dict[str, str] = {}
    for item in given:
        question_id, equals, text = item.partition("=")
        if not equals or not question_id.strip() or not text.strip():
            raise RequestError(
                f"An answer is written ID=TEXT; this is {item!r}.",
                param="ANSWER",
                remedy='Write for instance q1="two people".',
            )
        answers[question_id.strip()] = text.strip()
    return answers


def _finish(record: RunRecord, *, as_json: bool) -> int:
    document = document_of(record)
    if as_json:
        emit_json(document)
    elif record.status is not RunStatus.NEEDS_ANSWERS:
        print_report(standard_output(), document)
    if record.status is RunStatus.NEEDS_ANSWERS:
        say_questions(document)
    return int(status_of(document))


def _print_record(record: RunRecord) -> None:
    console = standard_output()
    document = document_of(record)
    if record.status.ended:
        print_report(console, document)
        return
    console.print(
        Text.assemble((record.run_id, "bold"), f" {record.status.value}: {one_line(record.request.text, 120)}")
    )
    if record.status is RunStatus.NEEDS_ANSWERS:
        console.print(render_questions(document))
        return
    for task in record.tasks:
        served_by = f" on {task.account} ({task.model})" if task.account else ""
        console.print(Text(f"  {task.task_id} {task.state.value}{served_by}"))


def _table(records: Sequence[RunRecord]) -> Table:
    table = Table()
    for name in ("run", "status", "created", "took", "request"):
        table.add_column(name, overflow="fold")
    for record in records:
        created = datetime.fromtimestamp(record.created_s, tz=UTC).astimezone()
        table.add_row(
            Text(record.run_id),
            Text(record.status.value),
            created.strftime("%Y-%m-%d %H:%M:%S"),
            seconds(record.updated_s - record.created_s),
            Text(one_line(record.request.text, 60)),
        )
    return table


def _quiet(text: str) -> None:
    """Say nothing of connecting: these commands answer at once."""
