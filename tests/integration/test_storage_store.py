"""The store keeps its promises on both engines: the unit tests' own tests of it, over SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from actors.store import Store
from app.domain.errors import ConfigurationError, ConflictError, InternalError, NotFoundError
from app.domain.run import RunStatus, TaskRecord, TaskState
from app.storage import server_sessions
from app.storage.database import open_database, open_for_writing
from app.storage.place import Place
from tests.fixtures.postgres import PostgresServer
from tests.unit.actors.test_store import (  # noqa: F401  collected here too, over the store of this module
    a_run,
    an_event,
    test_a_call_is_placed_while_it_is_on_its_way_and_not_after,
    test_a_caller_that_gives_up_does_not_stop_the_writer,
    test_a_failing_command_undoes_only_itself,
    test_a_run_comes_back_equal_with_plan_tasks_and_document,
    test_a_run_that_is_created_again_is_the_same_run,
    test_an_idempotency_key_returns_the_same_run_and_refuses_another_request,
    test_calls_and_limiters_are_replaced_by_key,
    test_events_are_numbered_without_gaps_under_concurrency,
    test_unfinished_runs_are_those_somebody_should_conduct,
    test_waiting_for_events_wakes_when_one_is_committed,
    test_writes_of_one_call_stand_each_for_itself_and_keep_their_order,
)
from tests.unit.app.storage.test_upsert import check_meanings


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    opened = Store(str(place.data_dir), place.url)
    yield opened
    await opened.close()


async def test_a_bug_in_one_command_fails_that_command_only(store: Store) -> None:
    """A row that the schema refuses must not take its neighbours' writes with it, nor the writer."""
    await store.create_run(a_run())
    results = await asyncio.gather(
        store.append_events([an_event("one")]),
        store.append_events([replace(an_event("orphan"), kind=None)]),  # type: ignore[arg-type]  # what a bug would do
        store.append_events([an_event("two")]),
        return_exceptions=True,
    )

    assert [type(result) for result in results] == [type(None), InternalError, type(None)]
    assert "orphan" not in str(results[1])
    assert [event.kind for event in await store.events_after("run-1", 0, 0.0)] == ["one", "two"]


async def test_text_with_nul_does_not_stop_a_write(store: Store, engine_name: str) -> None:
    """PostgreSQL has no NUL in text; what a model or a provider sends, or a client asks for, may hold one."""
    await store.create_run(a_run(text="a\x00b"))
    await store.append_events([replace(an_event("k"), payload={"text": "x\x00y"})])
    failed = TaskRecord(task_id="t1", state=TaskState.FAILED, attempts=1, output="o\x00", error="bad \x00 byte")
    await store.record_task("run-1", failed, [])

    kept = await store.get_run("run-1")
    assert kept.request.text == "a\x00b"
    assert kept.tasks[0].output == "o\x00"
    assert kept.tasks[0].error == ("bad \x00 byte" if engine_name == "sqlite" else "bad \ufffd byte")
    assert (await store.events_after("run-1", 0, 0.0))[0].payload == {"text": "x\x00y"}
    with pytest.raises(NotFoundError):
        await store.get_run("no\x00run")


def test_upserts_mean_the_same_on_both_engines(place: Place) -> None:
    """One place spells them apart; every statement of the journal and the books goes through it."""
    engine = open_database(place.data_dir, place.url)
    with engine.begin() as connection:
        check_meanings(connection)
    engine.dispose()


async def test_a_second_tutti_is_kept_out_of_the_database(postgres: PostgresServer, tmp_path: Path) -> None:
    """Directories differ, the database is one: two writers would double every limit."""
    url = postgres.new_database()
    first, second = Store(str(tmp_path / "one"), url), Store(str(tmp_path / "two"), url)
    await first.ping()

    with pytest.raises(ConflictError, match="another Tutti writes to this PostgreSQL database") as refused:
        await second.ping()
    assert refused.value.param == "store.url"
    assert postgres.password not in str(refused.value)
    await first.create_run(a_run())
    await first.close()
    assert [run.run_id for run in await second.list_runs(10, None)] == ["run-1"]
    await second.close()


async def test_a_session_lost_on_our_side_does_not_lock_ourselves_out(postgres: PostgresServer, tmp_path: Path) -> None:
    """A connection may die without the server noticing: its lock is ours, and the next connection ends it."""
    engine = open_for_writing(Place(tmp_path, postgres.new_database()))
    connection = engine.connect()
    lost = connection.connection
    connection.detach()

    with engine.connect() as again:
        assert again.exec_driver_sql("SELECT 1").scalar() == 1
    lost.close()
    connection.close()
    engine.dispose()


@pytest.mark.timeout(600)
async def test_writing_goes_on_after_the_server_was_away(postgres: PostgresServer, tmp_path: Path) -> None:
    """A restart of PostgreSQL costs errors that say so, never a restart of ours, and never the one writer's lock."""
    url = postgres.new_database()
    store, other = Store(str(tmp_path / "one"), url), Store(str(tmp_path / "two"), url)
    await store.create_run(a_run())
    postgres.stop(signal.SIGQUIT)
    try:
        with pytest.raises(InternalError, match="does not answer") as away:
            await store.create_run(a_run("run-2"))
        with pytest.raises(InternalError, match="does not answer"):
            await store.get_run("run-1")
        with pytest.raises(InternalError, match="does not answer"):
            await other.ping()
    finally:
        postgres.start()

    await store.create_run(a_run("run-3"))

    assert {run.run_id for run in await store.list_runs(10, None)} == {"run-1", "run-3"}
    assert postgres.password not in str(away.value)
    assert "Tutti goes on by itself" in (away.value.remedy or "")
    with pytest.raises(ConflictError):
        await other.ping()
    await store.close()
    assert await other.ping() == "ok"
    await other.close()


async def test_a_lock_of_an_operator_is_waited_for_then_named(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A schema change by hand, or a dump that locks: writing says who must let go, and goes on then."""
    monkeypatch.setattr(server_sessions, "LOCK_TIMEOUT_MS", 300)
    url = postgres.new_database()
    store = Store(str(tmp_path), url)
    await store.create_run(a_run())
    with psycopg.connect(url) as operator:
        operator.execute("LOCK TABLE event IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(InternalError, match="another program keeps it locked"):
            await store.append_events([an_event("refused")])
        assert (await store.get_run("run-1")).run_id == "run-1"

    await store.append_events([an_event("after")])

    assert [event.kind for event in await store.events_after("run-1", 0, 0.0)] == ["after"]
    await store.close()


async def test_a_wrong_password_is_named_without_being_shown(postgres: PostgresServer, tmp_path: Path) -> None:
    """What is wrong must be found without the log telling the password to everybody."""
    url = postgres.url("postgres").replace(postgres.password, "hunter2secret")

    with pytest.raises(InternalError, match="refuses us") as refused:
        await Store(str(tmp_path), url).ping()
    assert "hunter2" not in f"{refused.value} {refused.value.remedy}"
    with pytest.raises(ConfigurationError) as wrong:
        await Store(str(tmp_path), "mysql://u:hunter2@h/d").ping()
    assert "hunter2" not in f"{wrong.value} {wrong.value.remedy}"


@pytest.mark.timeout(600)
async def test_the_server_restarted_among_many_writes_loses_nothing_acknowledged(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """What was told "done" is there; what was refused said why; the rest goes through once the server is back."""
    store = Store(str(tmp_path), postgres.new_database())
    await store.ping()
    done: list[str] = []
    refused: list[BaseException] = []
    stopping = asyncio.Event()

    async def write(worker: int) -> None:
        number = 0
        while not stopping.is_set():
            run_id = f"run-{worker}-{number}"
            try:
                await store.create_run(a_run(run_id))
                done.append(run_id)
            except InternalError as error:
                refused.append(error)
                await asyncio.sleep(0.05)
            number += 1

    async def until_more(count: int) -> None:
        wanted = len(done) + count
        async with asyncio.timeout(200):
            while len(done) < wanted:  # noqa: ASYNC110  other tasks do the work that is counted
                await asyncio.sleep(0.01)

    workers = [asyncio.create_task(write(worker)) for worker in range(8)]
    for how in (signal.SIGINT, signal.SIGQUIT):
        await until_more(200)
        await asyncio.to_thread(postgres.stop, how)
        await asyncio.sleep(0.3)
        await asyncio.to_thread(postgres.start)
    await until_more(200)
    stopping.set()
    await asyncio.gather(*workers)

    kept = {run.run_id for run in await store.list_runs(100_000, None)}
    assert set(done) <= kept
    assert refused, "the test did not meet the fault"
    assert all("does not answer" in str(error) for error in refused), {str(error) for error in refused}
    assert (await store.get_run(done[0])).status is RunStatus.ACCEPTED
    await store.close()
