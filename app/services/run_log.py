"""One run's progress lines on their way into the journal, in order and in batches.

Lines that belong to a change of state are committed with it in one transaction; the rest follow within ``FLUSH_S``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from app.domain.books.budgets import Owners
from app.domain.chat import Json
from app.domain.errors import GatewayError
from app.domain.ports import Clock
from app.domain.run import RunEvent

FLUSH_S = 0.05
"""Longest wait of a line that nothing else carries; a follower sees it then."""
LINES_MAX = 10_000
"""Above this the oldest lines are dropped: the journal has refused for long, and the run goes on without a log."""

_log = logging.getLogger(__name__)


class EventJournal(Protocol):
    """Where lines go; implemented by ``run_journal``."""

    async def append_events(self, events: Sequence[RunEvent]) -> None:
        """Append them in one transaction."""


class RunLog:
    """Collects lines and writes them.

    Args:
        run_id: Whose lines these are.
        journal: Where they go, in the name of the run's conductor.
        clock: Stamps them.
        trace_id: The run's trace.
        buyers: On whose behalf the run is.

    Not thread-safe: the conductor's event loop is the lock.
    """

    def __init__(
        self, run_id: str, journal: EventJournal, clock: Clock, *, trace_id: str = "", buyers: Owners | None = None
    ) -> None:
        self._run_id = run_id
        self._trace_id = trace_id
        self._buyers = buyers or Owners()
        self._journal = journal
        self._clock = clock
        self._pending: list[RunEvent] = []
        self._writing = asyncio.Lock()
        self._flusher: asyncio.Task[None] | None = None

    def emit(self, kind: str, /, task_id: str | None = None, attempt: int | None = None, **payload: Json) -> None:
        """Add a line; it is on disk within ``FLUSH_S``, or with the next ``commit``."""
        self._pending.append(
            RunEvent(
                run_id=self._run_id,
                seq=0,
                kind=kind,
                at_s=self._clock.wall_s(),
                task_id=task_id,
                attempt=attempt,
                payload=payload,
                trace_id=self._trace_id,
                buyers=self._buyers,
            )
        )
        if len(self._pending) > LINES_MAX:
            del self._pending[: len(self._pending) - LINES_MAX]
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush_soon())

    async def commit(self, write: Callable[[Sequence[RunEvent]], Awaitable[None]]) -> None:
        """Call ``write`` with every line so far, to be committed with what it writes.

        A write that fails keeps the lines for the next one, and raises.
        """
        async with self._writing:
            lines, self._pending = self._pending, []
            try:
                await write(lines)
            except BaseException:
                self._pending = lines + self._pending
                raise

    async def close(self) -> None:
        """Write what is left."""
        if self._flusher is not None:
            self._flusher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._flusher
        await self.commit(self._append)  # and waits for a flush that is on its way

    async def _flush_soon(self) -> None:
        await asyncio.sleep(FLUSH_S)
        self._flusher = None
        try:
            await self.commit(self._append)
        except GatewayError as error:
            _log.warning("progress lines of %s wait: %s", self._run_id, error.message)

    async def _append(self, lines: Sequence[RunEvent]) -> None:
        if lines:
            await self._journal.append_events(lines)
