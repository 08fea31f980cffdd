"""The real store in this process, as the services' port ``Journal``: what the actor's handle is on Ray."""

from __future__ import annotations

from collections.abc import Sequence

from actors.store import Store
from app.domain.books.entries import Command
from app.domain.plan import Plan
from app.domain.run import CallRecord, RunEvent, RunRecord, TaskRecord


class InProcessJournal:
    """The port over a store on a real database file."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def create_run(self, record: RunRecord) -> RunRecord:
        return await self._store.create_run(record)

    async def get_run(self, run_id: str) -> RunRecord:
        return await self._store.get_run(run_id)

    async def list_runs(self, *, limit: int, before_s: float | None = None) -> Sequence[RunRecord]:
        return await self._store.list_runs(limit, before_s)

    async def update_run(self, record: RunRecord, events: Sequence[RunEvent]) -> None:
        await self._store.update_run(record, events)

    async def take_run(self, run_id: str, epoch: int, owner: str) -> RunRecord:
        return await self._store.take_run(run_id, epoch, owner)

    async def record_plan(self, run_id: str, plan: Plan, events: Sequence[RunEvent], epoch: int = 0) -> None:
        await self._store.record_plan(run_id, plan, events, epoch)

    async def record_task(self, run_id: str, task: TaskRecord, events: Sequence[RunEvent], epoch: int = 0) -> None:
        await self._store.record_task(run_id, task, events, epoch)

    async def record_calls(self, calls: Sequence[CallRecord], commands: Sequence[Command] = (), epoch: int = 0) -> None:
        await self._store.record_calls(calls, commands, epoch)

    async def calls_of(self, run_id: str) -> Sequence[CallRecord]:
        return await self._store.calls_of(run_id)

    async def append_events(self, events: Sequence[RunEvent], epoch: int = 0) -> None:
        await self._store.append_events(events, epoch)

    async def events_after(self, run_id: str, seq: int, *, wait_s: float) -> Sequence[RunEvent]:
        return await self._store.events_after(run_id, seq, wait_s)
