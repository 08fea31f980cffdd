"""What is done again, and what is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.domain.chat import Usage
from app.domain.errors import ConflictError, RequestError
from app.domain.plan import Dependency, Plan, PlannedTask
from app.domain.rework import downstream, forked, to_redo
from app.domain.run import RunRecord, RunRequest, RunStatus, TaskRecord, TaskState

NEEDS = {"t1": (), "t2": ("t1",), "t3": ("t2",), "t4": (), "t5": ("t3", "t4")}
PLAN = Plan(
    goal="g",
    tasks=tuple(
        PlannedTask(id=name, title=name, instruction=name, depends_on=tuple(Dependency(task_id=each) for each in needs))
        for name, needs in NEEDS.items()
    ),
)


def a_run(**changes: object) -> RunRecord:
    tasks = tuple(
        TaskRecord(
            task_id=name,
            state=TaskState.COMPLETED,
            attempts=2,
            output=f"out {name}",
            usage=Usage(input_tokens=5, output_tokens=5),
            cost_usd="1",
        )
        for name in NEEDS
    )
    record = RunRecord(
        run_id="r",
        status=RunStatus.COMPLETED,
        request=RunRequest(text="x"),
        created_s=1.0,
        updated_s=2.0,
        plan=PLAN,
        tasks=tasks,
    )
    return replace(record, **changes)  # type: ignore[arg-type]  # fields of a record


@pytest.mark.parametrize(
    ("task_id", "concerned"),
    [("t1", "t1 t2 t3 t5"), ("t2", "t2 t3 t5"), ("t4", "t4 t5"), ("t5", "t5")],
)
def test_what_depends_on_a_task_is_concerned_however_far(task_id: str, concerned: str) -> None:
    """Nothing may keep a result that was made from a replaced one."""
    assert downstream(PLAN, task_id) == set(concerned.split())


def test_a_task_that_is_done_again_counts_on_and_what_depends_on_it_begins_anew() -> None:
    """The old answer of the task must not answer the new attempt; everything else keeps its numbers."""
    again = {task.task_id: task for task in to_redo(a_run(), "t3")}

    assert {name: task.attempts for name, task in again.items()} == {"t3": 2, "t5": 0}
    assert {task.state for task in again.values()} == {TaskState.PENDING}


def test_a_fork_takes_over_what_does_not_depend_on_its_beginning() -> None:
    """What is taken over was paid by the run before: here it costs nothing."""
    fork = forked(a_run(), "t3", "Be brief.")

    assert {task.task_id: task.output for task in fork.tasks} == {"t1": "out t1", "t2": "out t2", "t4": "out t4"}
    assert {task.cost_usd for task in fork.tasks} == {"0"}
    assert {task.usage.input_tokens for task in fork.tasks} == {0}
    assert fork.plan.task("t3").instruction == "t3\n\nBe brief."
    assert [task for task in fork.plan.tasks if task.id != "t3"] == [task for task in PLAN.tasks if task.id != "t3"]


def test_a_fork_takes_over_only_what_was_accepted() -> None:
    """A result that its judge refused is no result."""
    run = a_run()
    failed = tuple(replace(task, state=TaskState.FAILED) if task.task_id == "t1" else task for task in run.tasks)

    assert {task.task_id for task in forked(replace(run, tasks=failed), "t3", None).tasks} == {"t2", "t4"}


def test_what_cannot_be_done_again_is_refused() -> None:
    """By name, before anything is changed."""
    with pytest.raises(ConflictError, match="has not ended"):
        to_redo(a_run(status=RunStatus.RUNNING), "t1")
    with pytest.raises(ConflictError, match="no plan"):
        to_redo(a_run(plan=None), "t1")
    with pytest.raises(RequestError, match="no task 't9'"):
        forked(a_run(), "t9", None)
