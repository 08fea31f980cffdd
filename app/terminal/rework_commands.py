"""The commands that go on from what a project has: retry, fork, resume and export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from app.domain.errors import ConflictError
from app.domain.run import RunRecord, RunStatus
from app.http.wire import project_json
from app.services.held_calls import BUY_AGAIN, GIVE_UP, is_held
from app.terminal.connect import Target
from app.terminal.execute import Doors
from app.terminal.output import (
    ExitStatus,
    check_writable,
    emit_json,
    standard_error,
    standard_output,
    write_bytes,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forking:
    """From where a new project goes on."""

    run_id: str
    from_task: str
    more: str | None = None


async def retry(doors: Doors, target: Target, run_id: str, task_id: str, *, as_json: bool) -> int:
    """Do a task again and return at once: the run goes on."""
    async with doors.open_desk(target, _quiet) as desk:
        record = await desk.retry(run_id, task_id)
    return _say(record, f"{record.run_id} does {task_id} again", as_json=as_json)


async def fork(doors: Doors, target: Target, forking: Forking, *, as_json: bool) -> int:
    """Start a project from another's results and return at once."""
    async with doors.open_desk(target, _quiet) as desk:
        record = await desk.fork(forking.run_id, forking.from_task, more=forking.more)
    kept = len(record.tasks)
    return _say(record, f"{record.run_id} takes over {kept} results of {forking.run_id}", as_json=as_json)


async def resume(doors: Doors, target: Target, run_id: str, *, buy_again: bool, as_json: bool) -> int:
    """Decide on every call that was lost on its way, and let the project go on.

    Raises:
        ConflictError: it waits for no such decision.
    """
    async with doors.open_desk(target, _quiet) as desk:
        record = await desk.get(run_id)
        answered = dict(record.answers)
        lost = [one.id for one in record.questions if is_held(one.id) and one.id not in answered]
        if record.status is not RunStatus.NEEDS_ANSWERS or not lost:
            raise ConflictError(
                f"The run {run_id!r} waits for no decision about a lost call.",
                remedy=f"See what it waits for with `tutti projects show {run_id}`.",
            )
        record = await desk.answer(run_id, dict.fromkeys(lost, BUY_AGAIN if buy_again else GIVE_UP), assume_rest=False)
    done = "buys" if buy_again else "gives up"
    return _say(record, f"{record.run_id} {done} {len(lost)} lost calls", as_json=as_json)


async def export(doors: Doors, target: Target, run_id: str, file: Path) -> int:
    """Write a project's zip whole or not at all."""
    check_writable(file, "FILE")
    async with doors.open_desk(target, _quiet) as desk:
        data = await desk.export(run_id)
    write_bytes(file, data)
    standard_error().print(f"{run_id} is in {file}", soft_wrap=True, markup=False)
    return int(ExitStatus.ANSWERED)


def _say(record: RunRecord, text: str, *, as_json: bool) -> int:
    if as_json:
        emit_json(project_json(record))
    else:
        console = standard_output()
        console.print(f"{text}; follow it with `tutti projects watch {record.run_id}`", soft_wrap=True, markup=False)
    return int(ExitStatus.ANSWERED)


def _quiet(text: str) -> None:
    """Say nothing of connecting: these commands answer at once."""
