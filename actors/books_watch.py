"""Looks whether the books add up, and tells it: the store's own look once a day, and every look that is asked for.

Part of the store actor. A look of its own reads the balances only: debits must be credits. Told through the outbox, so
that the alert of books that differ hears of it wherever events go.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from sqlalchemy import Connection

from actors.chores import keep_doing
from actors.transaction import Transaction
from app.domain.books.figures import Difference
from app.domain.events.facts import verified_told
from app.storage import books_checks, outbox
from app.storage.books_reads import as_of_one_moment, as_of_one_moment_at_length

FIRST_S = 10.0
"""From the opening to the first look: whoever waited for the store goes first."""
PERIOD_S = 86_400.0
RETRY_S = 60.0
"""After a look that failed."""

_log = logging.getLogger(__name__)


class BooksWatch:
    """One per store.

    Args:
        write: In a transaction; returns after the commit.
        read: On a connection for reading.
        wall_s: Seconds since 1970.

    Not thread-safe: the actor's event loop is the lock.
    """

    def __init__(self, write: Transaction, read: Transaction, wall_s: Callable[[], float]) -> None:
        self._write = write
        self._read = read
        self._wall_s = wall_s

    async def verify(self) -> list[Difference]:
        """Add everything up again; return what differs."""
        return await self._told(
            await self._read(lambda connection: books_checks.verify(as_of_one_moment_at_length(connection)))
        )

    async def look(self) -> list[Difference]:
        """Compare debits with credits, without their transfers and entries; return what differs."""
        found = await self._read(lambda connection: books_checks.verify_balances(as_of_one_moment(connection)))
        for one in found:
            _log.error("the books do not add up: %s: debits %s, credits %s", one.subject, one.stored, one.computed)
        return await self._told(found)

    async def run(self) -> None:
        """Look for ever: soon after the opening, then once a day."""
        await keep_doing(
            self.look, failing="the books were not looked at", first_s=FIRST_S, period_s=PERIOD_S, retry_s=RETRY_S
        )

    async def _told(self, found: list[Difference]) -> list[Difference]:
        told = [verified_told(len(found), self._wall_s())]

        def write(connection: Connection) -> None:
            outbox.tell(connection, told)

        await self._write(write)
        return found
