"""The commands for holds of which nobody knows what was bought: books unknown, books settle."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from typing import Any, Literal, cast

from rich.text import Text

from app.domain.books.money import is_amount, nano_from_usd
from app.domain.books.unknown import Settlement, check
from app.domain.errors import RequestError
from app.terminal import books_source
from app.terminal.books_tables import render_unknown
from app.terminal.connect import Target
from app.terminal.output import ExitStatus, emit_json, standard_output
from app.terminal.words import one_line


@dataclass(frozen=True, slots=True, kw_only=True)
class Settling:
    """What `tutti books settle` was given."""

    hold_id: str
    reason: str
    usd: str | None = None
    tokens: int | None = None
    as_spent: bool = False
    void: bool = False
    account: str = ""
    model: str = ""


async def unknown(target: Target, *, as_json: bool) -> int:
    """Print the holds of dead processes of which nobody knows what was bought."""
    document = await books_source.get_unknown(target)
    rows = cast("list[dict[str, Any]]", document["data"])
    if as_json:
        emit_json(document)
    elif rows:
        standard_output().print(render_unknown(rows))
        standard_output().print("Settle one with `tutti books settle HOLD --reason TEXT`; see its --help.")
    else:
        standard_output().print("Nothing is unknown.")
    return int(ExitStatus.ANSWERED)


async def settle(target: Target, settling: Settling, *, as_json: bool) -> int:
    """Book what a person says was bought with such a hold.

    Raises:
        RequestError: the options make no sense together.
        NotFoundError: there is no such hold.
        ConflictError: somebody knows, or it is settled otherwise.
    """
    document = await books_source.settle(target, settlement_of(settling))
    if as_json:
        emit_json(document)
        return int(ExitStatus.ANSWERED)
    cost = "an unknown price" if document["cost_usd"] is None else f"${document['cost_usd']}"
    done = "was settled before" if document["repeated"] else "is settled"
    words = f"{document['hold_id']} {done}: {cost}, {document['tokens']} tokens ({document['reason']})"
    standard_output().print(Text(one_line(words, 500)), soft_wrap=True)
    return int(ExitStatus.ANSWERED)


def settlement_of(settling: Settling) -> Settlement:
    """Return what is meant; raises RequestError where the options make no sense together."""
    if settling.usd is not None and settling.usd != "0" and not is_amount(settling.usd):
        raise RequestError(f"{settling.usd!r} is no amount in dollars.", param="--usd", remedy="Write --usd 1.25.")
    given = {
        "figures": settling.usd is not None or settling.tokens is not None,
        "as_spent": settling.as_spent,
        "void": settling.void,
    }
    chosen = [how for how, is_given in given.items() if is_given]
    if len(chosen) != 1:
        raise RequestError(
            "A hold is settled with figures, as spent, or void: one of them.",
            param="--as-spent",
            remedy="Say what was billed (--usd, --tokens), --as-spent for all that was held, or --void for nothing.",
        )
    settlement = Settlement(
        hold_id=settling.hold_id,
        how=cast("Literal['figures', 'as_spent', 'void']", chosen[0]),
        reason=settling.reason,
        by=pwd.getpwuid(os.getuid()).pw_name,
        nano=None if settling.usd is None else nano_from_usd(settling.usd),
        tokens=settling.tokens,
        account=settling.account,
        model=settling.model,
    )
    check(settlement)
    return settlement
