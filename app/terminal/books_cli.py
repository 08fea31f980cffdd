"""`tutti books`, `usage` and `budgets`: declares them; what they do is imported when one is called.

What reads databases takes as long to load as all the rest of the command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.terminal.asking import Asked, asking
from app.terminal.connect import Target
from app.terminal.execute import leave
from app.terminal.options import BooksServer, Config, Json

books = typer.Typer(
    no_args_is_help=True,
    help="The books themselves: do they add up, does the provider say the same, and what nobody knows.",
)
figures = typer.Typer()


@figures.command("usage", epilog="Example: tutti usage --by model,day --since 7d --where team=research --csv")
@asking(server=BooksServer)
async def usage(  # noqa: PLR0913  one parameter an option
    asked: Asked,
    by: Annotated[
        str,
        typer.Option(
            "--by",
            metavar="A,B",
            help="Split by tenant, team, user, key, model, account, provider, task_type, ending, run; hour or day.",
        ),
    ] = "model",
    since: Annotated[
        str, typer.Option("--since", metavar="T", help="30m, 12h, 7d, 4w ago; a day; or a time in ISO 8601.")
    ] = "7d",
    until: Annotated[
        str | None, typer.Option("--until", metavar="T", help="First instant outside; default: now.")
    ] = None,
    time_zone: Annotated[
        str, typer.Option("--time-zone", metavar="ZONE", help="Where days begin, for instance Europe/Berlin.")
    ] = "UTC",
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="NAME=VALUE", help="Only these; may be repeated. NAME= means none."),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> int:
    """Show what was used and spent: calls, tokens, cost, and what the cache saved. Unknown cost is never zero."""
    from app.terminal import books_commands

    question = books_commands.Asked(by=(by,), since=since, until=until, time_zone=time_zone, where=where or ())
    return await books_commands.usage(asked.target, question, as_csv=as_csv, as_json=asked.as_json)


@figures.command("budgets", epilog="Example: tutti budgets")
@asking(server=BooksServer)
async def budgets(asked: Asked) -> int:
    """Show budgets burning down: █ spent, ▓ unknown (of processes that died), ▒ held; rate, forecast, end."""
    from app.terminal import books_commands

    return await books_commands.budgets(asked.target, as_json=asked.as_json)


@books.command("verify", epilog="Example: tutti books verify && echo balanced")
def verify(context: typer.Context, config: Config = None, as_json: Json = False) -> None:
    """Add every balance and sum up again from single entries; status 1 if anything differs. Changes nothing."""
    from app.terminal import books_commands

    target = Target(config=config)
    leave(context.obj, lambda: books_commands.verify(target, as_json=as_json), as_json=as_json)


@books.command("reconcile", epilog="Example: tutti books reconcile openai-november.csv --account openai-a")
def reconcile(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="CSV with a head: date, model, input_tokens, output_tokens, cost (USD), account."
        ),
    ],
    account: Annotated[
        str | None, typer.Option("--account", metavar="NAME", help="Whose export it is, where no column says so.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", metavar="PERCENT", min=0.0, help="Drift that is accepted.")
    ] = 0.5,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Hold a provider's own export against the books, by day (UTC) and model; status 1 if they drift apart."""
    from app.terminal import books_commands

    target = Target(config=config)
    leave(
        context.obj,
        lambda: books_commands.reconcile(target, file, account=account, tolerance_percent=tolerance, as_json=as_json),
        as_json=as_json,
    )


@books.command("unknown", epilog="Example: tutti books unknown")
@asking(server=BooksServer)
async def unknown(asked: Asked) -> int:
    """List what processes held that died on the way: it counts as spent until somebody knows what was billed."""
    from app.terminal import unknown_commands

    return await unknown_commands.unknown(asked.target, as_json=asked.as_json)


@books.command("settle", epilog='Example: tutti books settle HOLD --usd 0.42 --reason "invoice of November"')
@asking(server=BooksServer)
async def settle(  # noqa: PLR0913  one parameter an option
    asked: Asked,
    hold: Annotated[str, typer.Argument(metavar="HOLD", help="Id of the hold; `tutti books unknown` lists them.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Kept in the books, with your name.")],
    usd: Annotated[
        str | None, typer.Option("--usd", metavar="USD", help="What was billed; without --tokens all tokens held.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens", metavar="N", min=0, help="In and out; without --usd all money held.")
    ] = None,
    as_spent: Annotated[bool, typer.Option("--as-spent", help="All that was held was spent.")] = False,
    void: Annotated[bool, typer.Option("--void", help="Nothing was billed.")] = False,
    account: Annotated[str, typer.Option("--account", metavar="NAME", help="Where it was bought, if known.")] = "",
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="What was bought, if known.")] = "",
) -> int:
    """Book what was bought with such a hold, once: the same again changes nothing, anything else is refused.

    Should the true entries come after all, they replace it. Without a running server the database is opened for it.
    """
    from app.terminal import unknown_commands

    settling = unknown_commands.Settling(
        hold_id=hold,
        reason=reason,
        usd=usd,
        tokens=tokens,
        as_spent=as_spent,
        void=void,
        account=account,
        model=model,
    )
    return await unknown_commands.settle(asked.target, settling, as_json=asked.as_json)


@books.command("correct", epilog='Example: tutti books correct ENTRY --usd 0.42 --reason "invoice of November"')
@asking(server=BooksServer)
async def correct(  # noqa: PLR0913  one parameter an option
    asked: Asked,
    entry: Annotated[str, typer.Argument(metavar="ENTRY", help="Id of the entry; events and the live stream name it.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Kept in the books, with your name.")],
    usd: Annotated[str | None, typer.Option("--usd", metavar="USD", help="What was billed, in all.")] = None,
    input_tokens: Annotated[
        int | None, typer.Option("--input-tokens", metavar="N", min=0, help="Read by the provider, cached included.")
    ] = None,
    output_tokens: Annotated[
        int | None, typer.Option("--output-tokens", metavar="N", min=0, help="Made by it, reasoning included.")
    ] = None,
    name: Annotated[
        str, typer.Option("--id", metavar="ID", help="Of this correction; needed to correct an entry once more.")
    ] = "",
) -> int:
    """Correct an entry whose usage turned out otherwise: what is not given stays, the difference is a row of its own.

    The same again changes nothing. Without a running server the database is opened for it.
    """
    from app.terminal import correct_commands

    correcting = correct_commands.Correcting(
        entry_id=entry,
        reason=reason,
        usd=usd,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        name=name,
    )
    return await correct_commands.correct(asked.target, correcting, as_json=asked.as_json)
