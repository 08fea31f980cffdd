"""Doing a part of a run again: which tasks that concerns, and what of the rest is kept.

Decides only, from the run's record; the coordinator writes. Nothing that was bought and still fits is bought again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from app.domain.errors import ConflictError, RequestError
from app.domain.plan import Plan
from app.domain.run import RunRecord, TaskRecord, TaskState


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """What a new run begins with."""

    plan: Plan
    tasks: tuple[TaskRecord, ...]
    """Completed ones of the run before, with what they cost there left out: it was not bought for this run."""


def downstream(plan: Plan, task_id: str) -> frozenset[str]:
    """Return the task and everything that depends on its result, however far."""
    found = {task_id}
    grown = True
    while grown:
        more = {task.id for task in plan.tasks if found.intersection(task.dependency_ids)} - found
        grown = bool(more)
        found |= more
    return frozenset(found)


def to_redo(record: RunRecord, task_id: str) -> tuple[TaskRecord, ...]:
    """Return the rows of the tasks that are to be done again when ``task_id`` is, as they begin.

    The task itself counts its attempts on, so that its old answer is no answer to the new one; the others ask again
    only where their inputs have changed.

    Raises:
        ConflictError: the run goes on still, or has no plan.
        RequestError: its plan has no such task.
    """
    if not record.status.ended:
        raise ConflictError(
            f"the run {record.run_id!r} is {record.status.value}: it has not ended",
            param="run_id",
            remedy="wait for its end, or cancel it",
        )
    concerned = downstream(_plan_with(record, task_id), task_id)
    rows = {task.task_id: task for task in record.tasks}
    before = rows[task_id].attempts if task_id in rows else 0
    again = [TaskRecord(task_id=name, state=TaskState.PENDING) for name in sorted(concerned) if name != task_id]
    return (TaskRecord(task_id=task_id, state=TaskState.PENDING, attempts=before), *again)


def forked(record: RunRecord, task_id: str, more: str | None) -> Fork:
    """Return what a run begins with that takes over everything not downstream of ``task_id``.

    Args:
        record: The run before, ended or not.
        task_id: From here on everything is done anew.
        more: What that task is told beside its instruction.

    Raises:
        ConflictError: the run has no plan.
        RequestError: its plan has no such task.
    """
    plan = _plan_with(record, task_id)
    concerned = downstream(plan, task_id)
    kept = tuple(
        TaskRecord(
            task_id=task.task_id,
            state=TaskState.COMPLETED,
            attempts=task.attempts,
            account=task.account,
            model=task.model,
            output=task.output,
            cost_usd="0",
            produced_by=task.produced_by,
        )
        for task in record.tasks
        if task.state is TaskState.COMPLETED and task.task_id not in concerned
    )
    if more:
        tasks = tuple(
            replace(task, instruction=f"{task.instruction}\n\n{more}") if task.id == task_id else task
            for task in plan.tasks
        )
        plan = replace(plan, tasks=tasks)
    return Fork(plan=replace(plan, version=1), tasks=kept)


def _plan_with(record: RunRecord, task_id: str) -> Plan:
    plan = record.plan
    if plan is None:
        raise ConflictError(
            f"the run {record.run_id!r} has no plan", param="run_id", remedy="start a new project with its request"
        )
    names = [task.id for task in plan.tasks]
    if task_id not in names:
        raise RequestError(f"the plan has no task {task_id!r}", param="task_id", remedy=f"it has {', '.join(names)}")
    return plan
