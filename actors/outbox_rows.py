"""The store's outbox of events, as the port ``EventSource`` asks for it: the store actor's side of ``event_handles``.

Holds back new holds where the outbox is full of events that nobody has taken: nothing more is bought then, and what was
bought is booked all the same.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any

from actors.transaction import Transaction
from app.domain.books.entries import Command, Hold
from app.domain.errors import CapacityError
from app.domain.events.spec import EventsSpec
from app.domain.events.spooled import Backlog, DeadLetter, SpooledEvent
from app.storage import outbox

DAY_S = 86_400.0
SIZE_PERIOD_S = 60.0
"""Between two looks at how large all of it is, which reads an index of all of it."""
ASKED = frozenset({"pending", "shipped", "dead", "dead_letters", "replay", "drop", "backlog", "configure"})


class OutboxRows:
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
        self._life = secrets.token_hex(8)
        self._spec: EventsSpec | None = None
        """None until the directory said it: until then nothing that waits is given up."""
        self._excess_bytes = 0
        self._full = False
        self._looked_s = 0.0

    async def ask(self, method: str, arguments: Sequence[Any]) -> object:
        """Do what ``event_handles`` asks by name."""
        assert method in ASKED, f"{method} is not for others"
        return await getattr(self, method)(*arguments)

    async def configure(self, spec: EventsSpec) -> str:
        """Take what is configured from now on; return which life of the store this is."""
        if spec != self._spec:
            self._spec = spec
            self._looked_s = 0.0
        # The recorder is the writer thread's.
        await self._write(lambda _connection: outbox.use(spec.profile))
        return self._life

    async def pending(self, after_seq: int, docs_max: int, bytes_max: int) -> list[SpooledEvent]:
        """See ``ports.EventSource``."""
        return await self._read(
            lambda connection: outbox.pending(connection, after_seq, docs_max=docs_max, bytes_max=bytes_max)
        )

    async def shipped(self, seqs: Sequence[int]) -> None:
        """See ``ports.EventSource``."""
        await self._write(lambda connection: outbox.shipped(connection, seqs))
        if self._full:
            self._looked_s = 0.0

    async def dead(self, seq: int, status: int, reason: str) -> None:
        """See ``ports.EventSource``."""
        now_s = self._wall_s()
        await self._write(lambda connection: outbox.dead(connection, seq, status=status, reason=reason, now_s=now_s))

    async def dead_letters(self, limit: int) -> list[DeadLetter]:
        """See ``ports.EventSource``."""
        return await self._read(lambda connection: outbox.dead_letters(connection, limit=limit))

    async def replay(self, event_ids: Sequence[str] | None) -> int:
        """See ``ports.EventSource``."""
        return await self._write(lambda connection: outbox.replay(connection, event_ids))

    async def drop(self, event_ids: Sequence[str] | None) -> int:
        """See ``ports.EventSource``."""
        return await self._write(lambda connection: outbox.drop(connection, event_ids))

    async def backlog(self) -> Backlog:
        """See ``ports.EventSource``."""
        now_s = self._wall_s()
        return await self._read(lambda connection: outbox.backlog(connection, now_s))

    def require_room(self, commands: Sequence[Command]) -> None:
        """Refuse new holds while there is no room for the events of what they would buy; raises CapacityError."""
        if self._full and any(isinstance(command, Hold) for command in commands):
            raise CapacityError(
                "the outbox is full of events that are not shipped, so nothing more may be bought",
                retry_after_s=5.0,
                remedy="see why they are not shipped (`tutti doctor`), or raise events.spool_mb",
            )

    async def expire(self) -> int:
        """Delete what is old or too much, as far as it may go; return how many events that were."""
        spec, now_s = self._spec, self._wall_s()
        if spec is None:
            return 0
        if abs(now_s - self._looked_s) >= SIZE_PERIOD_S:
            self._looked_s = now_s
            used = await self._read(outbox.used_bytes)
            self._excess_bytes = used - spec.spool_bytes
            if self._excess_bytes > 0:
                self._excess_bytes += spec.spool_bytes // outbox.ROOM_SHARE
            else:
                self._full = False
        until_s, excess_bytes = now_s - spec.keep_days * DAY_S, self._excess_bytes
        if not await self._read(lambda connection: outbox.has_old(connection, until_s, ships=spec.ships)) and (
            excess_bytes <= 0
        ):
            return 0
        gone, freed = await self._write(
            lambda connection: outbox.expire(
                connection, until_s=until_s, ships=spec.ships, excess_bytes=max(0, excess_bytes)
            )
        )
        self._excess_bytes -= freed
        self._full = self._excess_bytes > 0 and gone == 0
        return gone
