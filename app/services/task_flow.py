"""Plays the tasks of a plan as a dataflow: each starts the moment its inputs are there.

No levels, no barriers: a task that ends starts its dependants at once. Each artifact is judged; a failing one is redone
with the judge's feedback, at most ``redo_max`` times. Which account serves, and in which order, is the dispatcher's
business; it gets the upward rank with every call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from app.domain.calls import CallAnswer
from app.domain.chat import Json, Usage
from app.domain.errors import GatewayError
from app.domain.metric_names import Attribute
from app.domain.plan import Judgement, Plan, PlannedTask, ProducedBy
from app.domain.run import TaskRecord, TaskState
from app.services.context import RunContext
from app.services.judge import Judge
from app.services.telemetry.instruments import JUDGEMENTS, RUN_TASKS
from app.services.telemetry.tracing import span
from app.services.work import Worker


class TaskBook(Protocol):
    """What a flow needs of its run: its log, its journal and its sums."""

    def emit(self, kind: str, /, task_id: str | None = None, attempt: int | None = None, **payload: Json) -> None:
        """Add a progress line."""

    async def save(self, task: TaskRecord) -> None:
        """Commit the task's row with every line so far."""

    def add_notes(self, task_id: str, notes: Sequence[str]) -> None:
        """Keep what a user should know of a task's work or judgement."""

    def now_s(self) -> float:
        """Return seconds since the run was accepted."""

    def spent(self, task_id: str) -> tuple[Usage, str | None]:
        """Return usage and cost (decimal text or None) of a task, redone attempts and judging included."""


@dataclass(slots=True, kw_only=True)
class Played:
    """How one task went."""

    record: TaskRecord
    judgement: Judgement | None = None


class TaskFlow:
    """Runs every task of one plan.

    Args:
        plan: Validated: acyclic, every dependency exists.
        context: The run.
        worker: Makes artifacts.
        judge: Judges them.
        book: The run's log, journal and sums.
        redo_max: Redone attempts per task.

    Not thread-safe: the conductor's event loop is the lock.
    """

    def __init__(
        self, *, plan: Plan, context: RunContext, worker: Worker, judge: Judge, book: TaskBook, redo_max: int
    ) -> None:
        self._plan = plan
        self._context = context
        self._worker = worker
        self._judge = judge
        self._book = book
        self._redo_max = redo_max
        self.played: dict[str, Played] = {}
        self._dependants: dict[str, list[PlannedTask]] = {}
        self._inputs_missing: dict[str, int] = {}
        self._running: set[asyncio.Task[str]] = set()

    async def play(self, known: Mapping[str, TaskRecord]) -> None:
        """Play every task that ``known`` does not show as completed; returns when all have ended.

        Cancelling this cancels every task; ``played`` then shows how far each came.
        """
        for task in self._plan.tasks:
            record = known.get(task.id)
            if record is None or record.state is not TaskState.COMPLETED:
                # A task that is to be done again counts on, so that its old answers are none to the new attempt.
                before = record.attempts if record is not None and record.state is TaskState.PENDING else 0
                record = TaskRecord(task_id=task.id, state=TaskState.PENDING, attempts=before)
            self.played[task.id] = Played(record=record)
            self._inputs_missing[task.id] = len(task.dependency_ids)
            for dependency in task.dependency_ids:
                self._dependants.setdefault(dependency, []).append(task)
        for task in self._plan.tasks:
            if not task.dependency_ids and self._start(task):
                self._settle(task.id)
        try:
            while self._running:
                ended, self._running = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                for task_ended in ended:
                    self._settle(task_ended.result())
        except asyncio.CancelledError:
            for running in self._running:
                running.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
            raise

    def _settle(self, task_id: str) -> None:
        """Count an ended task down at its dependants and start those that have all inputs."""
        settled = [task_id]
        while settled:
            for dependant in self._dependants.get(settled.pop(), ()):
                self._inputs_missing[dependant.id] -= 1
                if self._inputs_missing[dependant.id] == 0 and self._start(dependant):
                    settled.append(dependant.id)

    def _start(self, task: PlannedTask) -> bool:
        """Start the task; True where there is nothing to do because it completed in an earlier life of the run."""
        if self.played[task.id].record.state.ended:
            return True
        lost = [name for name in task.dependency_ids if self.played[name].record.state is not TaskState.COMPLETED]
        work = self._skip(task, lost) if lost else self._perform(task)
        self._running.add(asyncio.create_task(work, name=f"{self._context.run_id}/{task.id}"))
        return False

    async def _skip(self, task: PlannedTask, lost: list[str]) -> str:
        await self._end(task, TaskState.SKIPPED, error=f"needs {', '.join(lost)}, which did not complete")
        return task.id

    async def _perform(self, task: PlannedTask) -> str:
        try:
            with span("task") as told:
                told.set(Attribute.TASK, task.id)
                await self._attempts(task)
        except asyncio.CancelledError:
            self._update(task, state=TaskState.CANCELLED, finished_s=self._book.now_s())
            raise
        except GatewayError as error:
            await self._end(task, TaskState.FAILED, error=error.message)
        return task.id

    async def _attempts(self, task: PlannedTask) -> None:
        inputs = {name: self.played[name].record.output or "" for name in task.dependency_ids}
        feedback: tuple[str, ...] = ()
        first = self.played[task.id].record.attempts + 1
        last = first + self._redo_max
        for attempt in range(first, last + 1):
            self._update(task, state=TaskState.QUEUED, attempts=attempt)
            self._book.emit("task.queued", task.id, attempt)
            worked = await self._worker.work(self._context, task, inputs, attempt, feedback)
            answer = worked.answers[-1]
            self._note_output(task, attempt, worked.artifact, worked.produced_by, answer)
            with span("judge"):
                judged = await self._judge.judge(self._context, task, worked.artifact, inputs, attempt)
            JUDGEMENTS.add(1, "passed" if judged.judgement.passed else "failed")
            self.played[task.id].judgement = judged.judgement
            self._book.add_notes(task.id, (*worked.notes, *judged.notes))
            self._book.emit(
                "task.judged",
                task.id,
                attempt,
                passed=judged.judgement.passed,
                produced_by=judged.judgement.produced_by,
                verdicts=[
                    {"criterion_id": verdict.criterion_id, "verdict": verdict.verdict, "evidence": verdict.evidence}
                    for verdict in judged.judgement.verdicts
                ],
            )
            if judged.judgement.passed:
                await self._end(task, TaskState.COMPLETED)
                return
            feedback = judged.feedback
            if attempt < last:
                self._book.emit("task.redo", task.id, attempt + 1, feedback=list(feedback))
        await self._end(task, TaskState.FAILED, error="its result did not meet: " + "; ".join(feedback))

    def _note_output(
        self, task: PlannedTask, attempt: int, artifact: str, produced_by: ProducedBy, answer: CallAnswer
    ) -> None:
        usage, cost_usd = self._book.spent(task.id)
        started_s = self.played[task.id].record.started_s
        seconds = answer.finished_at_s - answer.started_at_s
        self._update(
            task,
            state=TaskState.JUDGING,
            account=answer.account,
            model=answer.model,
            output=artifact,
            produced_by=produced_by,
            usage=usage,
            cost_usd=cost_usd,
            started_s=self._book.now_s() - seconds if started_s is None else started_s,
        )
        self._book.emit(
            "task.output",
            task.id,
            attempt,
            account=answer.account,
            model=answer.model,
            seconds=round(seconds, 3),
            usage={"input_tokens": answer.usage.input_tokens, "output_tokens": answer.usage.output_tokens},
            cost_usd=answer.cost_usd,
            produced_by=produced_by,
        )
        self._book.emit("task.judging", task.id, attempt)

    def _update(self, task: PlannedTask, **changes: Any) -> None:
        played = self.played[task.id]
        played.record = replace(played.record, **changes)

    async def _end(self, task: PlannedTask, state: TaskState, *, error: str | None = None) -> None:
        usage, cost_usd = self._book.spent(task.id)
        self._update(task, state=state, error=error, usage=usage, cost_usd=cost_usd, finished_s=self._book.now_s())
        record = self.played[task.id].record
        RUN_TASKS.add(1, state.value, record.produced_by)
        self._book.emit(
            "task.finished",
            task.id,
            record.attempts,
            status=state.value,
            task_type=task.task_type,
            account=record.account,
            model=record.model,
            produced_by=record.produced_by if record.output is not None else None,
            attempts=record.attempts,
            seconds=None if record.started_s is None else round(self._book.now_s() - record.started_s, 3),
            usage={"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens},
            cost_usd=cost_usd,
            error=error,
        )
        await self._book.save(record)
