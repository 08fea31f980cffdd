"""The command for an entry whose figures turned out otherwise: books correct."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from typing import cast

from rich.text import Text

from app.domain.books.corrections import HandCorrection, check
from app.domain.books.money import is_amount, nano_from_usd
from app.domain.chat import Json
from app.domain.errors import RequestError
from app.terminal import books_source
from app.terminal.connect import Target
from app.terminal.output import ExitStatus, emit_json, standard_output
from app.terminal.words import one_line


@dataclass(frozen=True, slots=True, kw_only=True)
class Correcting:
    """What `tutti books correct` was given."""

    entry_id: str
    reason: str
    usd: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    name: str = ""


async def correct(target: Target, correcting: Correcting, *, as_json: bool) -> int:
    """Book the difference between what an entry says and what a person says of it.

    Raises:
        RequestError: the options make no sense together.
        NotFoundError: there is no such entry.
        ConflictError: it was corrected before, or nothing was bought with it.
    """
    document = await books_source.correct(target, correction_of(correcting))
    if as_json:
        emit_json(document)
        return int(ExitStatus.ANSWERED)
    before, after = (_words(cast("dict[str, Json]", document[name])) for name in ("before", "after"))
    done = "was corrected before" if document["repeated"] else "is corrected"
    words = f"{document['entry_id']} {done}: {after}, instead of {before} ({document['reason']})"
    standard_output().print(Text(one_line(words, 1_000)), soft_wrap=True)
    return int(ExitStatus.ANSWERED)


def correction_of(correcting: Correcting) -> HandCorrection:
    """Return what is meant; raises RequestError where the options make no sense together."""
    if correcting.usd is not None and correcting.usd != "0" and not is_amount(correcting.usd):
        raise RequestError(f"{correcting.usd!r} is no amount in dollars.", param="--usd", remedy="Write --usd 1.25.")
    correction = HandCorrection(
        entry_id=correcting.entry_id,
        nano=None if correcting.usd is None else nano_from_usd(correcting.usd),
        input_tokens=correcting.input_tokens,
        output_tokens=correcting.output_tokens,
        reason=correcting.reason,
        by=pwd.getpwuid(os.getuid()).pw_name,
        name=correcting.name,
    )
    check(correction)
    return correction


def _words(figures: dict[str, Json]) -> str:
    cost = "an unknown price" if figures["cost_usd"] is None else f"${figures['cost_usd']}"
    return f"{cost}, {figures['input_tokens']} tokens in and {figures['output_tokens']} out"
