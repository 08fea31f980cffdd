"""The single writer of durable state: runs, plans, tasks, calls, events and limiter states.

A plain class that ``bootstrap`` makes an actor. Deliberately decides nothing: it commits what it is told, in groups,
and wakes who waits for events. Called by the coordinator, the account actors and every way in (through ``handles``).

May die at any moment: a command whose call returned is on disk; one whose call did not return may or may not be, and
every command is safe to repeat (runs by id or idempotency key, tasks and calls by key) except ``append_events``, whose
repetition shows a progress line twice.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from app.domain.errors import GatewayError
from app.domain.limiter_state import SavedLimiter
from app.domain.plan import Plan
from app.domain.run import CallRecord, RunEvent, RunRecord, TaskRecord
from app.storage import journal
from app.storage.data_dir import hold_directory
from app.storage.database import open_database, open_for_reading
from app.storage.faults import fault
from app.storage.place import Place
from app.storage.writer import Writer

EVENT_WAIT_MAX_S = 30.0
BATCHED = frozenset({"update_run", "record_plan", "record_task", "record_calls", "append_events", "save_limiters"})


class Store:
    """Owner of the data directory.

    Args:
        data_dir: Where the journal lives; created when missing. Opened with the first command, so that whoever gives
            it hears why that fails: ConflictError (another Tutti holds the directory or the database),
            ConfigurationError (a newer Tutti wrote the journal), InternalError (it cannot be used now). The next
            command tries again.
        url: The PostgreSQL database that holds the journal instead of a file in ``data_dir``.

    Not thread-safe: the actor's event loop is the lock; the writer thread is the only one that touches the database for
    writing.
    """

    def __init__(self, data_dir: str, url: str | None = None) -> None:
        self._place = Place(Path(data_dir).expanduser(), url)
        self._opening = asyncio.Lock()
        self._opened: _Opened | None = None
        self._changed: dict[str, asyncio.Event] = {}

    async def ping(self) -> str:
        """Return "ok" once a commit went through."""
        await self._write(lambda connection: None, ())
        return "ok"

    async def create_run(self, record: RunRecord) -> RunRecord:
        """Record a new run, or return the one that has the idempotency key; raises ConflictError."""
        return await self._write(lambda connection: journal.create_run(connection, record), ())

    async def update_run(self, record: RunRecord, events: Sequence[RunEvent]) -> None:
        """Replace the run's row and append events in one transaction."""
        await self._write(lambda connection: journal.update_run(connection, record), events)

    async def record_plan(self, run_id: str, plan: Plan, events: Sequence[RunEvent]) -> None:
        """Append a plan version and events in one transaction."""
        await self._write(lambda connection: journal.record_plan(connection, run_id, plan), events)

    async def record_task(self, run_id: str, task: TaskRecord, events: Sequence[RunEvent]) -> None:
        """Write one task and append events in one transaction."""
        await self._write(lambda connection: journal.record_task(connection, run_id, task), events)

    async def record_calls(self, calls: Sequence[CallRecord]) -> None:
        """Write the rows of provider calls in one transaction."""

        def write(connection: Connection) -> None:
            for call in calls:
                journal.record_call(connection, call)

        await self._write(write, ())

    async def append_events(self, events: Sequence[RunEvent]) -> None:
        """Append progress events."""
        await self._write(lambda connection: None, events)

    async def write_batch(self, commands: Sequence[tuple[str, tuple[Any, ...]]]) -> list[GatewayError | None]:
        """Do several writes that came in one call; each stands for itself, and its error is its own answer.

        The writes of one run are in order: they go to the writer in the order given.
        """
        for method, _arguments in commands:
            assert method in BATCHED, f"{method} is no write"
        answers = await asyncio.gather(
            *(getattr(self, method)(*arguments) for method, arguments in commands), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, GatewayError):
                raise answer
        return [answer if isinstance(answer, GatewayError) else None for answer in answers]

    async def get_run(self, run_id: str) -> RunRecord:
        """Return the run; raises NotFoundError."""
        return await self._read(lambda connection: journal.get_run(connection, run_id))

    async def list_runs(self, limit: int, before_s: float | None) -> list[RunRecord]:
        """Return the newest runs first."""
        return await self._read(lambda connection: journal.list_runs(connection, limit=limit, before_s=before_s))

    async def unfinished_runs(self) -> list[str]:
        """Return ids of runs that somebody should be conducting."""
        return await self._read(journal.unfinished_runs)

    async def calls_of(self, run_id: str) -> list[CallRecord]:
        """Return every recorded call of the run."""
        return await self._read(lambda connection: journal.calls_of(connection, run_id))

    async def events_after(self, run_id: str, seq: int, wait_s: float) -> list[RunEvent]:
        """Return events with a larger ``seq``, waiting up to ``wait_s`` seconds for the first; raises NotFoundError."""
        changed = self._changed.setdefault(run_id, asyncio.Event())
        found = await self._read(lambda connection: journal.events_after(connection, run_id, seq))
        if found:
            return found
        await self._read(lambda connection: journal.require_run(connection, run_id))
        try:
            await asyncio.wait_for(changed.wait(), min(wait_s, EVENT_WAIT_MAX_S))
        except TimeoutError:
            return []
        return await self._read(lambda connection: journal.events_after(connection, run_id, seq))

    async def save_limiters(self, states: Sequence[SavedLimiter], wall_s: float) -> None:
        """Replace the saved states of these limiters."""

        def write(connection: Connection) -> None:
            for saved in states:
                journal.save_limiter_state(
                    connection, saved.scope, saved.model, state=saved.state, clean=saved.clean, wall_s=wall_s
                )

        await self._write(write, ())

    async def find_limiters(self, keys: Sequence[tuple[str, str]]) -> list[SavedLimiter]:
        """Return what is saved of these (scope, model) pairs."""

        def read(connection: Connection) -> list[SavedLimiter]:
            saved = []
            for scope, model in keys:
                found = journal.find_limiter_state(connection, scope, model)
                if found is not None:
                    saved.append(SavedLimiter(scope=scope, model=model, state=found[0], clean=found[1]))
            return saved

        return await self._read(read)

    async def close(self) -> None:
        """Write what is queued and let go of the directory."""
        async with self._opening:
            if self._opened is not None:
                opened, self._opened = self._opened, None
                await asyncio.to_thread(opened.close)

    async def _open(self) -> _Opened:
        if self._opened is None:
            async with self._opening:
                if self._opened is None:
                    # Migrating takes as long as it takes; the event loop goes on answering.
                    self._opened = await asyncio.to_thread(_open, self._place)
        return self._opened

    async def _write(self, command: Callable[[Connection], journal.Value], events: Sequence[RunEvent]) -> journal.Value:
        def run(connection: Connection) -> journal.Value:
            value = command(connection)
            journal.append_events(connection, events)
            return value

        opened = await self._open()
        value = await asyncio.wrap_future(opened.writer.submit(run))
        for run_id in {event.run_id for event in events}:
            # Waiters hold the old event; whoever comes later waits on a new one.
            waiting = self._changed.pop(run_id, None)
            if waiting is not None:
                waiting.set()
        return value

    async def _read(self, query: Callable[[Connection], journal.Value]) -> journal.Value:
        readers = (await self._open()).readers

        def run() -> journal.Value:
            try:
                with readers.connect() as connection:
                    return query(connection)
            except SQLAlchemyError as error:
                raise fault(error, self._place) from None

        return await asyncio.to_thread(run)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    lock: int
    writers: Engine
    readers: Engine
    writer: Writer

    def close(self) -> None:
        """Write what is queued, then let go of everything."""
        self.writer.close()
        self.readers.dispose()
        self.writers.dispose()
        os.close(self.lock)


def _open(place: Place) -> _Opened:
    lock = hold_directory(place.data_dir)
    try:
        writers = open_database(place.data_dir, place.url)
    except BaseException:
        os.close(lock)
        raise
    return _Opened(lock=lock, writers=writers, readers=open_for_reading(place), writer=Writer(writers, place))
