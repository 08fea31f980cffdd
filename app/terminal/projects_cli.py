"""`tutti projects`: declares the commands; ``project_commands`` and ``rework_commands`` do them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.terminal import project_commands, rework_commands
from app.terminal.asking import Asked, asking
from app.terminal.options import RunId

projects = typer.Typer(
    no_args_is_help=True, help="Projects on the running server: look, follow, answer, stop, do again."
)


@projects.command("retry", epilog="Example: tutti projects retry RUN t2")
@asking()
async def retry(
    asked: Asked,
    run_id: RunId,
    task_id: Annotated[str, typer.Argument(metavar="TASK", help="Id of the task; `tutti projects show` lists them.")],
) -> int:
    """Do one task of a project that is over again, and what depends on it; other results are kept."""
    return await rework_commands.retry(asked.doors, asked.target, run_id, task_id, as_json=asked.as_json)


@projects.command("resume", epilog="Example: tutti projects resume RUN --buy-again")
@asking()
async def resume(
    asked: Asked,
    run_id: RunId,
    buy_again: Annotated[
        bool,
        typer.Option("--buy-again/--give-up", help="Make the lost calls again, perhaps paid twice, or never."),
    ],
) -> int:
    """Let a project go on that asks about calls lost in a crash (`on_unknown: hold`)."""
    return await rework_commands.resume(asked.doors, asked.target, run_id, buy_again=buy_again, as_json=asked.as_json)


@projects.command("export", epilog="Example: tutti projects export RUN run.zip")
@asking(json=False)
async def export(
    asked: Asked,
    run_id: RunId,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The zip to write; one that exists is replaced.")],
) -> int:
    """Write everything about a project into one zip: run, plans, tasks, calls, events, costs; no secrets."""
    return await rework_commands.export(asked.doors, asked.target, run_id, file)


@projects.command("fork", epilog='Example: tutti projects fork RUN --from t2 --input "Leave out decaf."')
@asking()
async def fork(
    asked: Asked,
    run_id: RunId,
    from_task: Annotated[
        str, typer.Option("--from", metavar="TASK", help="From this task on everything is done anew.")
    ],
    more: Annotated[
        str | None, typer.Option("--input", metavar="TEXT", help="What that task is told beside its instruction.")
    ] = None,
) -> int:
    """Start a new project with the plan of this one and every result that does not depend on a task of it.

    The project itself stays as it is, and what is taken over is not bought again.
    """
    forking = rework_commands.Forking(run_id=run_id, from_task=from_task, more=more)
    return await rework_commands.fork(asked.doors, asked.target, forking, as_json=asked.as_json)


@projects.command("list", epilog="Example: tutti projects list --limit 50")
@asking()
async def list_(
    asked: Asked,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="Rows at most.")] = 20,
) -> int:
    """List projects, newest first."""
    return await project_commands.list_(asked.doors, asked.target, limit=limit, as_json=asked.as_json)


@projects.command("show", epilog="Example: tutti projects show RUN --json")
@asking()
async def show(asked: Asked, run_id: RunId) -> int:
    """Show a project as it stands; once it rests, its report."""
    return await project_commands.show(asked.doors, asked.target, run_id, as_json=asked.as_json)


@projects.command("watch", epilog="Example: tutti projects watch RUN")
@asking()
async def watch(asked: Asked, run_id: RunId) -> int:
    """Follow a project live until it rests; leaving with Ctrl-C does not stop it."""
    return await project_commands.watch(asked.doors, asked.target, run_id, as_json=asked.as_json)


@projects.command("answer", epilog='Example: tutti projects answer RUN q1="two people" q2=vegetarian')
@asking()
async def answer(
    asked: Asked,
    run_id: RunId,
    answers: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID=TEXT...", help="Answers by question id; without any you are asked."),
    ] = None,
    assume_defaults: Annotated[
        bool, typer.Option("--assume-defaults", help="Take the defaults of the questions left open.")
    ] = False,
) -> int:
    """Answer a project's questions; it goes on once all are answered."""
    return await project_commands.answer(
        asked.doors, asked.target, run_id, answers or [], assume_rest=assume_defaults, as_json=asked.as_json
    )


@projects.command("cancel", epilog="Example: tutti projects cancel RUN")
@asking()
async def cancel(asked: Asked, run_id: RunId) -> int:
    """Stop a project and its model calls."""
    return await project_commands.cancel(asked.doors, asked.target, run_id, as_json=asked.as_json)
