"""The store commits before it answers, numbers events without gaps, and lets one process hold a data directory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.store import Store
from app.domain.calls import CallPlace
from app.domain.chat import Usage
from app.domain.errors import ConfigurationError, ConflictError, NotFoundError
from app.domain.limiter_state import SavedLimiter
from app.domain.plan import Plan, PlannedTask, Question
from app.domain.run import (
    CallRecord,
    CallState,
    RunEvent,
    RunRecord,
    RunRequest,
    RunStatus,
    TaskRecord,
    TaskState,
)


def a_run(run_id: str = "run-1", *, key: str | None = None, text: str = "compare tea and coffee") -> RunRecord:
    return RunRecord(
        run_id=run_id,
        status=RunStatus.ACCEPTED,
        request=RunRequest(text=text, idempotency_key=key),
        created_s=100.0,
        updated_s=100.0,
    )


def an_event(kind: str, run_id: str = "run-1") -> RunEvent:
    return RunEvent(run_id=run_id, seq=0, kind=kind, at_s=101.0, payload={"text": "xin chào"})


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store(str(tmp_path))
    yield opened
    await opened.close()


async def test_a_run_comes_back_equal_with_plan_tasks_and_document(store: Store) -> None:
    """What was recorded is what a resumed conductor reads."""
    record = a_run()
    plan = Plan(goal="compare", tasks=(PlannedTask(id="t1", title="tea", instruction="write about tea"),))
    task = TaskRecord(
        task_id="t1",
        state=TaskState.COMPLETED,
        attempts=2,
        account="a",
        model="m",
        output="trà xanh 绿茶",
        usage=Usage(input_tokens=5, output_tokens=7, reasoning_tokens=2),
        cost_usd="0.000012",
        started_s=1.0,
        finished_s=2.0,
    )
    await store.create_run(record)
    await store.record_plan("run-1", plan, [an_event("plan.ready")])
    await store.record_task("run-1", task, [an_event("task.finished")])
    ended = RunRecord(
        run_id="run-1",
        status=RunStatus.NEEDS_ANSWERS,
        request=record.request,
        created_s=100.0,
        updated_s=105.0,
        plan=plan,
        questions=(Question(id="q1", question="which tea?", options=("green", "black")),),
        answers=(("q1", "green"),),
        assumptions=("for an office",),
        tasks=(task,),
        document={"answer": "green", "nested": [1, None, {"a": True}]},
    )
    await store.update_run(ended, [])

    assert await store.get_run("run-1") == ended


async def test_events_are_numbered_without_gaps_under_concurrency(store: Store) -> None:
    """SSE clients resume by number: a gap or a repeated number would lose or double a line."""
    await store.create_run(a_run())
    await store.create_run(a_run("run-2"))

    await asyncio.gather(
        *(store.append_events([an_event(f"k{index}", "run-1"), an_event("x", "run-2")]) for index in range(40))
    )

    events = await store.events_after("run-1", 0, 0.0)
    assert [event.seq for event in events] == list(range(1, 41))
    assert [event.seq for event in await store.events_after("run-2", 35, 0.0)] == [36, 37, 38, 39, 40]


async def test_waiting_for_events_wakes_when_one_is_committed(store: Store) -> None:
    """A follower must not poll: it sleeps until the transaction that holds its line is on disk."""
    await store.create_run(a_run())
    waiting = asyncio.create_task(store.events_after("run-1", 0, 20.0))
    await asyncio.sleep(0)
    while not store._changed:  # noqa: ASYNC110  the store's own state is waited for
        await asyncio.sleep(0)

    await store.append_events([an_event("run.accepted")])

    assert [event.kind for event in await asyncio.wait_for(waiting, 5.0)] == ["run.accepted"]


async def test_an_idempotency_key_returns_the_same_run_and_refuses_another_request(store: Store) -> None:
    """A retried POST must not start the work twice."""
    await store.create_run(a_run("run-1", key="k"))

    assert (await store.create_run(a_run("run-2", key="k"))).run_id == "run-1"
    with pytest.raises(ConflictError, match="another request"):
        await store.create_run(a_run("run-3", key="k", text="something else"))
    assert [run.run_id for run in await store.list_runs(10, None)] == ["run-1"]


async def test_a_failing_command_undoes_only_itself(store: Store) -> None:
    """Group commit must not let one caller's mistake roll back its neighbours."""
    await store.create_run(a_run())
    results = await asyncio.gather(
        store.append_events([an_event("one")]),
        store.update_run(a_run("missing"), []),
        store.append_events([an_event("two")]),
        return_exceptions=True,
    )

    assert [type(result) for result in results] == [type(None), NotFoundError, type(None)]
    assert [event.kind for event in await store.events_after("run-1", 0, 0.0)] == ["one", "two"]


async def test_a_second_process_is_kept_out_of_the_directory(store: Store, tmp_path: Path) -> None:
    """Two writers would double every limit and interleave two journals."""
    await store.ping()
    second = Store(str(tmp_path))

    with pytest.raises(ConflictError) as refused:
        await second.ping()
    assert "in use by Tutti store, pid" in refused.value.message
    assert refused.value.param == "data_dir"
    await store.close()
    assert await second.ping() == "ok"
    await second.close()


async def test_calls_and_limiters_are_replaced_by_key(store: Store) -> None:
    """Repeating a record is a no-op, so that a retry after a lost reply is safe."""
    await store.create_run(a_run())
    sent = CallRecord(key="c1", run_id="run-1", task_id="t1", purpose="task", attempt=1, state=CallState.SENT)
    done = CallRecord(
        key="c1",
        run_id="run-1",
        task_id="t1",
        purpose="task",
        attempt=1,
        state=CallState.DONE,
        usage=Usage(input_tokens=1, output_tokens=2),
        answer="paid for",
    )
    await store.record_calls([sent])
    await store.record_calls([done, done])

    assert await store.calls_of("run-1") == [done]
    state = SavedLimiter(scope="account:a", model="m", state='{"x": 1}', clean=False)
    await store.save_limiters([state], 5.0)
    assert await store.find_limiters([("account:a", "m"), ("account:b", "m")]) == [state]


async def test_a_journal_of_another_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    """A newer or older journal must not be written into."""
    store = Store(str(tmp_path))
    await store.ping()
    await store._write(lambda connection: connection.exec_driver_sql("UPDATE meta SET value = '99'"), ())
    await store.close()

    with pytest.raises(ConfigurationError, match="schema version 99"):
        await Store(str(tmp_path)).ping()


async def test_unfinished_runs_are_those_somebody_should_conduct(store: Store) -> None:
    """After a restart the coordinator goes on with exactly these."""
    for index, status in enumerate(RunStatus):
        record = a_run(f"run-{index}")
        await store.create_run(record)
        await store.update_run(
            RunRecord(run_id=f"run-{index}", status=status, request=record.request, created_s=100.0, updated_s=1.0), []
        )

    waiting = {RunStatus.NEEDS_ANSWERS}
    expected = [f"run-{i}" for i, status in enumerate(RunStatus) if not status.ended and status not in waiting]
    assert sorted(await store.unfinished_runs()) == sorted(expected)


async def test_a_caller_that_gives_up_does_not_stop_the_writer(store: Store) -> None:
    """Every timeout and every cancelled run cancels a write under way: the next one must still be written."""
    await store.create_run(a_run())
    writes = [asyncio.create_task(store.append_events([an_event(f"k{index}")])) for index in range(50)]
    await asyncio.sleep(0)
    for write in writes[::2]:
        write.cancel()
    await asyncio.gather(*writes, return_exceptions=True)

    await asyncio.wait_for(store.append_events([an_event("after")]), 5)

    kinds = [event.kind for event in await store.events_after("run-1", 0, 0.0)]
    assert kinds[-1] == "after"
    assert {f"k{index}" for index in range(1, 50, 2)} <= set(kinds)


async def test_writes_of_one_call_stand_each_for_itself_and_keep_their_order(store: Store) -> None:
    """Batching saves Ray calls; it must not let one caller's mistake reach another, nor mix lines up."""
    await store.create_run(a_run())
    commands: list[tuple[str, tuple[Any, ...]]] = [("append_events", ([an_event(f"k{index}")],)) for index in range(30)]
    commands.insert(10, ("update_run", (a_run("missing"), [])))

    answers = await store.write_batch(commands)

    assert [type(answer) for answer in answers] == [type(None)] * 10 + [NotFoundError] + [type(None)] * 20
    assert [event.kind for event in await store.events_after("run-1", 0, 0.0)] == [f"k{index}" for index in range(30)]


async def test_a_call_is_placed_while_it_is_on_its_way_and_not_after(store: Store) -> None:
    """Where it goes must be known before it leaves; what was taken for lost must not leave any more."""
    await store.create_run(a_run())
    call = CallRecord(key="k", run_id="run-1", task_id="t1", purpose="task", attempt=1, state=CallState.SENT)
    await store.record_calls([call])
    place = CallPlace(key="k", account="a", model="m", epoch=0)
    await store.place_call(replace(place, provider_id="name"))
    await store.place_call(place)
    (placed,) = await store.calls_of("run-1")
    await store.record_calls([replace(placed, state=CallState.UNKNOWN)])

    assert (placed.account, placed.model, placed.provider_id, placed.state) == ("a", "m", "name", CallState.SENT)
    for key in ("k", "unheard-of"):
        with pytest.raises(ConflictError):
            await store.place_call(replace(place, key=key, account="b"))


async def test_a_call_does_not_leave_for_a_conductor_that_was_replaced(store: Store) -> None:
    """What waited there is sent by the next one, who cannot know of it; the name of what has left is of use to both."""
    await store.create_run(a_run())
    call = CallRecord(key="k", run_id="run-1", task_id="t1", purpose="task", attempt=1, state=CallState.SENT)
    await store.record_calls([call])
    await store.take_run("run-1", 0, "next")
    place = CallPlace(key="k", account="a", model="m", epoch=0)
    with pytest.raises(ConflictError):
        await store.place_call(place)
    (waiting,) = await store.calls_of("run-1")
    await store.place_call(replace(place, account="b", epoch=1))
    await store.place_call(replace(place, provider_id="name"))
    (placed,) = await store.calls_of("run-1")

    assert (waiting.account, waiting.model) == (None, None)
    assert (placed.account, placed.provider_id) == ("a", "name")


async def test_a_run_that_is_created_again_is_the_same_run(store: Store) -> None:
    """A store that dies after the commit is told again: the run must be neither lost nor refused."""
    await store.create_run(a_run())
    await store.record_task("run-1", TaskRecord(task_id="t1", state=TaskState.RUNNING), [])

    again = await store.create_run(a_run())

    assert [task.task_id for task in again.tasks] == ["t1"]
    assert len(await store.list_runs(10, None)) == 1
