"""Reads events where they are kept, beside the running server: newest first, as far back as asked.

For people who look: the spool's file and the journal's outbox, each on a connection of its own for reading.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import starmap
from pathlib import Path

from sqlalchemy import Connection, inspect, select

from app.domain.events.spooled import KeptEvent
from app.storage.outbox_table import outbox
from app.storage.spool import spool_fault
from app.storage.spool_tables import State

OLD_ROWS_MAX = 2_000
"""Events are written in about the order in which they happen, but a process that could not hand over says its own
later: after so many old ones in a row there are only old ones."""


def newest_in_spool(file: Path, since_ns: int, after_seq: int = 0) -> Iterator[KeptEvent]:
    """Yield the spool's events from the newest on; nothing where there is no file.

    Args:
        file: The spool's.
        since_ns: When to stop, in nanoseconds since 1970.
        after_seq: Number of the last one that is known.

    Raises:
        InternalError: the file cannot be read.
    """
    if not file.exists():
        return
    try:
        yield from _rows(file, since_ns, after_seq)
    except sqlite3.Error as error:
        raise spool_fault(error, file) from error


def _rows(file: Path, since_ns: int, after_seq: int) -> Iterator[KeptEvent]:
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT seq, id, time_ns, type, state, body FROM event WHERE seq > ? ORDER BY seq DESC", (after_seq,)
        )
        yield from _since(starmap(_kept, rows), since_ns)


def newest_in_outbox(connection: Connection, since_ns: int, after_seq: int = 0) -> Iterator[KeptEvent]:
    """Yield the outbox's events from the newest on; nothing where the database has none yet."""
    if not inspect(connection).has_table(outbox.name):
        return
    columns = (outbox.c.seq, outbox.c.id, outbox.c.time_ns, outbox.c.type, outbox.c.state, outbox.c.body)
    query = select(*columns).where(outbox.c.seq > after_seq).order_by(outbox.c.seq.desc())
    rows = connection.execution_options(yield_per=500).execute(query)
    yield from _since(starmap(_kept, rows), since_ns)


def _since(events: Iterable[KeptEvent], since_ns: int) -> Iterator[KeptEvent]:
    old = 0
    for event in events:
        if event.time_ns >= since_ns:
            old = 0
            yield event
        else:
            old += 1
            if old > OLD_ROWS_MAX:
                return


def _kept(seq: int, event_id: str, time_ns: int, event_type: str, state: int, body: bytes) -> KeptEvent:
    return KeptEvent(
        seq=seq, event_id=event_id, time_ns=time_ns, type=event_type, shipped=state == State.SHIPPED, body=bytes(body)
    )
