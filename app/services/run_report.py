"""Builds the result document of a run from what its conductor saw: pure, but for reading the caller's sums.

The schedule report is ex post: the bound is computed from realised durations, over the same span as the makespan (first
dispatch of a subtask to the last result of one).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from app.domain.accounts import Orchestra
from app.domain.chat import Json
from app.domain.plan import Plan, Question, TaskEvaluation
from app.domain.run import (
    ResultDocument,
    RunRecord,
    RunStatus,
    ScheduleReport,
    StageReport,
    TaskReport,
    TaskResult,
    TaskState,
)
from app.domain.run_bound import TaskCall, bound_of_calls
from app.services.run_caller import CallSpan, RunCaller
from app.services.task_flow import Played


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a conductor has of its run when it writes the document."""

    answer: str
    plan: Plan | None
    played: Mapping[str, Played]
    evaluation: tuple[TaskEvaluation, ...]
    stages: tuple[StageReport, ...]
    notes: tuple[str, ...]
    zero_s: float
    """Monotonic seconds at acceptance."""


def result_document(
    record: RunRecord, seen: Seen, caller: RunCaller, orchestra: Orchestra, *, status: RunStatus, error: str | None
) -> ResultDocument:
    """Return the document of a run that has ended or waits for answers."""
    return ResultDocument(
        run_id=record.run_id,
        status=status,
        answer=seen.answer,
        tasks=_task_reports(seen),
        results=_results(seen),
        evaluation=seen.evaluation,
        assumptions=_assumptions(record, seen.plan),
        questions=_open_questions(record) if status is RunStatus.NEEDS_ANSWERS else (),
        usage=caller.usage(),
        cost_usd=caller.cost_usd(),
        schedule=_schedule(seen, caller.spans, orchestra),
        stages=seen.stages,
        notes=seen.notes,
        budget_usd=record.request.budget_usd,
        error=error,
    )


def questions_json(questions: Sequence[Question]) -> list[Json]:
    """Return the questions as an event payload."""
    return [
        cast(
            "Json",
            {
                "id": question.id,
                "question": question.question,
                "why": question.why,
                "options": list(question.options),
                "default": question.default,
            },
        )
        for question in questions
    ]


def _assumptions(record: RunRecord, plan: Plan | None) -> tuple[str, ...]:
    planned = plan.assumptions if plan is not None else ()
    return record.assumptions + tuple(text for text in planned if text not in record.assumptions)


def _open_questions(record: RunRecord) -> tuple[Question, ...]:
    answered = dict(record.answers)
    return tuple(question for question in record.questions if question.id not in answered)


_REPORTED: dict[TaskState, Literal["completed", "failed", "skipped"]] = {
    TaskState.COMPLETED: "completed",
    TaskState.FAILED: "failed",
    TaskState.SKIPPED: "skipped",
}


def _task_reports(seen: Seen) -> tuple[TaskReport, ...]:
    if seen.plan is None:
        return ()
    reports = []
    for task in seen.plan.tasks:
        played = seen.played.get(task.id)
        if played is None:
            continue
        record = played.record
        reports.append(
            TaskReport(
                id=task.id,
                title=task.title,
                task_type=task.task_type,
                depends_on=task.dependency_ids,
                # Whatever had not ended when the run did was stopped with it.
                status=_REPORTED.get(record.state, "cancelled"),
                account=record.account,
                model=record.model,
                attempts=record.attempts,
                started_s=record.started_s,
                finished_s=record.finished_s,
                produced_by=record.produced_by,
                error=record.error,
            )
        )
    return tuple(reports)


def _results(seen: Seen) -> dict[str, TaskResult]:
    return {
        name: TaskResult(output=played.record.output, usage=played.record.usage, cost_usd=played.record.cost_usd)
        for name, played in seen.played.items()
        if played.record.output is not None and played.record.state is TaskState.COMPLETED
    }


def _schedule(seen: Seen, spans: Sequence[CallSpan], orchestra: Orchestra) -> ScheduleReport | None:
    of_tasks = sorted((span for span in spans if span.call.task_id), key=lambda span: span.answer.started_at_s)
    if not of_tasks or seen.plan is None:
        return None
    calls = [
        TaskCall(
            call_id=span.call.call_id,
            task_id=span.call.task_id or "",
            models=span.call.models,
            duration_s=span.answer.finished_at_s - span.answer.started_at_s,
            input_tokens=span.answer.usage.input_tokens,
            output_tokens=span.answer.usage.output_tokens,
        )
        for span in of_tasks
    ]
    dependencies = {task.id: task.dependency_ids for task in seen.plan.tasks}
    bound = bound_of_calls(calls, dependencies, orchestra)
    makespan_s = max(span.answer.finished_at_s for span in of_tasks) - of_tasks[0].answer.started_at_s
    return ScheduleReport(makespan_s=round(makespan_s, 6), lower_bound_s=round(bound.seconds, 6), binding=bound.binding)
