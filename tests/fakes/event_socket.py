"""The node's spool over a local socket: its keeper, tellers and shipper are processes, as they are actors on Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from app.domain.errors import InternalError
from app.domain.events.batches import BatchKept, EventBatch
from app.domain.events.spooled import Backlog, DeadLetter, SpooledEvent
from tests.fakes.journal_socket import asked

ANSWER_S = 60.0


class SocketSpool:
    """The port ``EventSource``, and ``keep``; whoever served it may be gone: InternalError, as from an actor."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def keep(self, batch: EventBatch) -> BatchKept:
        return cast("BatchKept", await self._ask("keep", batch))

    async def pending(self, after_seq: int, *, docs_max: int, bytes_max: int) -> Sequence[SpooledEvent]:
        return cast("list[SpooledEvent]", await self._ask("pending", after_seq, docs_max, bytes_max))

    async def shipped(self, seqs: Sequence[int]) -> None:
        await self._ask("shipped", list(seqs))

    async def dead(self, seq: int, *, status: int, reason: str) -> None:
        await self._ask("dead", seq, status, reason)

    async def dead_letters(self, *, limit: int) -> Sequence[DeadLetter]:
        return cast("list[DeadLetter]", await self._ask("dead_letters", limit))

    async def replay(self, event_ids: Sequence[str] | None) -> int:
        return cast("int", await self._ask("replay", event_ids))

    async def drop(self, event_ids: Sequence[str] | None) -> int:
        return cast("int", await self._ask("drop", event_ids))

    async def backlog(self) -> Backlog:
        return cast("Backlog", await self._ask("backlog"))

    async def _ask(self, method: str, *arguments: object) -> object:
        try:
            async with asyncio.timeout(ANSWER_S):
                return await asked(self._path, method, *arguments)
        except (OSError, EOFError) as error:
            raise InternalError(f"the spool is away ({type(error).__name__})", remedy="wait") from None
