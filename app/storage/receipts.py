"""Tells whether a commit whose answer was lost was done.

A server's transaction has a number for ever, by which its end can be asked for from another session. Nothing of the
kind is needed for SQLite, whose commit is a call in our own process. Used by ``writer``.
"""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, func, select

_TAKE = select(func.txid_current_if_assigned())
_END = select(func.txid_status(bindparam("receipt")))


def take(connection: Connection) -> int | None:
    """Return the number of the transaction that is about to be committed; None where it wrote nothing, or on SQLite."""
    if connection.dialect.name != "postgresql":
        return None
    receipt: int | None = connection.execute(_TAKE).scalar()
    return receipt


def is_committed(connection: Connection, receipt: int) -> bool:
    """Return how that transaction ended; its session must have ended, else it may still be under way."""
    return bool(connection.execute(_END, {"receipt": receipt}).scalar() == "committed")
