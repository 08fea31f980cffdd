"""Holds of dead holders of which nobody knows what was bought: lists them, and settles one by hand.

Called with an open connection inside the caller's transaction, as ``ledger`` is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, bindparam, select

from app.domain.books import unknown
from app.domain.books.balances import HeldAmount, HoldState
from app.domain.books.entries import Answer, Settle
from app.domain.books.unknown import Settled, Settlement, UnknownHold
from app.domain.errors import NotFoundError
from app.domain.events.facts import settled_told
from app.storage import books_rows as rows
from app.storage import ledger, outbox
from app.storage.books_tables import hold, usage_entry
from app.storage.tables import call

_UNKNOWN = (
    select(hold).where(hold.c.state == HoldState.EXPIRED, hold.c.resolved == 0).order_by(hold.c.ended_s, hold.c.id)
)
_HOLD = select(hold).where(hold.c.id == bindparam("of_id"))
_ENTRY = select(usage_entry).where(usage_entry.c.id == bindparam("of_id"))
_CALLS = select(call.c.key, call.c.account, call.c.model, call.c.task_id).where(
    call.c.key.in_(bindparam("ids", expanding=True))
)


def list_unknown(connection: Connection) -> list[UnknownHold]:
    """Return them all, the longest unknown first."""
    return _described(connection, [rows.held_of(row) for row in connection.execute(_UNKNOWN)])


def settle(
    connection: Connection, settlement: Settlement, now_s: float
) -> tuple[Settled, Sequence[Settle], Sequence[Answer]]:
    """Settle a hold; return what stands in the books now, and what was booked for it: nothing where it was said before.

    Raises:
        NotFoundError: there is no such hold.
        ConflictError: it is not unknown, or settled otherwise.
        RequestError: the settlement makes no sense.
    """
    unknown.check(settlement)
    row = connection.execute(_HOLD, {"of_id": settlement.hold_id}).first()
    if row is None:
        raise NotFoundError(
            f"there is no hold {settlement.hold_id!r}", param="hold_id", remedy="`tutti books unknown` lists them"
        )
    held = rows.held_of(row)
    (described,) = _described(connection, [held])
    entry = unknown.entry_of(described, settlement)
    before = connection.execute(_ENTRY, {"of_id": entry.entry_id}).first()
    if before is not None:
        stands = unknown.settled(settlement.hold_id, rows.entry_of(before), repeated=True)
        same = unknown.settled(settlement.hold_id, entry, repeated=True)
        if (stands.cost_nano, stands.tokens) != (same.cost_nano, same.tokens):
            raise unknown.other_settlement(stands)
        return stands, (), ()
    if not held.unknown:
        raise unknown.not_unknown(held.hold, "resolved" if held.resolved else held.state.value)
    command = Settle(hold_id=settlement.hold_id, entries=(entry,), at_s=now_s)
    answers = ledger.apply(connection, [command])
    outbox.tell(connection, [settled_told(settlement, entry, now_s)])
    return unknown.settled(settlement.hold_id, entry, repeated=False), (command,), answers


def _described(connection: Connection, found: Sequence[HeldAmount]) -> list[UnknownHold]:
    """Return holds with what the journal knows of their calls: only those of runs are in it."""
    keys = [key for one in found for key in one.hold.covers]
    calls = {row.key: row for row in ledger.select_in(connection, _CALLS, keys)}
    described = []
    for one in found:
        mine = [calls[key] for key in one.hold.covers if key in calls]
        described.append(
            UnknownHold(
                hold_id=one.hold.hold_id,
                holder=one.hold.holder,
                owners=one.hold.owners,
                amount_nano=one.hold.amount_nano,
                tokens=one.hold.tokens,
                calls=one.hold.calls,
                at_s=one.hold.at_s,
                expired_s=one.ended_s or one.hold.expires_s,
                account=_the_one(row.account for row in mine),
                model=_the_one(row.model for row in mine),
                task_id=_the_one(row.task_id for row in mine),
            )
        )
    return described


def _the_one(names: Iterable[str | None]) -> str:
    """Return the name that all of them have; empty where they differ or have none."""
    found = set(names)
    return next(iter(found)) or "" if len(found) == 1 else ""
