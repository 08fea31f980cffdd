"""How a person corrects what an entry says was bought, once its provider's own figures are known.

The entry stays as it was booked; the correction is a row of its own with the difference, named after the entry, so that
it is booked once however often it is said. Decides on what stands; ``app.storage.entry_corrections`` finds and books.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.domain.books.balances import BookedEntry
from app.domain.books.entries import Correct, Ending, UsageEntry
from app.domain.books.money import usd_from_nano
from app.domain.books.sums import SUMS
from app.domain.books.unknown import REASON_CHARS_MAX, replacement_id
from app.domain.chat import Usage
from app.domain.errors import ConflictError, RequestError

ID_PATTERN = r"[A-Za-z0-9._:-]{0,100}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HandCorrection:
    """What a person says an entry consumed and cost; what is None stays as it stands."""

    entry_id: str
    reason: str
    by: str
    """Who says so."""
    name: str = ""
    """Tells corrections of one entry apart; whoever gives none may correct it once."""
    nano: int | None = None
    """Nano-dollars, instead of what stands, not beside it."""
    input_tokens: int | None = None
    output_tokens: int | None = None

    @property
    def correction_id(self) -> str:
        """The id of its row; never that of an entry, whatever name was given."""
        return f"{self.entry_id}/corrected" + (f"/{self.name}" if self.name else "")

    @property
    def note(self) -> str:
        """Who said so, and why, as the books keep it."""
        return f"{self.by}: {self.reason.strip()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryFigures:
    """What an entry says, with all its corrections until then."""

    cost_nano: int | None
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrected:
    """What stands in the books for an entry that a person corrected, and what stood there before."""

    entry_id: str
    correction_id: str
    before: EntryFigures
    after: EntryFigures
    reason: str
    """Who said so, and why."""
    repeated: bool
    """It was corrected so before; nothing changed."""


def check(correction: HandCorrection) -> None:
    """Raise RequestError where a correction makes no sense."""
    given = (correction.nano, correction.input_tokens, correction.output_tokens)
    if all(figure is None for figure in given):
        raise RequestError(
            "A correction says what was billed, and this one says nothing.",
            param="usd",
            remedy="Give the cost in dollars, the input tokens or the output tokens; what is not given stays.",
        )
    if min(figure or 0 for figure in given) < 0:
        raise RequestError("What was spent is never negative.", param="usd", remedy="Give the figure that is right.")
    if not correction.reason.strip():
        raise RequestError("A correction needs a reason: the books keep it.", param="reason")
    if len(correction.reason) > REASON_CHARS_MAX:
        raise RequestError(f"A reason has at most {REASON_CHARS_MAX} characters.", param="reason")
    if re.fullmatch(ID_PATTERN, correction.name) is None:
        raise RequestError(
            f"{correction.name!r} is no id of a correction.",
            param="id",
            remedy="Use at most 100 letters, digits, dots, colons, hyphens and underscores.",
        )


def require_correctable(booked: BookedEntry, later: Sequence[BookedEntry], correction: HandCorrection) -> None:
    """Raise ConflictError where an entry is not a person's to correct, or was corrected before.

    Args:
        booked: The entry as it was booked.
        later: Its corrections, the oldest first; this one is not among them.
        correction: What a person says.
    """
    if booked.entry.ending is Ending.CACHE_HIT:
        raise ConflictError(
            f"nothing was bought with the entry {correction.entry_id!r}: it was answered out of the cache",
            param="entry_id",
            remedy="correct the entry whose answer was kept",
        )
    if booked.hold_id is not None and replacement_id(booked.hold_id) in {one.row_id for one in later}:
        raise ConflictError(
            f"the entry {correction.entry_id!r} was settled by hand, and gave way to the true ones",
            param="entry_id",
            remedy="correct those",
        )
    if later and not correction.name:
        stands = figures_of(standing(booked, later))
        cost = "an unknown price" if stands.cost_nano is None else f"${usd_from_nano(stands.cost_nano)}"
        raise ConflictError(
            f"the entry {correction.entry_id!r} was corrected before, to {cost}, {stands.input_tokens} tokens in and "
            f"{stands.output_tokens} out ({later[-1].entry.error_kind or later[-1].row_id})",
            param="entry_id",
            remedy="if that is wrong, correct it once more under an id of its own (--id; `id` over HTTP)",
        )


def standing(booked: BookedEntry, later: Sequence[BookedEntry]) -> UsageEntry:
    """Return the entry with the figures that these corrections, the oldest first, leave it with."""
    last = later[-1] if later else booked
    added = (sum(column) for column in zip(booked.sums, *(one.sums for one in later), strict=True))
    at = dict(zip(SUMS, added, strict=True))
    usage = Usage(
        input_tokens=at["input_tokens"],
        output_tokens=at["output_tokens"],
        cache_read_tokens=at["cache_read_tokens"],
        cache_write_tokens=at["cache_write_tokens"],
        cache_write_1h_tokens=at["cache_write_1h_tokens"],
        reasoning_tokens=at["reasoning_tokens"],
        source=last.entry.usage.source,
    )
    cost_nano = None if at["unpriced"] > 0 else at["cost_nano"]
    return replace(booked.entry, usage=usage, cost_nano=cost_nano, price_id=last.entry.price_id)


def command_of(stands: UsageEntry, correction: HandCorrection, at_s: float) -> Correct:
    """Return the command that makes of what stands what a person says.

    Cached and reasoning tokens stay as far as there is room for them in the tokens that include them. A cost that a
    person gives was made by no price row.
    """
    usage = stands.usage
    tokens_in = usage.input_tokens if correction.input_tokens is None else correction.input_tokens
    tokens_out = usage.output_tokens if correction.output_tokens is None else correction.output_tokens
    read = min(usage.cache_read_tokens, tokens_in)
    written = min(usage.cache_write_tokens, tokens_in - read)
    counted = correction.input_tokens is not None and correction.output_tokens is not None
    return Correct(
        correction_id=correction.correction_id,
        entry_id=correction.entry_id,
        usage=Usage(
            input_tokens=tokens_in,
            output_tokens=tokens_out,
            cache_read_tokens=read,
            cache_write_tokens=written,
            cache_write_1h_tokens=min(usage.cache_write_1h_tokens, written),
            reasoning_tokens=min(usage.reasoning_tokens, tokens_out),
            source="provider" if counted else usage.source,
        ),
        cost_nano=stands.cost_nano if correction.nano is None else correction.nano,
        price_id=stands.price_id if correction.nano is None else None,
        at_s=at_s,
        note=correction.note,
    )


def figures_of(entry: UsageEntry | Correct) -> EntryFigures:
    """Return what it says was consumed and paid."""
    usage = entry.usage
    return EntryFigures(cost_nano=entry.cost_nano, input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)


def other_correction(correction: HandCorrection, stands: EntryFigures) -> ConflictError:
    """Return the refusal of a correction whose id said something else."""
    cost = "an unknown price" if stands.cost_nano is None else f"${usd_from_nano(stands.cost_nano)}"
    return ConflictError(
        f"the entry {correction.entry_id!r} was corrected before under this id, to {cost}, "
        f"{stands.input_tokens} tokens in and {stands.output_tokens} out",
        param="id",
        remedy="if that is wrong, correct it once more under another id (--id; `id` over HTTP)",
    )
