"""Conducts one project run: clarify, plan, play the tasks, merge, evaluate.

Every stage is in the journal before the next begins, so a run can be taken up again where it stood: the plan and the
completed tasks of an interrupted run are not bought again. Called by the coordinator actor, one instance per run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from app.domain.accounts import OnUnknown, Orchestra
from app.domain.calls import CallAnswer, ModelCall
from app.domain.chat import Json, Usage
from app.domain.errors import CancelledError, DeadlineError, GatewayError, UpstreamError
from app.domain.merging import concatenated
from app.domain.metric_names import Attribute
from app.domain.plan import Plan, ProducedBy, TaskEvaluation
from app.domain.ports import Clock, Journal, ModelCaller
from app.domain.run import (
    CallRecord,
    ResultDocument,
    RunEvent,
    RunRecord,
    RunStatus,
    StageReport,
    TaskRecord,
    TaskState,
)
from app.domain.trace_context import enter
from app.services.clarify import Clarifier
from app.services.context import RUN_TIMEOUT_S, RunContext
from app.services.dispatch import CallProgress
from app.services.evaluate import Evaluator
from app.services.held_calls import is_held, new_questions, ruling_on, without_rulings
from app.services.judge import Judge
from app.services.merge import Merger
from app.services.plan import Planner
from app.services.prompts import Prompts
from app.services.run_books import RunBooks
from app.services.run_caller import RunCaller, RunLimits
from app.services.run_journal import RunJournal
from app.services.run_log import RunLog
from app.services.run_report import Seen, questions_json, result_document
from app.services.task_flow import Played, TaskFlow
from app.services.telemetry.instruments import RUN_DURATION, RUNS
from app.services.telemetry.tracing import begin, span
from app.services.work import Worker

_log = logging.getLogger(__name__)


class Answered(Protocol):
    """What every role returns."""

    @property
    def answers(self) -> tuple[CallAnswer, ...]: ...
    @property
    def produced_by(self) -> ProducedBy: ...
    @property
    def notes(self) -> tuple[str, ...]: ...


Role = TypeVar("Role", bound=Answered)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What a conductor works with."""

    caller: ModelCaller
    journal: Journal
    clock: Clock
    orchestra: Orchestra
    prompts: Prompts


class Conductor:
    """Conducts one run from where its record stands.

    Args:
        record: The run as journaled.
        tools: Models, journal, clock, configuration, prompts.

    Not thread-safe: the coordinator's event loop is the lock. May die at any moment; another instance goes on from the
    journal.
    """

    def __init__(self, record: RunRecord, tools: Tools) -> None:
        self.record = record
        self._tools = tools
        self._journal = RunJournal(tools.journal, record.run_id, record.epoch, on_lost=self._stop)
        self._conducting: asyncio.Task[object] | None = None
        limits = RunLimits(tokens_max=record.request.tokens_max, retry_share=tools.orchestra.coordinator.retry_share)
        buyers = record.request.buyers
        owners = replace(buyers, tenant=buyers.tenant or tools.orchestra.tenant, run=record.run_id)
        trace_id = record.request.trace.trace_id if record.request.trace is not None else ""
        self.log = RunLog(record.run_id, self._journal, tools.clock, trace_id=trace_id, buyers=owners)
        self._books = RunBooks(lambda: tools.orchestra, tools.clock, owners)
        self.caller = RunCaller(
            tools.caller,
            self._journal,
            tools.clock,
            books=self._books,
            limits=limits,
            on_failure=self._note_failure,
        )
        elapsed_s = tools.clock.wall_s() - record.clock_starts_s
        self._time_left_s = max(0.0, (record.request.timeout_s or RUN_TIMEOUT_S) - elapsed_s)
        # Times of calls are monotonic, those of the document count from acceptance.
        self._zero_s = tools.clock.monotonic_ns() / 1e9 - (tools.clock.wall_s() - record.created_s)
        self._stages: list[StageReport] = []
        self._notes: list[str] = list(tools.orchestra.notes)
        self._plan: Plan | None = record.plan
        self._flow: TaskFlow | None = None
        self._answer = ""
        self._evaluation: tuple[TaskEvaluation, ...] = ()
        self._context = RunContext.of(record, tools)

    @property
    def lost(self) -> bool:
        """Whether somebody else conducts the run by now."""
        return self._journal.lost

    def now_s(self) -> float:
        """Return seconds since the run was accepted."""
        return self._tools.clock.monotonic_ns() / 1e9 - self._zero_s

    def emit(self, kind: str, /, task_id: str | None = None, attempt: int | None = None, **payload: Json) -> None:
        """Add a progress line."""
        self.log.emit(kind, task_id, attempt, **payload)

    def add_notes(self, task_id: str, notes: Sequence[str]) -> None:
        """Keep what a user should know of a task's work or judgement."""
        self._notes.extend(text for note in notes if (text := f"{task_id}: {note}") not in self._notes)

    def spent(self, task_id: str) -> tuple[Usage, str | None]:
        """Return usage and cost of a task so far."""
        return self.caller.usage(task_id), self.caller.cost_usd(task_id)

    async def save(self, task: TaskRecord) -> None:
        """Commit one task's row with every line so far."""
        await self.log.commit(lambda lines: self._journal.record_task(task, lines))

    async def conduct(self) -> RunRecord:
        """Go on until the run has ended or waits for answers; return it as journaled.

        Cancelling this ends the run as cancelled, with what it has so far; it then returns normally. Once somebody else
        conducts the run it stops, writes nothing, and returns what it knew.
        """
        self._conducting = asyncio.current_task()
        enter(begin(self.record.request.trace))
        try:
            with span("run") as told:
                told.set(Attribute.RUN, self.record.run_id)
                await self._conduct()
                told.set("tutti.run.status", self.record.status.value)
        except CancelledError:
            if not self._journal.lost:
                raise
            _log.warning("%s has another conductor; this one stops", self.record.run_id)
        finally:
            # From here on whoever called this is in the same task, and is not ours to stop.
            self._conducting = None
        with contextlib.suppress(GatewayError):
            await self.log.close()
        return self.record

    async def _conduct(self) -> None:
        for note in self._notes:
            self.emit("run.note", text=note)
        try:
            self.caller.remember(await self._tools.journal.calls_of(self.record.run_id))
            async with asyncio.timeout(self._time_left_s):
                await self._all_stages()
        except TimeoutError:
            await self._finish(self._status_of_tasks(), error=self._late().message)
        except asyncio.CancelledError:
            await self._finish(RunStatus.CANCELLED)
        except GatewayError as error:
            await self._finish(self._status_of_tasks(), error=error.message)
        except Exception:  # noqa: BLE001  outermost edge: a bug must end the run visibly, not leave it hanging
            _log.exception("run %s failed", self.record.run_id)
            await self._finish(RunStatus.FAILED, error="an internal failure; see the coordinator's log")

    async def withdraw(self) -> RunRecord:
        """End a run that waits for answers as cancelled."""
        await self._finish(RunStatus.CANCELLED)
        await self.log.close()
        return self.record

    def note_progress(self, progress: CallProgress) -> None:
        """Show what happens to one of this run's calls: sent, failed, waiting."""
        call = progress.call
        if progress.kind == "started":
            if call.purpose == "task":
                self.emit(
                    "task.started",
                    call.task_id,
                    call.attempt,
                    account=progress.account,
                    model=progress.model,
                    queued_s=round(progress.seconds, 3),
                )
        else:
            self.emit(f"call.{progress.kind}", call.task_id, call.attempt, purpose=call.purpose, **progress.details())

    def _note_failure(self, call: ModelCall, error: UpstreamError, again: bool) -> None:
        self.emit(
            "call.failed",
            call.task_id,
            call.attempt,
            purpose=call.purpose,
            account=error.account,
            kind=error.kind.value,
            message=error.message,
            next="elsewhere" if again else "gives up",
        )

    async def _all_stages(self) -> None:
        try:
            if await self._recovered() and await self._clarified():
                await self._stages_after_questions()
        except GatewayError:
            # A stage whose call was lost cannot go on without a person's word; where none is to be asked it fails.
            if not self.caller.waits_for_a_person or await self._recovered():
                raise

    async def _stages_after_questions(self) -> None:
        plan = await self._planned()
        if self.record.request.plan_only:
            await self._finish(RunStatus.COMPLETED)
            return
        await self._played(plan)
        if self._missing() and self.caller.waits_for_a_person and not await self._recovered():
            return
        await self._merged(plan)
        await self._evaluated(plan)
        await self._finish(self._status_of_tasks())

    def _stop(self) -> None:
        """Stop all work at once: the run is somebody else's."""
        if self._conducting is not None and self._conducting is not asyncio.current_task():
            self._conducting.cancel()

    async def _recovered(self) -> bool:
        """Decide on calls that were on their way when an earlier life ended; False where a person must."""
        held = await self.caller.recover(self._on_unknown, lambda call: ruling_on(self.record, call))
        if not held:
            return True
        asked = new_questions(self.record, held)
        if self.record.request.assume_defaults:
            assumed = tuple(f"{one.question} {one.default}" for one in asked if is_held(one.id))
            new = tuple(text for text in assumed if text not in self.record.assumptions)
            self._set(questions=asked, assumptions=self.record.assumptions + new)
            await self.log.commit(self._update_run)
            return await self._recovered()
        self._set(questions=asked)
        answered = dict(self.record.answers)
        self.emit("run.questions", questions=questions_json([one for one in asked if one.id not in answered]))
        await self._finish(RunStatus.NEEDS_ANSWERS)
        return False

    def _on_unknown(self, call: CallRecord) -> OnUnknown:
        orchestra = self._tools.orchestra
        types = {task.id: task.task_type for task in self._plan.tasks} if self._plan else {}
        task_type = types.get(call.task_id or "")
        route = next((route for route in orchestra.routes if route.task_type == task_type), None)
        return (route.on_unknown if route else None) or orchestra.coordinator.on_unknown

    async def _clarified(self) -> bool:
        """Ask what must be known; False where the run waits for answers."""
        answers, assumptions = without_rulings(self.record)
        if self._plan is not None or answers or assumptions:
            return True
        await self._enter(RunStatus.CLARIFYING)
        clarifier = Clarifier(self.caller, self._tools.orchestra, self._tools.prompts)
        clarification = await self._stage("clarify", lambda: clarifier.clarify(self._context))
        assume = self.record.request.assume_defaults
        asked = () if assume else clarification.questions
        assumptions = self.record.assumptions + clarification.assumptions
        if assume:
            assumptions += tuple(f"{question.question} {question.default}" for question in clarification.questions)
        self._set(questions=self.record.questions + asked, assumptions=assumptions)
        if not asked:
            return True
        self.emit("run.questions", questions=questions_json(asked))
        await self._finish(RunStatus.NEEDS_ANSWERS)
        return False

    async def _planned(self) -> Plan:
        if self._plan is not None:
            return self._plan
        await self._enter(RunStatus.PLANNING)
        planner = Planner(self.caller, self._tools.orchestra, self._tools.prompts)
        answers, assumptions = without_rulings(self.record)
        planned = await self._stage("plan", lambda: planner.plan(self._context, answers, assumptions))
        self._plan = plan = planned.plan
        self._context = self._context.with_plan(plan, self._tools.orchestra)
        self._set(plan=plan)
        self.emit("plan.ready", None, None, **planned.to_json())
        await self.log.commit(lambda lines: self._journal.record_plan(plan, lines))
        return plan

    async def _played(self, plan: Plan) -> None:
        await self._enter(RunStatus.RUNNING)
        self._books.task_types = {task.id: task.task_type for task in plan.tasks}
        self._flow = TaskFlow(
            plan=plan,
            context=self._context,
            worker=Worker(self.caller, self._tools.orchestra, self._tools.prompts),
            judge=Judge(self.caller, self._tools.orchestra, self._tools.prompts),
            book=self,
            redo_max=self._tools.orchestra.coordinator.redo_max,
        )
        await self._flow.play({task.task_id: task for task in self.record.tasks})

    async def _merged(self, plan: Plan) -> None:
        artifacts = self._artifacts()
        if not artifacts:
            return
        await self._enter(RunStatus.MERGING)
        merger = Merger(self.caller, self._tools.orchestra, self._tools.prompts)
        merged = await self._stage("merge", lambda: merger.merge(self._context, plan, artifacts, self._missing()))
        self._answer = merged.answer

    async def _evaluated(self, plan: Plan) -> None:
        if not self._played_tasks():
            return
        await self._enter(RunStatus.EVALUATING)
        evaluator = Evaluator(self.caller, self._tools.orchestra, self._tools.prompts)
        judgements = {name: played.judgement for name, played in self._played_tasks().items() if played.judgement}
        evaluated = await self._stage(
            "evaluate",
            lambda: evaluator.evaluate(self._context, plan, self._artifacts(), judgements, self._missing()),
        )
        self._evaluation = evaluated.evaluations

    async def _stage(self, name: str, work: Callable[[], Awaitable[Role]]) -> Role:
        started_s = self.now_s()
        self.emit("stage.started", stage=name)
        try:
            with span(name):
                done = await work()
        except GatewayError as error:
            self.emit("stage.finished", stage=name, seconds=round(self.now_s() - started_s, 3), error=error.message)
            raise
        last = done.answers[-1] if done.answers else None
        report = StageReport(
            name=name,
            started_s=started_s,
            finished_s=self.now_s(),
            account=last.account if last else None,
            model=last.model if last else None,
            produced_by=done.produced_by,
            usage=_sum(answer.usage for answer in done.answers),
        )
        self._stages.append(report)
        self._notes.extend(note for note in done.notes if note not in self._notes)
        self.emit(
            "stage.finished",
            stage=name,
            seconds=round(report.finished_s - started_s, 3),
            account=report.account,
            model=report.model,
            produced_by=report.produced_by,
            usage={"input_tokens": report.usage.input_tokens, "output_tokens": report.usage.output_tokens},
            error=None,
        )
        return done

    async def _enter(self, status: RunStatus) -> None:
        self._set(status=status)
        await self.log.commit(self._update_run)

    async def _finish(self, status: RunStatus, *, error: str | None = None) -> None:
        self._join_what_is_there()
        document = self._document(status, error)
        self._set(status=status, document=document.to_json())
        schedule = document.schedule
        if status.ended:
            RUNS.add(1, status.value)
            RUN_DURATION.observe(self.now_s(), status.value)
            self.emit(
                "run.finished",
                status=status.value,
                seconds=round(self.now_s(), 3),
                usage={
                    "input_tokens": document.usage.input_tokens,
                    "output_tokens": document.usage.output_tokens,
                },
                cost_usd=document.cost_usd,
                makespan_s=schedule.makespan_s if schedule else None,
                lower_bound_s=schedule.lower_bound_s if schedule else None,
                binding=schedule.binding if schedule else None,
                error=error,
            )
        await self.log.commit(self._update_run)

    def _join_what_is_there(self) -> None:
        """Give a run that ended before its merge the results that it has, one after the other."""
        artifacts = self._artifacts()
        if self._answer or not artifacts or self._plan is None:
            return
        self._answer = concatenated(self._plan, artifacts, self._missing(), self._context.language)
        now_s = self.now_s()
        self._stages.append(StageReport(name="merge", started_s=now_s, finished_s=now_s, produced_by="fallback"))

    def _document(self, status: RunStatus, error: str | None) -> ResultDocument:
        seen = Seen(
            answer=self._answer,
            plan=self._plan,
            played=self._played_tasks(),
            evaluation=self._evaluation,
            stages=tuple(self._stages),
            notes=tuple(self._notes),
            zero_s=self._zero_s,
        )
        return result_document(self.record, seen, self.caller, self._tools.orchestra, status=status, error=error)

    async def _update_run(self, lines: Sequence[RunEvent]) -> None:
        await self._journal.update_run(self.record, lines)

    def _set(self, **changes: Any) -> None:
        self.record = replace(self.record, updated_s=self._tools.clock.wall_s(), **changes)

    def _played_tasks(self) -> dict[str, Played]:
        return self._flow.played if self._flow else {}

    def _artifacts(self) -> dict[str, str]:
        return {
            name: played.record.output or ""
            for name, played in self._played_tasks().items()
            if played.record.state is TaskState.COMPLETED
        }

    def _missing(self) -> dict[str, str]:
        return {
            name: played.record.error or played.record.state.value
            for name, played in self._played_tasks().items()
            if played.record.state is not TaskState.COMPLETED
        }

    def _status_of_tasks(self) -> RunStatus:
        completed = len(self._artifacts())
        if completed and completed == len(self._played_tasks()) and self._answer:
            return RunStatus.COMPLETED
        return RunStatus.PARTIAL if completed else RunStatus.FAILED

    def _late(self) -> DeadlineError:
        return DeadlineError(
            f"the run's {self.record.request.timeout_s or RUN_TIMEOUT_S:g} s were over before it ended"
        )


def _sum(usages: Iterable[Usage]) -> Usage:
    total = Usage(input_tokens=0, output_tokens=0)
    for usage in usages:
        total = total.plus(usage)
    return total
