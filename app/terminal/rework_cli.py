"""`tutti projects` retry, fork, resume and export: declares them; ``rework_commands`` does them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.terminal import rework_commands
from app.terminal.connect import Target
from app.terminal.execute import Doors, execute
from app.terminal.options import Config, Json, RunId, Server

commands = typer.Typer()


@commands.command("retry", epilog="Example: tutti projects retry RUN t2")
def retry(
    context: typer.Context,
    run_id: RunId,
    task_id: Annotated[str, typer.Argument(metavar="TASK", help="Id of the task; `tutti projects show` lists them.")],
    config: Config = None,
    as_json: Json = False,
    server: Server = None,
) -> None:
    """Do one task of a project that is over again, and what depends on it; other results are kept."""
    doors: Doors = context.obj
    target = Target(server=server, config=config)
    execute(doors, lambda: rework_commands.retry(doors, target, run_id, task_id, as_json=as_json), as_json=as_json)


@commands.command("resume", epilog="Example: tutti projects resume RUN --buy-again")
def resume(
    context: typer.Context,
    run_id: RunId,
    buy_again: Annotated[
        bool,
        typer.Option("--buy-again/--give-up", help="Make the lost calls again, perhaps paid twice, or never."),
    ],
    config: Config = None,
    as_json: Json = False,
    server: Server = None,
) -> None:
    """Let a project go on that asks about calls lost in a crash (`on_unknown: hold`)."""
    doors: Doors = context.obj
    target = Target(server=server, config=config)
    execute(
        doors,
        lambda: rework_commands.resume(doors, target, run_id, buy_again=buy_again, as_json=as_json),
        as_json=as_json,
    )


@commands.command("export", epilog="Example: tutti projects export RUN run.zip")
def export(
    context: typer.Context,
    run_id: RunId,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The zip to write; one that exists is replaced.")],
    config: Config = None,
    server: Server = None,
) -> None:
    """Write everything about a project into one zip: run, plans, tasks, calls, events, costs; no secrets."""
    doors: Doors = context.obj
    target = Target(server=server, config=config)
    execute(doors, lambda: rework_commands.export(doors, target, run_id, file))


@commands.command("fork", epilog='Example: tutti projects fork RUN --from t2 --input "Leave out decaf."')
def fork(  # noqa: PLR0913  one parameter an option
    context: typer.Context,
    run_id: RunId,
    from_task: Annotated[
        str, typer.Option("--from", metavar="TASK", help="From this task on everything is done anew.")
    ],
    more: Annotated[
        str | None, typer.Option("--input", metavar="TEXT", help="What that task is told beside its instruction.")
    ] = None,
    config: Config = None,
    as_json: Json = False,
    server: Server = None,
) -> None:
    """Start a new project with the plan of this one and every result that does not depend on a task of it.

    The project itself stays as it is, and what is taken over is not bought again.
    """
    doors: Doors = context.obj
    target = Target(server=server, config=config)
    forking = rework_commands.Forking(run_id=run_id, from_task=from_task, more=more)
    execute(doors, lambda: rework_commands.fork(doors, target, forking, as_json=as_json), as_json=as_json)
