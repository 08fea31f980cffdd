"""`tutti events`: declares the commands; what they do is imported when one is called."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from app.terminal.dead_cli import dead
from app.terminal.execute import execute, leave
from app.terminal.options import Config, Json

events = typer.Typer(help="What happens, as events: look, follow, delete a person's.", invoke_without_command=True)
events.add_typer(dead, name="dead")


@events.callback(epilog="Example: tutti events --since 1h --where type=call.finished --where account=openai-a --follow")
def show(  # noqa: PLR0913  one parameter an option
    context: typer.Context,
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="How far back: 30s, 10m, 2h, 7d, or an ISO time.")
    ] = "10m",
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="FIELD=VALUE", help="Only these; again: and these. `type` is the event's."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1_000_000, help="Events at most, the newest.")] = 1_000,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one document a line.")] = False,
) -> None:
    """Show what happened, oldest first, read where it is kept on this machine."""
    if context.invoked_subcommand is not None:
        return
    from app.terminal import events_commands

    async def work() -> int:
        asked = events_commands.question(since, where or (), limit, time.time())
        return await events_commands.show(config, asked, follow=follow, as_json=as_json)

    execute(context.obj, work)


@events.command("types", epilog="Example: tutti events types")
def types(context: typer.Context, as_json: Json = False) -> None:
    """List every type of event there is."""
    from app.terminal import events_commands

    leave(context.obj, lambda: events_commands.types(as_json=as_json), as_json=as_json)


@events.command("forget", epilog="Example: tutti events forget --user u-4711")
def forget(
    context: typer.Context,
    user: Annotated[str, typer.Option("--user", metavar="ID", help="Whose events.")],
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Delete every event of a user: on this machine, in the store, and in Elasticsearch."""
    from app.terminal import events_commands

    execute(context.obj, lambda: events_commands.forget(config, user, as_json=as_json), as_json=as_json)
