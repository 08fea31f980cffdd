"""Events told in the transaction of their fact: there if and only if the fact is, on either engine.

``tell`` is called by what writes facts, with their open connection; the rest is what the shipper and people ask.
Numbers grow in the order of commits, because one process writes, one transaction at a time.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Sequence
from typing import TypeVar

from sqlalchemy import BindParameter, Connection, bindparam, delete, func, insert, select, update

from app.domain.events.facts import Told
from app.domain.events.fields import Profile
from app.domain.events.record import NS_PER_S, EventIds, Origin, Recorder, index_date
from app.domain.events.spooled import Backlog, DeadLetter, SpooledEvent
from app.storage.outbox_table import outbox
from app.storage.prepared import Prepared
from app.storage.spool_tables import ROW_BYTES, State

DELETE_ROWS_MAX = 5_000
"""In one transaction: others wait behind it."""
ROOM_SHARE = 64
IDS_AT_ONCE = 5_000

Value = TypeVar("Value")

_RECORDER = Recorder(Origin(node=f"store-{os.getpid()}", pid=os.getpid()), EventIds(secrets.randbits(62)))
# One for the process: one process writes, in one thread.

_PUT = Prepared(insert(outbox).inline(), ("id", "time_ns", "type", "user_id", "size", "state", "body"))
_SEQS: BindParameter[list[int]] = bindparam("seqs", expanding=True)
_IDS: BindParameter[list[str]] = bindparam("ids", expanding=True)
_WAITS = int(State.WAITING)
_WAITING = outbox.c.state == _WAITS
_DEAD = outbox.c.state == int(State.DEAD)
_PENDING = (
    select(outbox.c.seq, outbox.c.id, outbox.c.time_ns, outbox.c.body)
    .where(_WAITING, outbox.c.seq > bindparam("after"))
    .order_by(outbox.c.seq)
    .limit(bindparam("docs_max"))
)
_SHIPPED = update(outbox).where(outbox.c.seq.in_(_SEQS), _WAITING).values(state=int(State.SHIPPED))
_OF_STATE = outbox.c.state == bindparam("of_state")
_OLDEST_OF = select(outbox.c.time_ns).where(_OF_STATE).order_by(outbox.c.seq).limit(1)
_OLD = (
    select(outbox.c.seq, outbox.c.time_ns, outbox.c.size).where(_OF_STATE).order_by(outbox.c.seq).limit(DELETE_ROWS_MAX)
)
_DELETE = delete(outbox).where(outbox.c.seq.in_(_SEQS))
_SUMS = select(outbox.c.state, func.count(), func.sum(outbox.c.size)).group_by(outbox.c.state)


def tell(connection: Connection, told: Iterable[Told]) -> None:
    """Write events of what this transaction writes."""
    rows = []
    for event_type, time_ns, values in told:
        event_id, body = _RECORDER.make(event_type, time_ns, values)
        user = values.get("user")
        rows.append(
            (
                event_id,
                time_ns,
                event_type,
                user if isinstance(user, str) else None,
                len(body) + ROW_BYTES,
                _WAITS,
                body,
            )
        )
    _PUT.run(connection, rows)


def use(profile: Profile) -> None:
    """Name fields by that profile from now on."""
    _RECORDER.use(profile)


def pending(connection: Connection, after_seq: int, *, docs_max: int, bytes_max: int) -> list[SpooledEvent]:
    """Return what waits with a larger ``seq``, in order; at least one where one waits."""
    found: list[SpooledEvent] = []
    size = 0
    for row in connection.execute(_PENDING, {"after": after_seq, "docs_max": docs_max}):
        size += len(row.body)
        if found and size > bytes_max:
            break
        found.append(
            SpooledEvent(seq=row.seq, event_id=row.id, index_date=index_date(row.time_ns), body=bytes(row.body))
        )
    return found


def shipped(connection: Connection, seqs: Sequence[int]) -> None:
    """Hear that these are stored at their receiver for good."""
    for start in range(0, len(seqs), IDS_AT_ONCE):
        connection.execute(_SHIPPED, {"seqs": list(seqs[start : start + IDS_AT_ONCE])})


def dead(connection: Connection, seq: int, *, status: int, reason: str, now_s: float) -> None:
    """Put one aside that its receiver refuses for good."""
    connection.execute(
        update(outbox)
        .where(outbox.c.seq == seq)
        .values(state=int(State.DEAD), status=status, reason=reason, dead_s=now_s)
    )


def dead_letters(connection: Connection, *, limit: int) -> list[DeadLetter]:
    """Return what was put aside, oldest first."""
    rows = connection.execute(select(outbox).where(_DEAD).order_by(outbox.c.seq).limit(limit))
    return [
        DeadLetter(
            event_id=row.id,
            type=row.type,
            status=row.status,
            reason=row.reason,
            at_s=row.dead_s,
            body=bytes(row.body),
        )
        for row in rows
    ]


def replay(connection: Connection, event_ids: Sequence[str] | None) -> int:
    """Let what was put aside wait again (None: all of it); return how many that were."""
    query = update(outbox).where(_DEAD).values(state=int(State.WAITING), status=None, reason=None, dead_s=None)
    if event_ids is None:
        return connection.execute(query).rowcount
    return connection.execute(query.where(outbox.c.id.in_(_IDS)), {"ids": list(event_ids)}).rowcount


def drop(connection: Connection, event_ids: Sequence[str] | None) -> int:
    """Forget what was put aside (None: all of it); return how many that were."""
    query = delete(outbox).where(_DEAD)
    if event_ids is None:
        return connection.execute(query).rowcount
    return connection.execute(query.where(outbox.c.id.in_(_IDS)), {"ids": list(event_ids)}).rowcount


def forget(connection: Connection, user: str) -> int:
    """Delete every event of that user; return how many that were."""
    return connection.execute(delete(outbox).where(outbox.c.user_id == user)).rowcount


def backlog(connection: Connection, now_s: float) -> Backlog:
    """Return how much waits; reads the index of all rows."""
    sums = {row[0]: (int(row[1]), int(row[2] or 0)) for row in connection.execute(_SUMS)}
    oldest = connection.execute(_OLDEST_OF, {"of_state": int(State.WAITING)}).scalar()
    count, size = sums.get(State.WAITING, (0, 0))
    return Backlog(
        count=count,
        bytes=size,
        oldest_age_s=0.0 if oldest is None else max(0.0, now_s - oldest / NS_PER_S),
        dead=sums.get(State.DEAD, (0, 0))[0],
    )


def used_bytes(connection: Connection) -> int:
    """Return the room that events take; reads all rows' sizes."""
    return int(connection.execute(select(func.coalesce(func.sum(outbox.c.size), 0))).scalar() or 0)


def has_old(connection: Connection, until_s: float, *, ships: bool) -> bool:
    """Return whether ``expire`` would find anything by age; answered from the index."""
    for state in _may_go(ships):
        oldest = connection.execute(_OLDEST_OF, {"of_state": int(state)}).scalar()
        if oldest is not None and oldest < until_s * NS_PER_S:
            return True
    return False


def expire(connection: Connection, *, until_s: float, ships: bool, excess_bytes: int = 0) -> tuple[int, int]:
    """Delete what is old enough, and the oldest of what may go until ``excess_bytes`` are free; a bounded number.

    What was shipped may go; where nobody takes events, what waits may go as well.

    Returns:
        How many events, and how many bytes.
    """
    doomed: list[int] = []
    freed = 0
    for state in _may_go(ships):
        for seq, time_ns, size in connection.execute(_OLD, {"of_state": int(state)}):
            if time_ns >= until_s * NS_PER_S and freed >= excess_bytes:
                break
            freed += size
            doomed.append(seq)
    for start in range(0, len(doomed), IDS_AT_ONCE):
        connection.execute(_DELETE, {"seqs": doomed[start : start + IDS_AT_ONCE]})
    return len(doomed), freed


def _may_go(ships: bool) -> tuple[State, ...]:
    return (State.SHIPPED,) if ships else (State.SHIPPED, State.WAITING)
