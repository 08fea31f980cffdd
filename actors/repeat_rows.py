"""The store's side of idempotency keys: lets others wait for a call that one is making.

Keeps nothing but who waits: everything else is in the rows (``app.storage.repeats``), so a store that dies loses no key
and no answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from sqlalchemy import Connection

from actors.transaction import Transaction
from app.domain.repeats import LEASE_S, Claim
from app.storage import repeats
from app.storage.repeats import Found

WAIT_MAX_S = 20.0
WAITERS_MAX = 500
"""Claims that wait in the store at once; more are told "running" at once and come again."""
LOOK_S = 0.05
"""A lease that has just ended is looked at again after this."""


class RepeatRows:
    """Keys by their rows.

    Args:
        write: In a transaction; returns after the commit.
        wall_s: The store's time.

    Not thread-safe: the actor's event loop is the lock.
    """

    def __init__(self, write: Transaction, wall_s: Callable[[], float]) -> None:
        self._write = write
        self._wall_s = wall_s
        self._leases_hold_until_s = wall_s() + LEASE_S
        """Holders that live have told this life of the store so by then."""
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._waiters = 0

    async def claim(self, claim: Claim, wait_s: float) -> Found:
        """See ``ports.RepeatKeys``."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + min(wait_s, WAIT_MAX_S)
        while True:
            ended: asyncio.Future[None] = loop.create_future()
            # Before the look: what ends in between must not be missed.
            self._waiting.setdefault(claim.place, set()).add(ended)
            try:
                found = await self._write(lambda connection: self._claim(connection, claim))
                left_s = until_s - loop.time()
                if found.lapses_s is None or left_s <= 0 or self._waiters >= WAITERS_MAX:
                    return found
                self._waiters += 1
                try:
                    await asyncio.wait((ended,), timeout=min(left_s, max(LOOK_S, found.lapses_s - self._wall_s())))
                finally:
                    self._waiters -= 1
            finally:
                self._stop_waiting(claim.place, ended)

    async def renew(self, held: Sequence[Claim]) -> None:
        """See ``ports.RepeatKeys``."""
        await self._write(lambda connection: repeats.renew(connection, held, self._wall_s()))

    async def finish(self, held: Claim, answer: str | None) -> Found:
        """See ``ports.RepeatKeys``."""
        found = await self._write(lambda connection: repeats.finish(connection, held, answer, self._wall_s()))
        self._wake(held.place)
        return found

    async def forget(self, held: Claim) -> None:
        """See ``ports.RepeatKeys``."""
        await self._write(lambda connection: repeats.forget(connection, held))
        self._wake(held.place)

    def _claim(self, connection: Connection, claim: Claim) -> Found:
        return repeats.claim(connection, claim, self._wall_s(), leases_hold_until_s=self._leases_hold_until_s)

    def _wake(self, place: str) -> None:
        for waiting in self._waiting.get(place, ()):
            if not waiting.done():
                waiting.set_result(None)

    def _stop_waiting(self, place: str, ended: asyncio.Future[None]) -> None:
        waiting = self._waiting[place]
        waiting.discard(ended)
        if not waiting:
            del self._waiting[place]
