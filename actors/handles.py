"""Typed clients of our actors over ``.remote()``: deadlines, cancellation, and Ray's errors turned into ours.

The only place that sees Ray errors. A Ray call is not cancelled when its awaiter gives up, so ``ask`` does that; a
``RayTaskError`` carries a traceback with paths, so only its cause leaves this module.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError, TaskCancelledError

from app.domain.books.budgets import BudgetSpec, Owners
from app.domain.books.entries import Answer, Command
from app.domain.books.figures import BudgetFigures, Difference, ExportRow, ReconcileLine
from app.domain.books.prices import PriceRow
from app.domain.books.unknown import Settled, Settlement, UnknownHold
from app.domain.books.usage import UsageQuery, UsageRow
from app.domain.calls import Admission, CallOrder, CallPlace, Collected
from app.domain.chat import ChatDelta, ChatRequest, ChatResult, Json
from app.domain.errors import CancelledError, DeadlineError, GatewayError, InternalError
from app.domain.hosting import Snapshot
from app.domain.leases import Exchange, Exchanged
from app.domain.limiter_state import SavedLimiter
from app.domain.live_usage import LiveUsage
from app.domain.load import LoadRow
from app.domain.plan import Plan
from app.domain.run import CallRecord, RunEvent, RunRecord, RunRequest, TaskRecord
from app.domain.telemetry import TelemetrySpec
from app.domain.trace_context import TraceContext
from app.domain.views import AccountView, LiveCheck, ReloadReport
from app.domain.without_secrets import without_secrets

if TYPE_CHECKING:
    from app.domain.accounts import AccountSpec, ModelInfo, Orchestra

Value = TypeVar("Value")

CONTROL_TIMEOUT_S = 30.0
"""Calls that only look or record."""
SUBMIT_TIMEOUT_S = 10.0
COLLECT_WAIT_S = 20.0
WRITES_AT_ONCE = 64
BOOKS_COMMANDS_AT_ONCE = 4_000
"""In one message; a single caller may send more."""
BOOKS_CHECK_TIMEOUT_S = 600.0
"""Adding everything up reads everything."""
EXPORT_TIMEOUT_S = 120.0
STORE_PATIENCE_S = 20.0
RESTART_PAUSE_S = 0.2

_log = logging.getLogger(__name__)


class ActorGoneError(InternalError):
    """The actor died or cannot be reached; it is restarted by Ray, so a later call may succeed."""


async def ask(reference: Any, *, of: str, timeout_s: float) -> Any:
    """Await a remote call.

    Args:
        reference: What ``.remote()`` returned.
        of: The actor's name, for messages.
        timeout_s: After this many seconds the call is cancelled at the actor too.

    Raises:
        GatewayError: as raised by the actor.
        ActorGoneError: the actor died or is unreachable.
        DeadlineError: no answer in time.
        InternalError: the actor failed in a way it did not foresee (logged with its traceback there).
    """
    try:
        # Not ``wait_for``: up to Python 3.11 it swallows a cancellation that comes with the answer.
        async with asyncio.timeout(timeout_s):
            return await reference
    except TimeoutError:
        ray.cancel(reference)
        raise DeadlineError(f"{of} did not answer within {timeout_s:g} s") from None
    except asyncio.CancelledError:
        ray.cancel(reference)
        raise
    except (RayError, GatewayError) as error:
        raise translate(error, of=of) from None


def translate(error: BaseException, *, of: str) -> GatewayError:
    """Turn whatever Ray raised into one of our errors, without tracebacks or paths in its message."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, GatewayError) and not isinstance(cause, RayTaskError):
        return cause
    if isinstance(error, RayActorError):
        return ActorGoneError(f"{of} is not running", remedy="it is restarted automatically; try again")
    if isinstance(error, TaskCancelledError):
        return CancelledError(f"the call of {of} was cancelled")
    if isinstance(error, GetTimeoutError):
        return DeadlineError(f"{of} did not answer in time")
    _log.error("unforeseen failure in %s: %s", of, error)
    return InternalError(f"{of} failed ({type(cause).__name__})", remedy="see the logs of the Ray session")


class ActorHandle:
    """A named actor, looked up when first used and again after it was replaced.

    Args:
        name: The actor's name.
        namespace: Where it lives.
        patience_s: How long a call is repeated while the actor is being restarted; more than 0 only where every command
            is safe to repeat.
    """

    def __init__(self, name: str, namespace: str, *, patience_s: float = 0.0) -> None:
        self.name = name
        self.namespace = namespace
        self._patience_s = patience_s
        self._actor: Any = None

    async def ask(self, method: str, *arguments: Any, timeout_s: float = CONTROL_TIMEOUT_S) -> Any:
        """Call ``method`` and await its answer; errors as ``handles.ask``."""
        until_s = time.monotonic() + self._patience_s
        while True:
            actor = await self.found()
            try:
                return await ask(getattr(actor, method).remote(*arguments), of=self.name, timeout_s=timeout_s)
            except ActorGoneError:
                self._actor = None
                if time.monotonic() >= until_s:
                    raise
                await asyncio.sleep(RESTART_PAUSE_S)

    async def found(self) -> Any:
        if self._actor is None:
            try:
                self._actor = await asyncio.to_thread(ray.get_actor, self.name, self.namespace)
            except ValueError:
                raise ActorGoneError(f"{self.name} is not running", remedy="start Tutti: `tutti serve`") from None
        return self._actor


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
                answers = await self._actor.ask("apply_books", commands)
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


class HostHandles:
    """The account actors, as the services' port ``AccountHosts`` and for the directory."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._actors: dict[str, ActorHandle] = {}

    def _host(self, host: str) -> ActorHandle:
        return self._actors.setdefault(host, ActorHandle(host, self._namespace))

    async def submit(self, host: str, orders: Sequence[CallOrder]) -> Sequence[Admission]:
        answer = await self._host(host).ask("submit", list(orders), timeout_s=SUBMIT_TIMEOUT_S)
        return cast("list[Admission]", answer)

    async def collect(self, host: str, owner: str, incarnation: str) -> Collected:
        answer = await self._host(host).ask(
            "collect", owner, COLLECT_WAIT_S, incarnation, timeout_s=COLLECT_WAIT_S + CONTROL_TIMEOUT_S
        )
        return cast("Collected", answer)

    async def exchange(self, host: str, message: Exchange) -> Exchanged:
        return cast("Exchanged", await self._host(host).ask("exchange", message, timeout_s=SUBMIT_TIMEOUT_S))

    async def watch(self, host: str, epoch: int, wait_s: float) -> Exchanged:
        answer = await self._host(host).ask("watch", epoch, wait_s, timeout_s=wait_s + CONTROL_TIMEOUT_S)
        return cast("Exchanged", answer)

    async def chat(
        self, host: str, account: str, request: ChatRequest, timeout_s: float, trace: TraceContext | None = None
    ) -> ChatResult:
        patience_s = timeout_s + SUBMIT_TIMEOUT_S
        answer = await self._host(host).ask("chat", account, request, timeout_s, trace, timeout_s=patience_s)
        return cast("ChatResult", answer)

    async def chat_stream(
        self, host: str, account: str, request: ChatRequest, timeout_s: float, trace: TraceContext | None = None
    ) -> AsyncGenerator[ChatDelta, None]:
        """Stream an answer out of the account's actor; closing the generator stops it there."""
        actor = await self._host(host).found()
        references = actor.chat_stream.remote(account, request, timeout_s, trace)
        try:
            async for reference in references:
                yield cast("ChatDelta", await reference)
        except (RayError, GatewayError) as error:
            raise translate(error, of=host) from None
        finally:
            ray.cancel(references)

    async def cancel(self, host: str, owner: str, call_ids: Sequence[str]) -> None:
        await self._host(host).ask("cancel", owner, list(call_ids), timeout_s=SUBMIT_TIMEOUT_S)

    async def configure(
        self,
        host: str,
        version: int,
        accounts: Sequence[AccountSpec],
        models: Sequence[ModelInfo],
        telemetry: TelemetrySpec,
    ) -> None:
        await self._host(host).ask("configure", version, list(accounts), list(models), telemetry)

    async def status(self, host: str) -> tuple[str, int, Sequence[LoadRow]]:
        """Return (incarnation, configured version, load rows) of a host."""
        return cast("tuple[str, int, list[LoadRow]]", await self._host(host).ask("status", timeout_s=5.0))

    async def views(self, host: str) -> Sequence[AccountView]:
        return cast("list[AccountView]", await self._host(host).ask("views", timeout_s=5.0))

    async def check(self, host: str, account: str) -> LiveCheck:
        return cast("LiveCheck", await self._host(host).ask("check", account, timeout_s=60.0))

    async def drain(self, host: str, timeout_s: float) -> None:
        await self._host(host).ask("drain", timeout_s, timeout_s=timeout_s + SUBMIT_TIMEOUT_S)


class DirectoryHandle:
    """The directory of accounts."""

    def __init__(self, namespace: str) -> None:
        self._actor = ActorHandle("directory", namespace)

    async def start(self, orchestra: Orchestra) -> bool:
        """Give the directory its first configuration; False where it has one already."""
        return cast("bool", await self._actor.ask("start", orchestra, timeout_s=60.0))

    async def watch(self, version: int, wait_s: float) -> Snapshot:
        return cast("Snapshot", await self._actor.ask("watch", version, wait_s, timeout_s=wait_s + CONTROL_TIMEOUT_S))

    async def apply(self, orchestra: Orchestra) -> ReloadReport:
        return cast("ReloadReport", await self._actor.ask("apply", orchestra, timeout_s=60.0))

    async def apply_mapping(self, document: Mapping[str, Any]) -> ReloadReport:
        return cast("ReloadReport", await self._actor.ask("apply_mapping", dict(document), timeout_s=60.0))

    async def reload(self) -> ReloadReport:
        return cast("ReloadReport", await self._actor.ask("reload", timeout_s=60.0))

    async def suspect(self, host: str) -> None:
        """Say that a host did not answer, so that it is looked after at once."""
        await self._actor.ask("suspect", host)

    async def views(self) -> Sequence[AccountView]:
        return cast("list[AccountView]", await self._actor.ask("views"))

    async def check_live(self) -> Sequence[LiveCheck]:
        return cast("list[LiveCheck]", await self._actor.ask("check_live", timeout_s=90.0))

    async def ready(self) -> Mapping[str, str]:
        return cast("dict[str, str]", await self._actor.ask("ready", timeout_s=5.0))

    async def drain(self, timeout_s: float) -> None:
        await self._actor.ask("drain", timeout_s, timeout_s=timeout_s + SUBMIT_TIMEOUT_S)


class DeskHandle:
    """The port ``Desk`` for every way in: reads go to the store, work to the coordinator, accounts to the directory."""

    def __init__(self, namespace: str) -> None:
        self._coordinator = ActorHandle("coordinator", namespace)
        self._store = StoreHandle(namespace)
        self._directory = DirectoryHandle(namespace)

    async def start(self, request: RunRequest) -> RunRecord:
        return cast("RunRecord", await self._coordinator.ask("start", request))

    async def get(self, run_id: str) -> RunRecord:
        return await self._store.get_run(run_id)

    async def list_runs(self, *, limit: int, before_s: float | None = None) -> Sequence[RunRecord]:
        return await self._store.list_runs(limit=limit, before_s=before_s)

    async def events(self, run_id: str, after_seq: int, *, wait_s: float) -> Sequence[RunEvent]:
        return await self._store.events_after(run_id, after_seq, wait_s=wait_s)

    async def answer(self, run_id: str, answers: Mapping[str, str], *, assume_rest: bool) -> RunRecord:
        return cast("RunRecord", await self._coordinator.ask("answer", run_id, dict(answers), assume_rest))

    async def cancel(self, run_id: str) -> RunRecord:
        return cast("RunRecord", await self._coordinator.ask("cancel", run_id))

    async def retry(self, run_id: str, task_id: str) -> RunRecord:
        return cast("RunRecord", await self._coordinator.ask("retry", run_id, task_id))

    async def fork(
        self, run_id: str, task_id: str, *, more: str | None = None, buyers: Owners | None = None
    ) -> RunRecord:
        return cast("RunRecord", await self._coordinator.ask("fork", run_id, task_id, more, buyers or Owners()))

    async def export(self, run_id: str) -> bytes:
        orchestra = (await self._directory.watch(-1, 0.0)).orchestra
        return await self._store.export_run(run_id, without_secrets(orchestra) if orchestra is not None else {})

    async def accounts(self) -> Sequence[AccountView]:
        return await self._directory.views()

    async def check_live(self) -> Sequence[LiveCheck]:
        return await self._directory.check_live()

    async def reload(self) -> ReloadReport:
        return await self._directory.reload()

    async def ready(self) -> Mapping[str, str]:
        """Return a word per part; parts that do not answer say so instead of raising."""
        parts = {"store": self._store.ping, "coordinator": self._ping_coordinator}
        words: dict[str, str] = {}
        for name, question in parts.items():
            try:
                words[name] = await question()
            except GatewayError as error:
                words[name] = error.message
        try:
            words.update(await self._directory.ready())
        except GatewayError as error:
            words["directory"] = error.message
        return words

    async def _ping_coordinator(self) -> str:
        return cast("str", await self._coordinator.ask("ping", timeout_s=5.0))
