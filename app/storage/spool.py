"""The node's spool: events on disk between the process that tells them and whoever takes them.

One SQLite file of its own in WAL with ``synchronous=FULL``: what ``append`` returned survives power loss. Bounded in
bytes: what was shipped goes first, then the oldest of what may be lost (``EventClass``); what may not be lost is
refused. A damaged file is put aside, kept, and told.

Knows no threads and no event loop: the actor that owns it calls it from one thread. Another process may read beside it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TypeVar

from app.domain.errors import InternalError
from app.domain.events.record import NS_PER_S, EventRecord, index_date
from app.domain.events.schema import SAMPLED, TYPE, EventClass
from app.domain.events.spooled import Backlog, DeadLetter, SpooledEvent
from app.storage.faults import FaultKind, directory_error, kind_of
from app.storage.spool_tables import ROW_BYTES, SCHEMA, State

FILE_NAME = "events.sqlite"
BUSY_TIMEOUT_MS = 5_000
ROOM_SHARE = 64
"""When there is no room, this part of the bound is made free at once."""
DELETE_ROWS_MAX = 20_000
"""In one transaction: a retention that begins late must not stop the writing."""
LOSABLE = tuple(one.value for one in SAMPLED)

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """What became of events that were to be kept."""

    kept: int
    refused: tuple[int, ...] = ()
    """Positions of those for which there is no room, and which must not be lost."""
    dropped: tuple[tuple[str, int], ...] = ()
    """(class, how many) that were lost for want of room, old or new."""


class SpoolDamagedError(InternalError):
    """The spool's file is damaged: open it again with ``damaged``, which puts it aside."""


class Spool:
    """Opens the file, creating it where it is missing; a damaged one is put aside.

    Args:
        file: Where it is.
        bytes_max: Most room for events.
        wall_s: Seconds since 1970.
        damaged: It is known to be: put it aside unseen.

    Raises:
        ConfigurationError: the directory cannot be written.
        InternalError: the disk does not let us.

    Not thread-safe: one thread.
    """

    def __init__(self, file: Path, *, bytes_max: int, wall_s: Callable[[], float], damaged: bool = False) -> None:
        self.bytes_max = bytes_max
        self.put_aside: Path | None = None
        """The damaged file, where there was one when this was opened."""
        self._file = file
        self._wall_s = wall_s
        self._dropped = 0
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise directory_error(error, file.parent) from error
        if damaged:
            self.put_aside = _put_aside(file, wall_s())
        try:
            self._connection = _open(file)
        except sqlite3.DatabaseError as error:
            if kind_of(error) is not FaultKind.DAMAGED:
                raise spool_fault(error, file) from error
            self.put_aside = _put_aside(file, wall_s())
            self._connection = _guarded(lambda: _open(file), file)

    def append(self, records: Sequence[EventRecord], *, ships: bool) -> Appended:
        """Keep events, in one transaction that is on disk when this returns; one that is known already stays as it is.

        Args:
            records: In order.
            ships: Somebody is configured who takes them; else all of it is history, and its oldest goes where there is
                no more room.

        Raises:
            InternalError: nothing was kept; the disk is full or broken.
        """
        return self._transaction(lambda: self._append(records, ships=ships))

    def pending(self, after_seq: int, *, docs_max: int, bytes_max: int) -> list[SpooledEvent]:
        """Return what waits with a larger ``seq``, in order; at least one where one waits."""

        def read() -> list[SpooledEvent]:
            found: list[SpooledEvent] = []
            size = 0
            rows = self._connection.execute(
                "SELECT seq, id, day, body FROM event WHERE state = ? AND seq > ? ORDER BY seq LIMIT ?",
                (State.WAITING, after_seq, docs_max),
            )
            for seq, event_id, day, body in rows:
                size += len(body)
                if found and size > bytes_max:
                    break
                found.append(SpooledEvent(seq=seq, event_id=event_id, index_date=day, body=body))
            rows.close()
            return found

        return self._guard(read)

    def shipped(self, seqs: Iterable[int]) -> None:
        """Hear that these are stored at their receiver for good."""
        self._move(seqs, to=State.SHIPPED)

    def dead(self, seq: int, *, status: int, reason: str) -> None:
        """Put one aside that its receiver refuses for good; it is kept until somebody decides."""

        def write() -> None:
            self._move_one(seq, to=State.DEAD)
            self._connection.execute(
                "INSERT OR REPLACE INTO dead SELECT seq, ?, ?, ? FROM event WHERE seq = ? AND state = ?",
                (status, reason, self._wall_s(), seq, State.DEAD),
            )

        self._transaction(write)

    def dead_letters(self, *, limit: int) -> list[DeadLetter]:
        """Return what was put aside, oldest first."""
        rows = self._guard(
            lambda: self._connection.execute(
                "SELECT e.id, e.type, d.status, d.reason, d.at_s, e.body FROM dead d JOIN event e USING (seq) "
                "ORDER BY d.seq LIMIT ?",
                (limit,),
            ).fetchall()
        )
        return [
            DeadLetter(event_id=row[0], type=row[1], status=row[2], reason=row[3], at_s=row[4], body=row[5])
            for row in rows
        ]

    def replay(self, event_ids: Sequence[str] | None) -> int:
        """Let what was put aside wait again (None: all of it); return how many that were."""

        def write() -> int:
            seqs = self._dead_seqs(event_ids)
            for seq in seqs:
                self._move_one(seq, to=State.WAITING)
                self._connection.execute("DELETE FROM dead WHERE seq = ?", (seq,))
            return len(seqs)

        return self._transaction(write)

    def drop(self, event_ids: Sequence[str] | None) -> int:
        """Forget what was put aside (None: all of it); return how many that were."""
        return self._transaction(lambda: self._delete([(seq,) for seq in self._dead_seqs(event_ids)]))

    def forget(self, user: str) -> int:
        """Delete every event of that user; return how many that were. Reads everything."""

        def write() -> int:
            rows = self._connection.execute(
                "SELECT seq FROM event WHERE json_extract(CAST(body AS TEXT), '$.\"user.id\"') = ?", (user,)
            ).fetchall()
            return self._delete(rows)

        return self._transaction(write)

    def expire(self, *, keep_s: float, ships: bool) -> int:
        """Delete what was shipped before that long, and where nobody takes any, all of it; return how many."""
        until_ns = int((self._wall_s() - keep_s) * NS_PER_S)

        def write() -> int:
            doomed: list[tuple[int]] = []
            for state in (State.SHIPPED,) if ships else (State.SHIPPED, State.WAITING):
                rows = self._connection.execute(
                    "SELECT seq, time_ns FROM event WHERE state = ? ORDER BY seq LIMIT ?", (state, DELETE_ROWS_MAX)
                )
                doomed.extend((seq,) for seq, _time in takewhile(lambda row: row[1] < until_ns, rows))
            return self._delete(doomed)

        return self._transaction(write)

    def backlog(self) -> Backlog:
        """Return how much waits."""

        def read() -> Backlog:
            sums = self._connection.execute(
                "SELECT state, SUM(count), SUM(bytes) FROM total WHERE count > 0 GROUP BY state"
            ).fetchall()
            by_state = {state: (count, size) for state, count, size in sums}
            count, size = by_state.get(State.WAITING, (0, 0))
            oldest = self._connection.execute(
                "SELECT time_ns FROM event WHERE state = ? ORDER BY seq LIMIT 1", (State.WAITING,)
            ).fetchone()
            age_s = 0.0 if oldest is None else max(0.0, self._wall_s() - oldest[0] / NS_PER_S)
            dead = by_state.get(State.DEAD, (0, 0))[0]
            return Backlog(count=count, bytes=size, oldest_age_s=age_s, dead=dead, dropped=self._dropped)

        return self._guard(read)

    def used_bytes(self) -> int:
        """Return the room that events take, as it is counted against the bound."""
        return self._guard(self._used)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _append(self, records: Sequence[EventRecord], *, ships: bool) -> Appended:
        rows, refused, lost = [], [], dict.fromkeys(LOSABLE, 0)
        room = self.bytes_max - self._used()
        need = sum(len(record.body) + ROW_BYTES for record in records)
        if need > room:
            room += self._make_room(max(need - room, self.bytes_max // ROOM_SHARE), lost, ships=ships)
        for position, record in enumerate(records):
            event_class = TYPE[record.type].event_class
            size = len(record.body) + ROW_BYTES
            # An alarm of our own may always stand on top: it says that there is no room.
            if size > room and not record.type.startswith("events."):
                if event_class.value in lost:
                    lost[event_class.value] += 1
                else:
                    refused.append(position)
                continue
            room -= size
            rows.append((record, event_class, size))
        self._insert(rows)
        self._dropped += sum(lost.values())
        return Appended(
            kept=len(rows),
            refused=tuple(refused),
            dropped=tuple((name, count) for name, count in lost.items() if count),
        )

    def _insert(self, rows: Sequence[tuple[EventRecord, EventClass, int]]) -> None:
        before = self._connection.total_changes
        self._connection.executemany(
            "INSERT OR IGNORE INTO event (id, time_ns, class, type, day, size, state, body) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    record.event_id,
                    record.time_ns,
                    event_class.value,
                    record.type,
                    index_date(record.time_ns),
                    size,
                    State.WAITING,
                    record.body,
                )
                for record, event_class, size in rows
            ],
        )
        if self._connection.total_changes - before != len(rows):
            # Rare: some were told twice, by somebody who did not hear that they had been kept.
            self._add_up()
            return
        sums: dict[EventClass, list[int]] = {}
        for _record, event_class, size in rows:
            found = sums.setdefault(event_class, [0, 0])
            found[0] += 1
            found[1] += size
        for event_class, (count, size) in sums.items():
            self._count(event_class.value, State.WAITING, count, size)

    def _add_up(self) -> None:
        self._connection.execute("DELETE FROM total")
        self._connection.execute(
            "INSERT INTO total SELECT class, state, COUNT(*), SUM(size) FROM event GROUP BY class, state"
        )

    def _make_room(self, wanted: int, lost: dict[str, int], *, ships: bool) -> int:
        """Delete until ``wanted`` bytes are free, the least missed first; return how many bytes that were."""
        freed = self._free(wanted, State.SHIPPED)
        for event_class in (EventClass.DEBUG, EventClass.TELEMETRY):
            if freed < wanted:
                before = self._count_of(event_class.value, State.WAITING)
                freed += self._free(wanted - freed, State.WAITING, event_class.value)
                if ships:
                    lost[event_class.value] += before - self._count_of(event_class.value, State.WAITING)
        if freed < wanted and not ships:
            freed += self._free(wanted - freed, State.WAITING)
        return freed

    def _free(self, wanted: int, state: State, event_class: str | None = None) -> int:
        freed, doomed = 0, []
        rows = self._connection.execute(
            "SELECT seq, size FROM event WHERE state = ?"
            + ("" if event_class is None else " AND class = ?")
            + " ORDER BY seq",
            (state,) if event_class is None else (state, event_class),
        )
        for seq, size in rows:
            if freed >= wanted:
                break
            freed += size
            doomed.append((seq,))
        rows.close()
        self._delete(doomed)
        return freed

    def _delete(self, rows: Sequence[tuple[int]]) -> int:
        for row in rows:
            found = self._connection.execute(
                "DELETE FROM event WHERE seq = ? RETURNING class, state, size", row
            ).fetchone()
            if found is not None:
                self._count(found[0], found[1], -1, -found[2])
                if found[1] == State.DEAD:
                    self._connection.execute("DELETE FROM dead WHERE seq = ?", row)
        return len(rows)

    def _move(self, seqs: Iterable[int], *, to: State) -> None:
        def write() -> None:
            for seq in seqs:
                self._move_one(seq, to=to)

        self._transaction(write)

    def _move_one(self, seq: int, *, to: State) -> None:
        found = self._connection.execute("SELECT class, state, size FROM event WHERE seq = ?", (seq,)).fetchone()
        if found is None or found[1] == to:
            return
        self._connection.execute("UPDATE event SET state = ? WHERE seq = ?", (to, seq))
        self._count(found[0], found[1], -1, -found[2])
        self._count(found[0], to, 1, found[2])

    def _dead_seqs(self, event_ids: Sequence[str] | None) -> list[int]:
        if event_ids is None:
            return [seq for (seq,) in self._connection.execute("SELECT seq FROM dead ORDER BY seq")]
        found: list[int] = []
        for event_id in event_ids:
            row = self._connection.execute(
                "SELECT seq FROM event WHERE id = ? AND state = ?", (event_id, State.DEAD)
            ).fetchone()
            found.extend(() if row is None else row)
        return found

    def _count(self, event_class: str, state: int, count: int, size: int) -> None:
        self._connection.execute(
            "INSERT INTO total VALUES (?, ?, ?, ?) ON CONFLICT (class, state) "
            "DO UPDATE SET count = count + excluded.count, bytes = bytes + excluded.bytes",
            (event_class, state, count, size),
        )

    def _count_of(self, event_class: str, state: State) -> int:
        found = self._connection.execute(
            "SELECT count FROM total WHERE class = ? AND state = ?", (event_class, state)
        ).fetchone()
        return int(found[0]) if found else 0

    def _used(self) -> int:
        return int(self._connection.execute("SELECT COALESCE(SUM(bytes), 0) FROM total").fetchone()[0])

    def _transaction(self, write: Callable[[], Value]) -> Value:
        def run() -> Value:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                value = write()
                self._connection.execute("COMMIT")
            except BaseException:
                # After some faults SQLite has rolled back by itself.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            return value

        return self._guard(run)

    def _guard(self, run: Callable[[], Value]) -> Value:
        return _guarded(run, self._file)


def _open(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    try:
        for pragma in (f"busy_timeout={BUSY_TIMEOUT_MS}", "journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN IMMEDIATE")
        for statement in SCHEMA:
            connection.execute(statement)
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _put_aside(file: Path, wall_s: float) -> Path:
    """Rename the damaged file and what belongs to it; return its new name."""
    aside = file.with_name(f"{file.stem}.damaged-{int(wall_s)}{file.suffix}")
    for ending in ("", "-wal", "-shm"):
        part = file.with_name(file.name + ending)
        if part.exists():
            part.rename(aside.with_name(aside.name + ending))
    return aside


def _guarded(run: Callable[[], Value], file: Path) -> Value:
    try:
        return run()
    except sqlite3.Error as error:
        raise spool_fault(error, file) from error


def spool_fault(error: sqlite3.Error, file: Path) -> InternalError:
    """Return the error for a caller whose write or read met ``error``."""
    kind = kind_of(error)
    if kind is FaultKind.DAMAGED:
        return SpoolDamagedError(f"the spool of events {str(file)!r} is damaged", remedy="it is put aside and kept")
    words = {
        FaultKind.FULL: ("its disk is full", "free space there; events wait in their processes meanwhile"),
        FaultKind.READ_ONLY: ("it is read-only", "make it writable again"),
        FaultKind.LOCKED: ("another program keeps it locked", "end the program that has it open"),
    }
    what, remedy = words.get(kind or FaultKind.IO, ("its disk reports an error", "look at the disk's health"))
    return InternalError(f"the spool of events {str(file)!r} cannot be used: {what}", remedy=remedy)
