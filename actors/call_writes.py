"""Writes the rows of provider calls with the books' commands that belong to them, many callers' in one transaction.

The part of the store that runs write most: twice a call. Decides nothing; called by the store actor alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from actors.transaction import Transaction
from app.domain.books.entries import Answer, Command, Hold
from app.domain.errors import GatewayError
from app.storage import call_rows
from app.storage.call_rows import CallWrite


class CallWrites:
    """Records calls.

    Args:
        write: In a transaction; returns after the commit.
        booked: Told of commands that are on disk, with the books' answers.
        wall_s: Seconds since the epoch: the time of everything in the books.

    Not thread-safe: the store's event loop is the lock.
    """

    def __init__(
        self,
        write: Transaction,
        booked: Callable[[Sequence[Command], Sequence[Answer]], None],
        wall_s: Callable[[], float],
    ) -> None:
        self._write = write
        self._booked = booked
        self._wall_s = wall_s

    async def record(self, writes: Sequence[CallWrite]) -> list[GatewayError | None]:
        """Write them in one transaction; return why each that was refused is not written: each stands for itself."""
        if not writes:
            return []
        now_s = self._wall_s()
        timed = [replace(one, commands=[said_at(command, now_s) for command in one.commands]) for one in writes]
        try:
            outcomes = await self._write(lambda connection: call_rows.record(connection, timed))
        except GatewayError as error:
            if len(writes) == 1:
                return [error]
            # One that cannot be written must not fail its neighbours.
            return [failure for one in writes for failure in await self.record([one])]
        failures: list[GatewayError | None] = []
        for one, outcome in zip(writes, outcomes, strict=True):
            if isinstance(outcome, GatewayError):
                failures.append(outcome)
                continue
            failures.append(None)
            self._booked(one.commands, outcome)
        return failures


def said_at(command: Command, now_s: float) -> Command:
    """Return the command as said now; a hold keeps the time it was meant to live."""
    if isinstance(command, Hold):
        return replace(command, at_s=now_s, expires_s=now_s + command.expires_s - command.at_s)
    return replace(command, at_s=now_s)
