"""The tables of the spool, and what a row takes beside its body."""

from __future__ import annotations

from enum import IntEnum

ROW_BYTES = 200
"""Counted for a row beside its body: id, columns and indices."""


class State(IntEnum):
    """Where an event stands."""

    WAITING = 0
    SHIPPED = 1
    DEAD = 2


SCHEMA = (
    # AUTOINCREMENT: a number is never given again, also where the newest rows were deleted.
    """CREATE TABLE IF NOT EXISTS event (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        time_ns INTEGER NOT NULL,
        class TEXT NOT NULL,
        type TEXT NOT NULL,
        day TEXT NOT NULL,
        size INTEGER NOT NULL,
        state INTEGER NOT NULL,
        body BLOB NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS event_by_state ON event (state, seq)",
    "CREATE INDEX IF NOT EXISTS event_by_class ON event (class, state, seq)",
    "CREATE TABLE IF NOT EXISTS dead (seq INTEGER PRIMARY KEY, status INTEGER, reason TEXT, at_s REAL)",
    # Kept with every change, so that opening reads nothing of the rows.
    """CREATE TABLE IF NOT EXISTS total (
        class TEXT, state INTEGER, count INTEGER, bytes INTEGER, PRIMARY KEY (class, state)) WITHOUT ROWID""",
)
