"""The typed client of the store's actor: the journal and the books."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from actors.handles import CONTROL_TIMEOUT_S, STORE_PATIENCE_S, ActorHandle
from actors.packing import pack, unpack
from app.domain.books.budgets import BudgetSpec
from app.domain.books.corrections import Corrected, HandCorrection
from app.domain.books.entries import Answer, Command
from app.domain.books.figures import BudgetFigures, Difference, ExportRow, ReconcileLine
from app.domain.books.prices import PriceRow
from app.domain.books.unknown import Settled, Settlement, UnknownHold
from app.domain.books.usage import UsageQuery, UsageRow
from app.domain.calls import CallPlace
from app.domain.chat import Json
from app.domain.limiter_state import SavedLimiter
from app.domain.live_usage import LiveUsage
from app.domain.plan import Plan
from app.domain.run import CallRecord, RunEvent, RunRecord, TaskRecord

WRITES_AT_ONCE = 64
BOOKS_COMMANDS_AT_ONCE = 4_000
"""In one message; a single caller may send more."""
BOOKS_CHECK_TIMEOUT_S = 600.0
"""Adding everything up reads everything."""
EXPORT_TIMEOUT_S = 120.0


class StoreHandle:
    """The journal, as the services' port ``Journal`` and for the account actors.

    A store that died is back within seconds with all it had acknowledged, and every command is safe to repeat: runs
    wait for it rather than fail. Writes that are issued while one is under way travel together in the next call: a Ray
    call costs more than a commit.
    """

    def __init__(self, namespace: str) -> None:
        self._actor = ActorHandle("store", namespace, patience_s=STORE_PATIENCE_S)
        self._as_it_is = ActorHandle("store", namespace)
        self._waiting: list[_Write] = []
        self._sender: asyncio.Task[None] | None = None
        self._bookings: list[_Booking] = []
        self._booker: asyncio.Task[None] | None = None

    async def create_run(self, record: RunRecord) -> RunRecord:
        return cast("RunRecord", await self._actor.ask("create_run", record))

    async def get_run(self, run_id: str) -> RunRecord:
        return cast("RunRecord", await self._actor.ask("get_run", run_id))

    async def list_runs(self, *, limit: int, before_s: float | None = None) -> Sequence[RunRecord]:
        return cast("list[RunRecord]", await self._actor.ask("list_runs", limit, before_s))

    async def unfinished_runs(self) -> Sequence[str]:
        return cast("list[str]", await self._actor.ask("unfinished_runs"))

    async def update_run(self, record: RunRecord, events: Sequence[RunEvent]) -> None:
        await self._write("update_run", record, list(events))

    async def take_run(self, run_id: str, epoch: int, owner: str) -> RunRecord:
        return cast("RunRecord", await self._actor.ask("take_run", run_id, epoch, owner))

    async def record_plan(self, run_id: str, plan: Plan, events: Sequence[RunEvent], epoch: int = 0) -> None:
        await self._write("record_plan", run_id, plan, list(events), epoch)

    async def record_task(self, run_id: str, task: TaskRecord, events: Sequence[RunEvent], epoch: int = 0) -> None:
        await self._write("record_task", run_id, task, list(events), epoch)

    async def record_calls(self, calls: Sequence[CallRecord], commands: Sequence[Command] = (), epoch: int = 0) -> None:
        await self._write("record_calls", list(calls), list(commands), epoch)

    async def calls_of(self, run_id: str) -> Sequence[CallRecord]:
        return cast("list[CallRecord]", await self._actor.ask("calls_of", run_id))

    async def append_events(self, events: Sequence[RunEvent], epoch: int = 0) -> None:
        await self._write("append_events", list(events), epoch)

    async def events_after(self, run_id: str, seq: int, *, wait_s: float) -> Sequence[RunEvent]:
        answer = await self._actor.ask("events_after", run_id, seq, wait_s, timeout_s=wait_s + CONTROL_TIMEOUT_S)
        return cast("list[RunEvent]", answer)

    async def save_limiters(self, states: Sequence[SavedLimiter], wall_s: float) -> None:
        await self._write("save_limiters", list(states), wall_s)

    async def find_limiters(self, keys: Sequence[tuple[str, str]]) -> Sequence[SavedLimiter]:
        return cast("list[SavedLimiter]", await self._actor.ask("find_limiters", list(keys)))

    async def apply_books(self, commands: Sequence[Command]) -> Sequence[Answer]:
        """Apply commands in order and return once they are on disk; each may be repeated."""
        booking = _Booking(commands=commands, done=asyncio.get_running_loop().create_future())
        self._bookings.append(booking)
        if self._booker is None or self._booker.done():
            self._booker = asyncio.create_task(self._book())
        return await booking.done

    async def sync_books(
        self, budgets: Sequence[BudgetSpec], prices: Sequence[PriceRow], webhook: str | None = None
    ) -> None:
        await self._actor.ask("sync_books", list(budgets), list(prices), webhook)

    async def usage(self, query: UsageQuery) -> Sequence[UsageRow]:
        return cast("list[UsageRow]", await self._actor.ask("usage", query))

    async def budget_figures(self) -> Sequence[BudgetFigures]:
        return cast("list[BudgetFigures]", await self._actor.ask("budget_figures"))

    async def verify_books(self) -> Sequence[Difference]:
        return cast("list[Difference]", await self._actor.ask("verify_books", timeout_s=BOOKS_CHECK_TIMEOUT_S))

    async def reconcile_books(self, export: Sequence[ExportRow]) -> Sequence[ReconcileLine]:
        answer = await self._actor.ask("reconcile_books", list(export), timeout_s=BOOKS_CHECK_TIMEOUT_S)
        return cast("list[ReconcileLine]", answer)

    async def unknown_holds(self) -> Sequence[UnknownHold]:
        return cast("list[UnknownHold]", await self._actor.ask("unknown_holds"))

    async def settle_unknown(self, settlement: Settlement) -> Settled:
        return cast("Settled", await self._actor.ask("settle_unknown", settlement))

    async def correct_entry(self, correction: HandCorrection) -> Corrected:
        return cast("Corrected", await self._actor.ask("correct_entry", correction))

    async def entries_after(self, cursor: str | None, *, wait_s: float) -> LiveUsage:
        answer = await self._actor.ask("entries_after", cursor, wait_s, timeout_s=wait_s + CONTROL_TIMEOUT_S)
        return cast("LiveUsage", answer)

    async def place_call(self, place: CallPlace) -> None:
        await self._actor.ask("place_call", place)

    async def export_run(self, run_id: str, configuration: Mapping[str, Json]) -> bytes:
        answer = await self._actor.ask("export_run", run_id, dict(configuration), timeout_s=EXPORT_TIMEOUT_S)
        return cast("bytes", answer)

    async def ping(self, *, timeout_s: float = 5.0) -> str:
        return cast("str", await self._as_it_is.ask("ping", timeout_s=timeout_s))

    async def close(self) -> None:
        await self._as_it_is.ask("close")

    async def _book(self) -> None:
        while self._bookings:
            together = self._take_bookings()
            commands = [command for booking in together for command in booking.commands]
            answers: list[Answer] = []
            failure: Exception | None = None
            try:
                answers = unpack(await self._actor.ask("packed", "apply_books", pack((commands,))))
            except Exception as error:  # noqa: BLE001  whatever happened, no caller may wait for ever
                failure = error
            start = 0
            for booking in together:
                end = start + len(booking.commands)
                if booking.done.done():
                    pass  # its caller gave up; it is written all the same
                elif failure is not None:
                    booking.done.set_exception(failure)
                else:
                    booking.done.set_result(answers[start:end])
                start = end

    def _take_bookings(self) -> list[_Booking]:
        """Return the first bookings that fit into one message, at least one."""
        taken, size = 0, 0
        for booking in self._bookings:
            size += len(booking.commands)
            if taken and size > BOOKS_COMMANDS_AT_ONCE:
                break
            taken += 1
        together, self._bookings = self._bookings[:taken], self._bookings[taken:]
        return together

    async def _write(self, method: str, *arguments: object) -> None:
        write = _Write(method=method, arguments=arguments, done=asyncio.get_running_loop().create_future())
        self._waiting.append(write)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send())
        await write.done

    async def _send(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:WRITES_AT_ONCE], self._waiting[WRITES_AT_ONCE:]
            try:
                answers = await self._actor.ask("write_batch", [(write.method, write.arguments) for write in batch])
            except Exception as error:  # noqa: BLE001  whatever happened, no caller may wait for ever
                answers = [error] * len(batch)
            for write, answer in zip(batch, answers, strict=True):
                if write.done.done():
                    continue  # its caller gave up; it is written all the same
                if isinstance(answer, Exception):
                    write.done.set_exception(answer)
                else:
                    write.done.set_result(None)


@dataclass(slots=True, kw_only=True)
class _Booking:
    commands: Sequence[Command]
    done: asyncio.Future[Sequence[Answer]]


@dataclass(slots=True, kw_only=True)
class _Write:
    method: str
    arguments: tuple[object, ...]
    done: asyncio.Future[None]
