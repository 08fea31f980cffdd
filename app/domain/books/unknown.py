"""Holds whose holder died, of which nobody knows what was bought, and how a person settles one.

A settlement is an entry of its own, named after the hold, so that it is booked once however often it is said. The true
entries may still come, from a conductor that finds out or a replica that was only cut off: then they take its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from app.domain.books.budgets import Owners
from app.domain.books.entries import Ending, Hold, UsageEntry
from app.domain.books.money import usd_from_nano
from app.domain.chat import Usage
from app.domain.errors import ConflictError, RequestError

REASON_CHARS_MAX = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownHold:
    """One such hold, and what is known of the calls it was for."""

    hold_id: str
    holder: str
    owners: Owners
    """Those whose budgets it counts in."""
    amount_nano: int | None
    """The most that may have been spent; None: the price is unknown."""
    tokens: int
    calls: int
    """How many calls it covers; those of a replica's block may not all have been made."""
    at_s: float
    expired_s: float
    account: str = ""
    """Where its call went; empty: not known, or several."""
    model: str = ""
    task_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What a person says was bought with an unknown hold."""

    hold_id: str
    how: Literal["figures", "as_spent", "void"]
    """``as_spent``: all that it may have been. ``void``: nothing."""
    reason: str
    by: str
    """Who says so."""
    nano: int | None = None
    """Of ``figures``: nano-dollars; None: as much as was held."""
    tokens: int | None = None
    """Of ``figures``: in and out; None: as many as were held."""
    account: str = ""
    """Where it was bought, where that is known and the hold does not say."""
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What stands in the books for a hold that a person settled."""

    hold_id: str
    entry_id: str
    cost_nano: int | None
    tokens: int
    reason: str
    """Who said so, and why."""
    repeated: bool
    """It was settled so before; nothing changed."""


def settlement_id(hold_id: str) -> str:
    """Return the id of the entry with which a person settles that hold."""
    return f"{hold_id}/settled"


def replacement_id(hold_id: str) -> str:
    """Return the id of the correction that takes it back when the true entries come."""
    return f"{hold_id}/replaced"


def check(settlement: Settlement) -> None:
    """Raise RequestError where a settlement makes no sense."""
    figures = settlement.nano is not None or settlement.tokens is not None
    if (settlement.how == "figures") != figures:
        raise RequestError(
            "A hold is settled with figures, as spent, or void: one of them.",
            param="how",
            remedy="Say what was billed (--usd, --tokens), --as-spent for all that was held, or --void for nothing.",
        )
    if min(settlement.nano or 0, settlement.tokens or 0) < 0:
        raise RequestError("What was spent is never negative.", param="usd")
    if not settlement.reason.strip():
        raise RequestError("A settlement needs a reason: the books keep it.", param="reason")
    if len(settlement.reason) > REASON_CHARS_MAX:
        raise RequestError(f"A reason has at most {REASON_CHARS_MAX} characters.", param="reason")


def entry_of(unknown: UnknownHold, settlement: Settlement) -> UsageEntry:
    """Return the entry that settles a hold, in the hour in which it was taken."""
    held = settlement.how != "void"
    nano = settlement.nano if settlement.nano is not None else unknown.amount_nano if held else 0
    tokens = settlement.tokens if settlement.tokens is not None else unknown.tokens if held else 0
    return UsageEntry(
        entry_id=settlement_id(unknown.hold_id),
        at_s=unknown.at_s,
        owners=unknown.owners,
        task_id=unknown.task_id,
        account=unknown.account or settlement.account,
        model=unknown.model or settlement.model,
        ending=Ending.SETTLED,
        usage=Usage(input_tokens=tokens, output_tokens=0, source="estimated"),
        cost_nano=nano,
        error_kind=f"{settlement.by}: {settlement.reason.strip()}",
    )


def settled(hold_id: str, entry: UsageEntry, *, repeated: bool) -> Settled:
    """Return what an entry says that settles a hold."""
    return Settled(
        hold_id=hold_id,
        entry_id=entry.entry_id,
        cost_nano=entry.cost_nano,
        tokens=entry.usage.input_tokens + entry.usage.output_tokens,
        reason=entry.error_kind,
        repeated=repeated,
    )


def other_settlement(before: Settled) -> ConflictError:
    """Return the refusal of a settlement after another."""
    cost = "at an unknown price" if before.cost_nano is None else f"for ${usd_from_nano(before.cost_nano)}"
    return ConflictError(
        f"the hold {before.hold_id!r} is settled {cost}, {before.tokens} tokens ({before.reason})",
        param="hold_id",
        remedy="what is in the books stays; book the difference by settling another hold, or leave it",
    )


def not_unknown(hold: Hold, state: str) -> ConflictError:
    """Return the refusal of a settlement of a hold about which somebody knows."""
    return ConflictError(
        f"the hold {hold.hold_id!r} is not unknown: it is {state}",
        param="hold_id",
        remedy="only what `tutti books unknown` lists can be settled by hand",
    )
