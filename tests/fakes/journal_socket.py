"""The journal over a local socket: a store in one process, conductors in others, as actors are on Ray."""

from __future__ import annotations

import asyncio
import pickle
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from app.domain.books.entries import Command
from app.domain.plan import Plan
from app.domain.run import CallRecord, RunEvent, RunRecord, TaskRecord

_LENGTH = struct.Struct("!I")


@asynccontextmanager
async def serving(journal: object, path: Path) -> AsyncIterator[None]:
    """Answer other processes, method by method, for as long as the context lasts."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                method, arguments, keywords = await _receive(reader)
                answer: tuple[object, Exception | None]
                try:
                    answer = (await getattr(journal, method)(*arguments, **keywords), None)
                except Exception as error:  # noqa: BLE001  whatever it is, it is the caller's
                    answer = (None, error)
                _send(writer, answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the conductor is gone
        finally:
            writer.close()

    server = await asyncio.start_unix_server(talk, path)
    async with server:
        yield


class SocketJournal:
    """The port ``Journal`` in a conductor's process."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def create_run(self, record: RunRecord) -> RunRecord:
        answer: RunRecord = await self._ask("create_run", record)
        return answer

    async def take_run(self, run_id: str, epoch: int, owner: str) -> RunRecord:
        answer: RunRecord = await self._ask("take_run", run_id, epoch, owner)
        return answer

    async def get_run(self, run_id: str) -> RunRecord:
        answer: RunRecord = await self._ask("get_run", run_id)
        return answer

    async def list_runs(self, *, limit: int, before_s: float | None = None) -> Sequence[RunRecord]:
        answer: Sequence[RunRecord] = await self._ask("list_runs", limit=limit, before_s=before_s)
        return answer

    async def update_run(self, record: RunRecord, events: Sequence[RunEvent]) -> None:
        await self._ask("update_run", record, events)

    async def record_plan(self, run_id: str, plan: Plan, events: Sequence[RunEvent], epoch: int = 0) -> None:
        await self._ask("record_plan", run_id, plan, events, epoch)

    async def record_task(self, run_id: str, task: TaskRecord, events: Sequence[RunEvent], epoch: int = 0) -> None:
        await self._ask("record_task", run_id, task, events, epoch)

    async def record_calls(self, calls: Sequence[CallRecord], commands: Sequence[Command] = (), epoch: int = 0) -> None:
        await self._ask("record_calls", calls, commands, epoch)

    async def calls_of(self, run_id: str) -> Sequence[CallRecord]:
        answer: Sequence[CallRecord] = await self._ask("calls_of", run_id)
        return answer

    async def append_events(self, events: Sequence[RunEvent], epoch: int = 0) -> None:
        await self._ask("append_events", events, epoch)

    async def events_after(self, run_id: str, seq: int, *, wait_s: float) -> Sequence[RunEvent]:
        answer: Sequence[RunEvent] = await self._ask("events_after", run_id, seq, wait_s=wait_s)
        return answer

    async def _ask(self, method: str, *arguments: object, **keywords: object) -> Any:
        return await asked(self._path, method, *arguments, **keywords)


async def asked(path: str, method: str, *arguments: object, **keywords: object) -> Any:
    """Call a method of what is served at ``path``; raises what it raised, or OSError or EOFError where it is gone."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        _send(writer, (method, arguments, keywords))
        answer, error = await _receive(reader)
    finally:
        writer.close()
    if error is not None:
        raise error
    return answer


def _send(writer: asyncio.StreamWriter, value: object) -> None:
    data = pickle.dumps(value)
    writer.write(_LENGTH.pack(len(data)) + data)


async def _receive(reader: asyncio.StreamReader) -> Any:
    (size,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    return pickle.loads(await reader.readexactly(size))
