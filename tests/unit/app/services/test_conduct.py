"""A conductor journals before it goes on, ends every run visibly, and never buys twice what an earlier life bought."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from actors.store import Store
from app.domain.calls import CallAnswer, ModelCall
from app.domain.errors import CapacityError
from app.domain.plan import Criterion, Dependency, Plan, PlannedTask, Question
from app.domain.ports import ModelCaller
from app.domain.run import RunRecord, RunRequest, RunStatus, TaskState
from app.services.conduct import Conductor, Tools
from app.services.prompts import Prompts
from tests.fakes.clock import RunningClock
from tests.fakes.journal import InProcessJournal
from tests.fakes.models import Reply, ScriptedCaller, orchestra

CHECKED = (Criterion(id="c1", statement="not empty", check="not_empty"),)
PLAN = Plan(
    goal="compare",
    tasks=(
        PlannedTask(id="t1", title="tea", instruction="Describe tea.", criteria=CHECKED),
        PlannedTask(id="t2", title="coffee", instruction="Describe coffee.", criteria=CHECKED),
        PlannedTask(
            id="t3",
            title="verdict",
            instruction="Recommend one.",
            depends_on=(Dependency(task_id="t1"), Dependency(task_id="t2")),
            criteria=CHECKED,
        ),
    ),
)
CLOCK = RunningClock()


def a_record(*, timeout_s: float | None = None, plan: Plan | None = PLAN) -> RunRecord:
    now_s = CLOCK.wall_s()
    return RunRecord(
        run_id="run-1",
        status=RunStatus.ACCEPTED,
        request=RunRequest(text="Compare tea and coffee.", timeout_s=timeout_s),
        created_s=now_s,
        updated_s=now_s,
        plan=plan,
    )


def by_purpose(call: ModelCall) -> Reply:
    """Answer the worker; the other roles get prose, which their ladders survive."""
    return f"Result of {call.task_id}." if call.purpose == "task" else "I would rather not."


class Stuck:
    """A caller that answers t1 and keeps everything else waiting."""

    def __init__(self) -> None:
        self.script = ScriptedCaller(by_purpose)
        self.waiting = asyncio.Event()

    async def call(self, call: ModelCall) -> CallAnswer:
        if call.task_id == "t1":
            return await self.script.call(call)
        self.waiting.set()
        await asyncio.Event().wait()
        raise AssertionError("never")


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[InProcessJournal]:
    store = Store(str(tmp_path))
    yield InProcessJournal(store)
    await store.close()


Make = Callable[[RunRecord, ModelCaller], Conductor]


@pytest.fixture
def make(journal: InProcessJournal) -> Make:
    def build(record: RunRecord, caller: ModelCaller) -> Conductor:
        tools = Tools(
            caller=caller, journal=journal, clock=CLOCK, orchestra=orchestra(redo_max=1), prompts=Prompts.load()
        )
        return Conductor(record, tools)

    return build


async def test_a_run_ends_with_its_document_in_the_journal(make: Make, journal: InProcessJournal) -> None:
    """What the user gets is what is on disk."""
    record = await journal.create_run(a_record())

    ended = await make(record, ScriptedCaller(by_purpose)).conduct()

    kept = await journal.get_run("run-1")
    assert (ended.status, kept.status) == (RunStatus.COMPLETED, RunStatus.COMPLETED)
    assert kept.document is not None
    assert "Result of t3." in str(kept.document["answer"])
    assert {task.task_id: task.state for task in kept.tasks} == dict.fromkeys(("t1", "t2", "t3"), TaskState.COMPLETED)
    kinds = [event.kind for event in await journal.events_after("run-1", 0, wait_s=0)]
    assert kinds[-1] == "run.finished"
    assert kinds.count("task.finished") == 3


async def test_a_second_life_buys_only_what_is_missing(make: Make, journal: InProcessJournal) -> None:
    """The conductor died while t2 ran: t1 is kept, t2 and t3 are made."""
    record = await journal.create_run(a_record())
    await journal.record_plan("run-1", PLAN, [])
    first = Stuck()
    life = asyncio.create_task(make(record, first).conduct())
    await asyncio.wait_for(first.waiting.wait(), 5)
    while not (await journal.get_run("run-1")).tasks:  # noqa: ASYNC110  the journal is what is waited for
        await asyncio.sleep(0.01)
    life.cancel()
    await life
    second = ScriptedCaller(by_purpose)
    interrupted = await journal.get_run("run-1")

    ended = await make(interrupted, second).conduct()

    assert ended.status is RunStatus.COMPLETED
    assert sorted(call.task_id or "" for call in second.calls if call.purpose == "task") == ["t2", "t3"]


async def test_a_late_run_answers_with_what_it_has(make: Make, journal: InProcessJournal) -> None:
    """A deadline must not throw away what was paid for."""
    record = await journal.create_run(a_record(timeout_s=2.0))

    ended = await make(record, Stuck()).conduct()

    assert ended.status is RunStatus.PARTIAL
    assert ended.document is not None
    assert "Result of t1." in str(ended.document["answer"])
    assert "2 s" in str(ended.document["error"])
    statuses = {str(task["id"]): task["status"] for task in ended.document["tasks"]}  # type: ignore[index,union-attr,call-overload]
    assert statuses == {"t1": "completed", "t2": "cancelled", "t3": "cancelled"}


async def test_a_cancelled_run_says_so(make: Make, journal: InProcessJournal) -> None:
    """Cancelled is an end like any other, with what is there."""
    record = await journal.create_run(a_record())
    stuck = Stuck()
    running = asyncio.create_task(make(record, stuck).conduct())
    await asyncio.wait_for(stuck.waiting.wait(), 5)
    running.cancel()

    assert (await running).status is RunStatus.CANCELLED
    assert (await journal.get_run("run-1")).status is RunStatus.CANCELLED


async def test_a_run_that_nobody_can_serve_fails_with_the_reason(make: Make, journal: InProcessJournal) -> None:
    """No account, no answer, and the message says which."""
    record = await journal.create_run(a_record())

    ended = await make(record, ScriptedCaller(lambda call: CapacityError("no account serves m"))).conduct()

    assert ended.status is RunStatus.FAILED
    assert all(task.error == "no account serves m" for task in (await journal.get_run("run-1")).tasks if task.attempts)


async def test_a_bug_ends_the_run_visibly(make: Make, journal: InProcessJournal) -> None:
    """A run that hangs for ever is worse than one that says it failed."""
    record = await journal.create_run(a_record())

    ended = await make(record, ScriptedCaller(lambda call: KeyError("bug"))).conduct()

    assert ended.status is RunStatus.FAILED
    assert "internal failure" in str((ended.document or {})["error"])


async def test_waiting_for_a_person_does_not_use_up_the_time(make: Make, journal: InProcessJournal) -> None:
    """Asked on Monday, answered on Tuesday: the work has its full time from then on."""
    asked = a_record(timeout_s=30.0)
    answered = RunRecord(
        run_id="run-1",
        status=RunStatus.ACCEPTED,
        request=asked.request,
        created_s=asked.created_s - 86_400,
        updated_s=asked.created_s,
        plan=PLAN,
        questions=(Question(id="q1", question="which?"),),
        answers=(("q1", "green"),),
    )
    await journal.create_run(answered)

    assert (await make(answered, ScriptedCaller(by_purpose)).conduct()).status is RunStatus.COMPLETED
