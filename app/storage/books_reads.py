"""Reads of the books that belong to no query: whether a hold is overdue, and one view of everything for a check."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, literal, select

from app.domain.books.balances import HoldState
from app.storage.books_tables import hold
from app.storage.database import allow_long

_OVERDUE = (
    select(literal(1)).where(hold.c.state == HoldState.OPEN.value, hold.c.expires_s <= bindparam("now_s")).limit(1)
)


def has_overdue(connection: Connection, now_s: float) -> bool:
    """Return whether a holder is overdue at ``now_s``; answered from the index of open holds."""
    return connection.execute(_OVERDUE, {"now_s": now_s}).first() is not None


def as_of_one_moment(connection: Connection) -> Connection:
    """Make the transaction that begins now see one state of the books, whatever is booked meanwhile.

    SQLite's readers do so by themselves; PostgreSQL's see each statement's own moment.
    """
    if connection.dialect.name == "postgresql":
        return connection.execution_options(isolation_level="REPEATABLE READ")
    return connection


def as_of_one_moment_at_length(connection: Connection) -> Connection:
    """And let its statements take long, because they read everything."""
    return allow_long(as_of_one_moment(connection))
