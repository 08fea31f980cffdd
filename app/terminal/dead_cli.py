"""The options of `tutti events dead`."""

from __future__ import annotations

from typing import Annotated

import typer

from app.terminal.execute import execute
from app.terminal.options import Config, Json

dead = typer.Typer(no_args_is_help=True, help="Events that their receiver refused for good: look, send again, let go.")

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Of events.")]
All = Annotated[bool, typer.Option("--all", help="All of them.")]


@dead.command("list", epilog="Example: tutti events dead list --json")
def list_(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="Events at most, the oldest.")] = 100,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List them, with what the receiver said."""
    from app.terminal import dead_letters

    execute(context.obj, lambda: dead_letters.show(config, limit=limit, as_json=as_json), as_json=as_json)


@dead.command("replay", epilog="Example: tutti events dead replay --all")
def replay(
    context: typer.Context, ids: Ids = None, every: All = False, config: Config = None, as_json: Json = False
) -> None:
    """Send them again, once what was wrong is mended."""
    from app.terminal import dead_letters

    execute(
        context.obj,
        lambda: dead_letters.settle(config, "replay", ids or (), every=every, as_json=as_json),
        as_json=as_json,
    )


@dead.command("drop", epilog="Example: tutti events dead drop 01a1fa89-bd07-7428-9364-c5625ca5ddbe")
def drop(
    context: typer.Context, ids: Ids = None, every: All = False, config: Config = None, as_json: Json = False
) -> None:
    """Delete them: they are nowhere then."""
    from app.terminal import dead_letters

    execute(
        context.obj,
        lambda: dead_letters.settle(config, "drop", ids or (), every=every, as_json=as_json),
        as_json=as_json,
    )
