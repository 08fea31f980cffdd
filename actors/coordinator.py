"""Drives project runs: one conductor per run, one dispatcher for all of them.

A thin shell: takes runs in, remembers which are being conducted here, and hands the newest snapshot of the directory to
the dispatcher. Everything a run needs to go on is in the journal.

May die at any moment: when it is back it takes every unfinished run over and goes on from the journal. Completed tasks
and the plan are kept; what becomes of calls that were in flight ``domain/recovery`` decides. One that was only paused
finds its runs taken, and writes nothing more of them.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import Any, TypeGuard

from actors import telemetry
from actors.clock import SystemClock
from actors.handles import DirectoryHandle, HostHandles
from actors.own_events import OwnEvents
from actors.store_handle import StoreHandle
from app.domain.accounts import Orchestra
from app.domain.books.budgets import Owners
from app.domain.books.money import is_amount
from app.domain.errors import CapacityError, ConflictError, GatewayError, RequestError, RunTakenError
from app.domain.rework import forked, to_redo
from app.domain.run import RunRecord, RunRequest, RunStatus
from app.services.conduct import Conductor, Tools
from app.services.dispatch import CallProgress, Dispatcher
from app.services.prompts import Prompts
from app.services.roster import SnapshotRoster
from app.services.telemetry.instruments import RUN_OLDEST, RUNS_OPEN
from app.services.telemetry.tracing import begin

FIRST_EPOCH = 1
"""Of whoever accepts a run; 0 are the runs of versions that knew no owners."""
TAKEN_AT_ONCE = 16
"""Runs of an earlier life that are taken over together: each waits for the store twice."""
RUNS_MAX = 1_000
"""Runs conducted at once; more are refused with a time to come back."""
TEXT_BYTES_MAX = 256 * 1024
TIMEOUT_S_MAX = 7 * 86_400
"""As docs/http.md promises."""
MEASURE_S = 1.0
WATCH_WAIT_S = 10.0
RECONNECT_S = 0.5
KNOWN_WAIT_S = 30.0
"""How long a first request waits for the configuration of a cluster that is just starting."""

_log = logging.getLogger(__name__)


class Coordinator:
    """The conductor's desk.

    Args:
        namespace: Where the other actors live.

    Built inside a running event loop (Ray builds async actors there): it starts to watch and to go on at once. Not
    thread-safe: the event loop is the lock.
    """

    def __init__(self, namespace: str) -> None:
        self._journal = StoreHandle(namespace)
        self._directory = DirectoryHandle(namespace)
        self._clock = SystemClock()
        self._roster = SnapshotRoster()
        self._prompts = Prompts.load()
        hosts = HostHandles(namespace)
        self._name = f"coordinator-{uuid.uuid4().hex[:12]}"
        self._dispatcher = Dispatcher(
            hosts,
            self._roster,
            self._clock,
            owner=self._name,
            on_progress=self._note_progress,
            on_silence=self._directory.suspect,
        )
        self._conductors: dict[str, Conductor] = {}
        self._tasks: dict[str, asyncio.Task[RunRecord]] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._known = asyncio.Event()
        self._answering = asyncio.Lock()
        self._own_events = OwnEvents("coordinator", namespace)
        self._own_events.emitter.emit("actor.started", actor="coordinator")
        for work in (self._watch_directory(), self._dispatcher.run(), self._go_on(), self._measure()):
            self._spawn(work)

    def __repr__(self) -> str:
        return "tutti coordinator"  # as Ray's dashboard and logs show it

    async def ping(self) -> str:
        """Return "ok" once the configuration is known."""
        await self._ready()
        return "ok"

    async def start(self, request: RunRequest) -> RunRecord:
        """Accept a run; with a known idempotency key return the run that has it.

        Raises:
            RequestError: empty or too large.
            ConflictError: the key was used with another request.
            CapacityError: too many runs at once.
        """
        check_request(request)
        await self._ready()
        self._refuse_if_full()
        now_s = self._clock.wall_s()
        new = RunRecord(
            run_id=f"run-{uuid.uuid4().hex[:20]}",
            status=RunStatus.ACCEPTED,
            request=replace(
                request,
                buyers=replace(request.buyers, tenant=self._roster.orchestra().tenant),
                trace=begin(request.trace),
            ),
            created_s=now_s,
            updated_s=now_s,
            epoch=FIRST_EPOCH,
        )
        record = await self._journal.create_run(new)
        if record.run_id == new.run_id:
            self._conduct(record, first=True)
        return record

    async def answer(self, run_id: str, answers: Mapping[str, str], assume_rest: bool) -> RunRecord:
        """Take answers; the run goes on once all are there or the rest is to be assumed.

        Raises:
            NotFoundError, ConflictError (it does not wait), RequestError (unknown question).
        """
        await self._ready()
        async with self._answering:
            return await self._answer(run_id, answers, assume_rest=assume_rest)

    async def _answer(self, run_id: str, answers: Mapping[str, str], *, assume_rest: bool) -> RunRecord:
        record = await self._journal.get_run(run_id)
        if record.status is not RunStatus.NEEDS_ANSWERS:
            raise ConflictError(f"the run {run_id!r} is {record.status.value}: it waits for no answers", param="run_id")
        known = {question.id: question for question in record.questions}
        for name in answers:
            if name not in known:
                raise RequestError(
                    f"the run has no question {name!r}", param="answers", remedy=f"it has {', '.join(known)}"
                )
        given = {**dict(record.answers), **{name: text for name, text in answers.items() if text.strip()}}
        open_questions = [question for question in record.questions if question.id not in given]
        assumptions = record.assumptions
        if assume_rest:
            assumptions += tuple(f"{question.question} {question.default}" for question in open_questions)
            open_questions = []
        goes_on = not open_questions
        record = await self._take(record)
        record = replace(
            record,
            status=RunStatus.ACCEPTED if goes_on else RunStatus.NEEDS_ANSWERS,
            answers=tuple(given.items()),
            assumptions=assumptions,
            document=None if goes_on else record.document,
            updated_s=self._clock.wall_s(),
        )
        conductor = self._make(record)
        conductor.emit("run.answered", answers=dict(given), assumptions=list(assumptions))
        await conductor.log.commit(lambda lines: self._journal.update_run(record, lines))
        if goes_on:
            self._run(conductor)
        return record

    async def retry(self, run_id: str, task_id: str) -> RunRecord:
        """Do one task of an ended run again, and what depends on it.

        Raises:
            NotFoundError, ConflictError (it has not ended), RequestError (no such task), CapacityError.
        """
        await self._ready()
        self._refuse_if_full()
        async with self._answering:
            record = await self._journal.get_run(run_id)
            again = to_redo(record, task_id)
            record = await self._take(record)
            for task in again:
                await self._journal.record_task(run_id, task, [], record.epoch)
            now_s = self._clock.wall_s()
            rows = {task.task_id: task for task in (*record.tasks, *again)}
            record = replace(
                record,
                status=RunStatus.ACCEPTED,
                tasks=tuple(rows.values()),
                document=None,
                updated_s=now_s,
                clock_s=now_s,
            )
            conductor = self._make(record)
            conductor.emit("run.retried", task_id, tasks=[task.task_id for task in again])
            await conductor.log.commit(lambda lines: self._journal.update_run(record, lines))
            self._run(conductor)
        return record

    async def fork(self, run_id: str, task_id: str, more: str | None, buyers: Owners) -> RunRecord:
        """Begin a new run with the results of another that do not depend on a task.

        Raises:
            NotFoundError, ConflictError (it has no plan), RequestError (no such task), CapacityError.
        """
        await self._ready()
        self._refuse_if_full()
        source = await self._journal.get_run(run_id)
        fork = forked(source, task_id, more)
        now_s = self._clock.wall_s()
        buyers = replace(buyers, tenant=self._roster.orchestra().tenant)
        request = replace(source.request, plan_only=False, idempotency_key=None, buyers=buyers, trace=begin())
        new = RunRecord(
            run_id=f"run-{uuid.uuid4().hex[:20]}",
            status=RunStatus.ACCEPTED,
            request=request,
            created_s=now_s,
            updated_s=now_s,
            plan=fork.plan,
            assumptions=source.assumptions,
            tasks=fork.tasks,
            forked_from=run_id,
            epoch=FIRST_EPOCH,
        )
        record = await self._journal.create_run(new)
        conductor = self._make(record)
        conductor.emit("run.forked", task_id, run_id=run_id, reused=[task.task_id for task in fork.tasks])
        self._run(conductor)
        return record

    async def cancel(self, run_id: str) -> RunRecord:
        """Stop the run and its provider calls; an ended run stays as it is. Raises NotFoundError."""
        task = self._tasks.get(run_id)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        record = await self._journal.get_run(run_id)
        if not record.status.ended:
            # It waits for answers, or its conductor was cancelled before it had begun.
            await self._ready()
            record = await self._make(await self._take(record)).withdraw()
        return record

    def _refuse_if_full(self) -> None:
        if len(self._tasks) >= RUNS_MAX:
            raise CapacityError(f"{RUNS_MAX} runs are being conducted", retry_after_s=10.0)

    async def _take(self, record: RunRecord) -> RunRecord:
        """Become the run's conductor: writes of whoever was it before are refused from now on."""
        return await self._journal.take_run(record.run_id, record.epoch, self._name)

    def _conduct(self, record: RunRecord, *, first: bool) -> None:
        conductor = self._make(record)
        if first:
            request = record.request
            conductor.emit("run.accepted", text=request.text[:2_000], assume_defaults=request.assume_defaults)
        self._run(conductor)

    def _make(self, record: RunRecord) -> Conductor:
        return Conductor(
            record,
            Tools(
                caller=self._dispatcher,
                journal=self._journal,
                clock=self._clock,
                orchestra=self._roster.orchestra(),
                prompts=self._prompts,
            ),
        )

    def _run(self, conductor: Conductor) -> None:
        run_id = conductor.record.run_id
        task = asyncio.create_task(conductor.conduct(), name=run_id)
        self._conductors[run_id], self._tasks[run_id] = conductor, task
        task.add_done_callback(lambda ended: self._forget(run_id, ended))

    def _forget(self, run_id: str, ended: asyncio.Task[RunRecord]) -> None:
        # A run may go on under another conductor before the one that brought it to rest is gone.
        if self._tasks.get(run_id) is ended:
            self._conductors.pop(run_id, None)
            self._tasks.pop(run_id, None)

    def _note_progress(self, progress: CallProgress) -> None:
        conductor = self._conductors.get(progress.call.run_id)
        if conductor is not None:
            conductor.note_progress(progress)

    async def _ready(self) -> None:
        try:
            async with asyncio.timeout(KNOWN_WAIT_S):
                await self._known.wait()
        except TimeoutError:
            raise CapacityError("the configuration is not known yet", retry_after_s=1.0) from None

    async def _go_on(self) -> None:
        """Take up what an earlier life of this actor left unfinished."""
        await self._known.wait()
        while True:
            try:
                found = [run_id for run_id in await self._journal.unfinished_runs() if run_id not in self._tasks]
                room = asyncio.Semaphore(TAKEN_AT_ONCE)
                errors = await asyncio.gather(*(self._take_up(run_id, room) for run_id in found))
                failed = next((error for error in errors if error is not None), None)
                if failed is None:
                    return
            except GatewayError as error:
                failed = error
            _log.warning("the journal does not answer: %s", failed.message)
            await asyncio.sleep(RECONNECT_S)

    async def _take_up(self, run_id: str, room: asyncio.Semaphore) -> GatewayError | None:
        """Go on with a run, unless somebody else has it; return why that cannot be said yet."""
        async with room:
            try:
                taken = await self._take(await self._journal.get_run(run_id))
            except RunTakenError as error:
                _log.warning("left alone: %s", error.message)
                return None
            except GatewayError as error:
                return error
        self._conduct(taken, first=False)
        return None

    async def _measure(self) -> None:
        while True:
            began_s = [conductor.record.clock_starts_s for conductor in self._conductors.values()]
            RUNS_OPEN.set(len(began_s))
            RUN_OLDEST.set(max(0.0, self._clock.wall_s() - min(began_s)) if began_s else 0.0)
            await asyncio.sleep(MEASURE_S)

    async def _watch_directory(self) -> None:
        version = -1
        last: Orchestra | None = None
        while True:
            try:
                snapshot = await self._directory.watch(version, WATCH_WAIT_S)
                if snapshot.orchestra is None:
                    # A directory that was restarted has forgotten the configuration; the newest one we know is it.
                    version = -1
                    if last is not None:
                        await self._directory.start(last)
                    await asyncio.sleep(RECONNECT_S)
                    continue
            except GatewayError as error:
                _log.warning("the directory does not answer: %s", error.message)
                version = -1
                await asyncio.sleep(RECONNECT_S)
                continue
            version, last = snapshot.version, snapshot.orchestra
            telemetry.follow(snapshot.orchestra.telemetry, role="coordinator")
            self._roster.update(snapshot.orchestra, snapshot.hosts, snapshot.load)
            self._dispatcher.wake()
            self._known.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def check_request(request: RunRequest) -> None:
    """Refuse what no run can be made of; the ways in check too, and not all of them by the same schema.

    Raises:
        RequestError: a field has a wrong type or is out of range.
    """
    text: object = request.text
    if not isinstance(text, str):
        raise RequestError(f"request_text is {text!r:.80}, must be text", param="request_text")
    if not text.strip():
        raise RequestError("the request is empty", param="request_text", remedy="say what you want done")
    size = len(text.encode(errors="replace"))
    if size > TEXT_BYTES_MAX:
        raise RequestError(
            f"the request has {size} bytes, the limit is {TEXT_BYTES_MAX}",
            param="request_text",
            remedy="send the essence, and long material in parts",
        )
    timeout_s: object = request.timeout_s
    if timeout_s is not None and not (_is_number(timeout_s, int, float) and 0 < timeout_s <= TIMEOUT_S_MAX):
        raise RequestError(
            f"timeout_s is {timeout_s!r:.80}, must be a number of seconds over 0 and at most {TIMEOUT_S_MAX}",
            param="timeout_s",
        )
    tokens_max: object = request.tokens_max
    if tokens_max is not None and not (_is_number(tokens_max, int) and tokens_max > 0):
        raise RequestError(
            f"max_tokens_total is {tokens_max!r:.80}, must be a whole number over 0", param="max_tokens_total"
        )
    budget_usd: object = request.budget_usd
    if budget_usd is not None and not (isinstance(budget_usd, str) and is_amount(budget_usd)):
        raise RequestError(
            f"budget_usd is {budget_usd!r:.80}, must be an amount over 0 in dollars, as text",
            param="budget_usd",
            remedy='write for instance "2.50"',
        )


def _is_number(value: object, *types: type) -> TypeGuard[float]:
    return isinstance(value, types) and not isinstance(value, bool)
