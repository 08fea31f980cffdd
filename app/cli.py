"""The `tutti` command: declares commands and options; what they do stands in ``app/terminal``.

Exit status: 0 an answer was delivered (a partial one included), 1 the books differ, 2 bad input or configuration,
3 needs answers, 4 no answer, 130 interrupted. No traceback reaches a user; TUTTI_DEBUG=1 shows it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import typer

from app.domain.run import RunRequest
from app.terminal import operator_commands, run_commands, serve_command
from app.terminal.books_cli import books, figures
from app.terminal.connect import Target
from app.terminal.elastic_cli import elastic, kibana
from app.terminal.events_cli import events
from app.terminal.execute import Doors, execute, leave
from app.terminal.options import Config, Json, Server
from app.terminal.output import ExitStatus
from app.terminal.projects_cli import projects
from app.terminal.request_text import read_request_text
from app.terminal.run_commands import Conducting

app = typer.Typer(
    name="tutti",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help='Turn all your LLM accounts into one orchestra. Begin with: [bold]tutti run "Compare tea and coffee"[/]',
    epilog=(
        "Exit status: 0 answered, 1 the books differ, 2 bad input or configuration, 3 needs answers, 4 no answer, "
        "130 interrupted."
    ),
)
app.add_typer(projects, name="projects")
app.add_typer(figures)
db = typer.Typer(no_args_is_help=True, help="The database of runs and books: its schema, and copies of it.")
app.add_typer(db, name="db")
app.add_typer(books, name="books")
app.add_typer(events, name="events")
app.add_typer(elastic, name="elastic")
app.add_typer(kibana, name="kibana")

Text = Annotated[str | None, typer.Argument(metavar="TEXT", help="What is to be done; - reads standard input.")]
FileOption = Annotated[Path | None, typer.Option("--file", metavar="F", help="Read the request from a file.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the result document there too.")]
AssumeDefaults = Annotated[
    bool, typer.Option("--assume-defaults", help="Never ask: take the default answers and record them.")
]
Timeout = Annotated[
    float | None, typer.Option("--timeout", metavar="S", min=0.1, help="Seconds until the run must be over.")
]
TokensMax = Annotated[
    int | None,
    typer.Option("--max-tokens-total", metavar="N", min=1, help="Ceiling over all model calls of the run."),
]
BudgetUsd = Annotated[
    str | None,
    typer.Option(
        "--budget-usd", metavar="USD", help="Most that the run may cost: a call that might exceed it is not made."
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tutti {version('tutti')}")
        raise typer.Exit()


@app.callback()
def root(
    context: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", envvar="TUTTI_DEBUG", hidden=True)] = False,
) -> None:
    """Declare what all commands share."""
    context.obj = replace(context.obj or Doors(), debug=debug)


@app.command(epilog='Example: tutti run "Compare tea and coffee for an office" --json --out run.json')
def run(  # noqa: PLR0913  one parameter an option
    context: typer.Context,
    text: Text = None,
    file: FileOption = None,
    config: Config = None,
    as_json: Json = False,
    out: Out = None,
    assume_defaults: AssumeDefaults = False,
    timeout: Timeout = None,
    max_tokens_total: TokensMax = None,
    budget_usd: BudgetUsd = None,
    server: Server = None,
) -> None:
    """Conduct a request: plan it, play it on all accounts, judge, merge, evaluate."""
    doors: Doors = context.obj

    async def work() -> int:
        request = RunRequest(
            text=read_request_text(text, file, _read_stdin),
            assume_defaults=assume_defaults,
            timeout_s=timeout,
            tokens_max=max_tokens_total,
            budget_usd=budget_usd,
        )
        target = Target(server=server, config=config, own_cluster=True)
        return await run_commands.run(doors, Conducting(request=request, target=target, as_json=as_json, out=out))

    execute(doors, work, as_json=as_json)


@app.command(epilog="Example: tutti plan --file request.txt")
def plan(  # noqa: PLR0913  one parameter an option
    context: typer.Context,
    text: Text = None,
    file: FileOption = None,
    config: Config = None,
    as_json: Json = False,
    out: Out = None,
    assume_defaults: AssumeDefaults = False,
    timeout: Timeout = None,
    max_tokens_total: TokensMax = None,
    budget_usd: BudgetUsd = None,
    server: Server = None,
) -> None:
    """Show how a request would be played: tasks, tokens, cost, lower bound. Spends only the planning."""
    doors: Doors = context.obj

    async def work() -> int:
        request = RunRequest(
            text=read_request_text(text, file, _read_stdin),
            assume_defaults=assume_defaults,
            timeout_s=timeout,
            tokens_max=max_tokens_total,
            budget_usd=budget_usd,
            plan_only=True,
        )
        target = Target(server=server, config=config, own_cluster=True)
        return await run_commands.plan(doors, Conducting(request=request, target=target, as_json=as_json, out=out))

    execute(doors, work, as_json=as_json)


@app.command(epilog="Example: tutti serve --config tutti.yaml --port 8000")
def serve(
    context: typer.Context,
    config: Config = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")] = 8000,
) -> None:
    """Serve HTTP in the foreground, print `ready http://HOST:PORT` when it accepts requests; Ctrl-C drains and ends."""
    leave(context.obj, lambda: serve_command.serve(config, host, port))


@app.command(epilog="Example: tutti init && tutti check")
def init(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Where to write it.")] = Path("tutti.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a commented configuration."""
    leave(context.obj, lambda: operator_commands.init(path, force=force))


@app.command(epilog="Example: tutti check --config tutti.yaml --live")
def check(
    context: typer.Context,
    config: Config = None,
    live: Annotated[
        bool, typer.Option("--live", help="Also make one tiny call per account, through the running server.")
    ] = False,
    as_json: Json = False,
    server: Server = None,
) -> None:
    """Validate the configuration; name every mistake with its line."""
    doors: Doors = context.obj
    target = Target(server=server, config=config)
    execute(doors, lambda: operator_commands.check(doors, target, live=live, as_json=as_json), as_json=as_json)


@app.command("doctor", epilog="Example: tutti doctor --json")
def look_for_faults(
    context: typer.Context, config: Config = None, as_json: Json = False, server: Server = None
) -> None:
    """Say on one page what is wrong and what to do about it; exit status 4 where something is."""

    async def work() -> int:
        from app.terminal.doctor import doctor

        return await doctor(Target(server=server, config=config), as_json=as_json)

    execute(context.obj, work, as_json=as_json)


@app.command(epilog="Example: tutti reload")
def reload(context: typer.Context, config: Config = None, as_json: Json = False, server: Server = None) -> None:
    """Make the running server read its configuration again; a wrong one changes nothing and says why."""
    doors: Doors = context.obj
    target = Target(server=server, config=config)
    execute(doors, lambda: operator_commands.reload(doors, target, as_json=as_json), as_json=as_json)


@app.command(epilog="Example: tutti accounts --by identity")
def accounts(
    context: typer.Context,
    by: Annotated[Literal["account", "identity"], typer.Option("--by", help="Group the rows.")] = "account",
    config: Config = None,
    as_json: Json = False,
    server: Server = None,
) -> None:
    """Watch the accounts: state, limits and their use, calls in flight, cooldown, last error."""
    doors: Doors = context.obj
    target = Target(server=server, config=config)
    execute(
        doors,
        lambda: operator_commands.accounts(doors, target, by_identity=by == "identity", as_json=as_json),
        as_json=as_json,
    )


@app.command(epilog="Example: tutti simulate --config examples/sim.yaml --port 9100")
def simulate(
    context: typer.Context,
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="What to simulate; see examples/sim.yaml.")],
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on; default: the file's.")] = None,
    port: Annotated[int | None, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = None,
) -> None:
    """Play providers: rehearse limits and failures without spending."""
    leave(context.obj, lambda: serve_command.simulate(config, host, port))


Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@db.command("status", epilog="Example: tutti db status")
def db_status(context: typer.Context, config: Config = None, as_json: Json = False) -> None:
    """Say where the database is, which schema it has and who writes to it."""
    # Imported here and below: what reads databases takes as long to load as all the rest of this command.
    from app.terminal import db_commands

    leave(context.obj, lambda: db_commands.status(config, as_json=as_json), as_json=as_json)


@db.command("migrate", epilog="Example: tutti db migrate --dry-run")
def db_migrate(
    context: typer.Context,
    to: Annotated[str | None, typer.Option("--to", metavar="REV", help="Default: the newest revision.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the SQL; change nothing.")] = False,
    yes: Yes = False,
    config: Config = None,
) -> None:
    """Bring the schema up (a start does so by itself) or back; the file is copied first."""
    from app.terminal import db_commands

    doors: Doors = context.obj
    leave(doors, lambda: db_commands.migrate(doors, config, to, dry_run=dry_run, yes=yes))


@db.command("backup", epilog="Example: tutti db backup tutti-$(date +%F).sqlite")
def db_backup(
    context: typer.Context,
    target: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.")],
    config: Config = None,
) -> None:
    """Copy the database to a file, while a server runs on it or not, and check the copy."""
    from app.terminal import db_commands

    leave(context.obj, lambda: db_commands.backup(config, target))


@db.command("restore", epilog="Example: tutti db restore tutti-2026-11-01.sqlite")
def db_restore(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A copy made by `tutti db backup`.")],
    yes: Yes = False,
    config: Config = None,
) -> None:
    """Put a copy in the database's place; what was there is kept beside it."""
    from app.terminal import db_commands

    doors: Doors = context.obj
    leave(doors, lambda: db_commands.restore(doors, config, source, yes=yes))


def main(arguments: Sequence[str] | None = None, doors: Doors | None = None) -> int:
    """Run the command line and return its exit status; nothing a user does shows a traceback."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="tutti", obj=doors)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(ExitStatus.BAD_INPUT)
    except KeyboardInterrupt:
        return int(ExitStatus.INTERRUPTED)
    return int(ExitStatus.ANSWERED)


def _read_stdin(size_bytes_max: int) -> bytes:
    return sys.stdin.buffer.read(size_bytes_max)


if __name__ == "__main__":
    sys.exit(main())
