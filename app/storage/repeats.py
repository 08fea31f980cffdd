"""Keyed calls as rows: claimed by one, answered for all.

Called with an open connection inside the writer's transaction: what two ask at once is decided one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter
from sqlalchemy import Connection, bindparam, delete, literal, select, update

from app.domain.repeats import ANSWER_BYTES_MAX, KEPT_S, LEASE_S, Claim, Claimed, KeptAnswer, Standing, answer_bytes
from app.storage import codec
from app.storage.prepared import Prepared
from app.storage.repeat_table import repeat
from app.storage.upsert import replacing

EXPIRED_AT_ONCE = 1_000

_ANSWER = TypeAdapter(KeptAnswer)
_PUT = Prepared(replacing(repeat), ("place", "fingerprint", "holder", "lease_until_s", "answer", "expires_s"))
_FIND = select(repeat).where(repeat.c.place == bindparam("of_place"))
_HELD = (
    repeat.c.place == bindparam("of_place"),
    repeat.c.holder == bindparam("by"),
    repeat.c.lease_until_s.is_not(None),
)
_RENEW = update(repeat).where(*_HELD).values(lease_until_s=bindparam("until_s"))
_FORGET = delete(repeat).where(*_HELD)
_OVERDUE = select(repeat.c.place).where(repeat.c.expires_s <= bindparam("now_s")).limit(EXPIRED_AT_ONCE)
_EXPIRE = delete(repeat).where(repeat.c.place.in_(_OVERDUE))
_ANY_OVERDUE = select(literal(1)).where(repeat.c.expires_s <= bindparam("now_s")).limit(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The row's answer to a claim; ``answer`` as ``encode`` made it."""

    standing: Standing
    answer: str | None = None
    lapses_s: float | None = None
    """When the holder is taken for dead unless it says something, by the clock that was given."""
    lost: bool = False
    """Somebody held the key before, and never said how it ended."""


def claim(connection: Connection, asked: Claim, now_s: float, *, leases_hold_until_s: float = 0.0) -> Found:
    """Give the key to whoever asks, unless somebody has it or it is answered; may be repeated.

    Args:
        connection: In the writer's transaction.
        asked: By whom, for what.
        now_s: The store's time.
        leases_hold_until_s: No lease ends before: a store that was away could not be told that holders live.
    """
    row = connection.execute(_FIND, {"of_place": asked.place}).one_or_none()
    held = row is not None and row.expires_s > now_s
    if row is not None and held:
        if row.fingerprint != asked.fingerprint:
            return Found(standing=Standing.CONFLICT)
        if row.lease_until_s is None:
            return Found(standing=Standing.DONE, answer=row.answer)
        lapses_s = max(row.lease_until_s, leases_hold_until_s)
        if row.holder != asked.holder and lapses_s > now_s:
            return Found(standing=Standing.RUNNING, lapses_s=lapses_s)
    _put(connection, asked, now_s, lease_until_s=now_s + LEASE_S, answer=None)
    # Also where the same one asks again: what it was told the first time is not known here.
    return Found(standing=Standing.NEW, lost=held)


def renew(connection: Connection, held: Sequence[Claim], now_s: float) -> None:
    """Say that the holders live; what somebody else has taken over stays theirs."""
    if held:
        until_s = now_s + LEASE_S
        connection.execute(_RENEW, [{"of_place": one.place, "by": one.holder, "until_s": until_s} for one in held])


def finish(connection: Connection, held: Claim, answer: str | None, now_s: float) -> Found:
    """Keep the answer, unless the key has one already: the first stands, and is returned; may be repeated."""
    row = connection.execute(_FIND, {"of_place": held.place}).one_or_none()
    if row is not None and row.expires_s > now_s:
        if row.fingerprint != held.fingerprint:
            return Found(standing=Standing.CONFLICT)
        if row.lease_until_s is None:
            return Found(standing=Standing.DONE, answer=row.answer)
    _put(connection, held, now_s, lease_until_s=None, answer=answer)
    return Found(standing=Standing.DONE, answer=answer)


def forget(connection: Connection, held: Claim) -> None:
    """Let go of a key whose call failed."""
    connection.execute(_FORGET, {"of_place": held.place, "by": held.holder})


def has_overdue(connection: Connection, now_s: float) -> bool:
    """Return whether an answer's day is over; answered from the index."""
    return connection.execute(_ANY_OVERDUE, {"now_s": now_s}).first() is not None


def expire(connection: Connection, now_s: float) -> int:
    """Delete answers whose day is over, a bounded number; return how many."""
    return connection.execute(_EXPIRE, {"now_s": now_s}).rowcount


def encode(answer: KeptAnswer) -> str | None:
    """Return an answer as text; None where it is too large, or holds what JSON cannot."""
    if answer_bytes(answer) > ANSWER_BYTES_MAX:
        return None
    try:
        text = codec.dump(_ANSWER, answer)
    except ValueError:  # half of a surrogate pair, which a provider may send
        return None
    return text if len(text) <= ANSWER_BYTES_MAX else None


def decode(text: str) -> KeptAnswer:
    """Return the answer that ``text`` encodes."""
    return codec.load(_ANSWER, text)


def claimed(found: Found) -> Claimed:
    """Return a row's answer as the services know it."""
    answer = None if found.answer is None else decode(found.answer)
    return Claimed(standing=found.standing, answer=answer, lost=found.lost)


def standing_answer(found: Found, text: str | None, own: KeptAnswer) -> KeptAnswer:
    """Return the answer that stands after ``finish`` with one's own, encoded as ``text``."""
    if found.standing is not Standing.DONE or found.answer is None or found.answer == text:
        return own
    return decode(found.answer)


def _put(
    connection: Connection, asked: Claim, now_s: float, *, lease_until_s: float | None, answer: str | None
) -> None:
    row = (asked.place, asked.fingerprint, asked.holder, lease_until_s, answer, now_s + KEPT_S)
    _PUT.run(connection, [row])
