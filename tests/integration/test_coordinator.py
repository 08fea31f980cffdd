"""Any actor may die now, and the configuration may change: runs go on, and nothing is bought twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from actors import bootstrap
from actors.coordinator import Coordinator
from actors.desk_handle import DeskHandle
from actors.store_handle import StoreHandle
from app import settings
from app.domain.errors import ConfigurationError, GatewayError
from app.domain.ports import Desk
from app.domain.run import RunRequest
from tests.fakes import desk_contract, pool, scripted
from tests.fakes.scripted import ENGLISH, VAGUE, worker_rule
from tests.integration.conftest import Simulate, Stage, ended

pytestmark = pytest.mark.ray
SLOW: dict[str, Any] = {"kind": "constant", "mean_s": 2.0}


def kill(stage: Stage, name: str) -> None:
    """Kill an actor as a crash would: Ray starts it again."""
    ray.kill(ray.get_actor(name, stage.namespace), no_restart=False)


async def started_and_half_done(stage: Stage) -> str:
    """Start a run and return its id once its first task is in the journal while its second is being worked on."""
    stage.simulator.reset(worker_rule(ENGLISH.step("t2"), text=ENGLISH.step("t2").result, latency=SLOW))
    record = await stage.desk.start(RunRequest(text=ENGLISH.request))
    await seen(stage.desk, record.run_id, "task.finished")
    return record.run_id


async def seen(desk: DeskHandle, run_id: str, kind: str) -> None:
    """Wait for a run's first event of that kind."""
    seq = 0
    async with asyncio.timeout(30):
        while True:
            for event in await desk.events(run_id, seq, wait_s=5.0):
                seq = event.seq
                if event.kind == kind:
                    return


async def eventually(desk: DeskHandle, holds: Callable[[dict[str, str]], bool]) -> None:
    """Wait until the states of the accounts satisfy ``holds``."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(GatewayError):
                if holds({row.account: row.state for row in await desk.accounts()}):
                    return
            await asyncio.sleep(0.2)


async def test_run_goes_on_when_its_coordinator_is_killed(stage: Stage) -> None:
    """The next coordinator takes the run up from the journal: the plan and what was done are not bought again."""
    run_id = await started_and_half_done(stage)
    kill(stage, bootstrap.COORDINATOR)
    document = await ended(stage.desk, run_id)
    events = await stage.events(run_id)

    assert document["status"] == "completed"
    assert document["answer"] == ENGLISH.answer
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert {role: stage.simulator.asked(role) for role in ("clarifier", "planner", "transcriber", "judge")} == {
        "clarifier": 1,
        "planner": 1,
        "transcriber": 1,
        "judge": 4,
    }
    assert stage.simulator.asked("worker") <= 5, "only the call that was under way may be made again"


async def test_directory_comes_back_with_its_configuration(stage: Stage) -> None:
    """A killed directory learns the configuration from the coordinator and finds the living accounts."""
    run_id = await started_and_half_done(stage)
    kill(stage, bootstrap.DIRECTORY)
    document = await ended(stage.desk, run_id)
    await eventually(stage.desk, lambda states: set(states.values()) == {"healthy"} and len(states) == 3)
    after = await stage.play(ENGLISH.request)

    assert document["status"] == "completed"
    assert after["status"] == "completed"
    assert set((await stage.desk.ready()).values()) == {"ok"}


async def test_run_survives_the_death_of_the_store(stage: Stage) -> None:
    """The journal is back within seconds with everything that was committed; the run waits for it."""
    run_id = await started_and_half_done(stage)
    kill(stage, bootstrap.STORE)
    document = await ended_in_spite_of_gaps(stage.desk, run_id)

    assert document["status"] == "completed"
    assert document["answer"] == ENGLISH.answer
    assert stage.simulator.asked("planner") == 1


async def ended_in_spite_of_gaps(desk: DeskHandle, run_id: str) -> dict[str, Any]:
    """Wait for the end of a run while parts of the desk may be away."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(GatewayError):
                return await ended(desk, run_id, within_s=30)
            await asyncio.sleep(0.2)


async def test_coordinator_that_was_paused_commits_nothing_after_another_took_its_run(stage: Stage) -> None:
    """A machine that slept wakes up with a run in its hands that somebody else has brought to its end."""
    run_id = await started_and_half_done(stage)
    first: Any = ray.get_actor(bootstrap.COORDINATOR, stage.namespace)
    pid = await first.__ray_call__.remote(lambda _self: os.getpid())
    second: Any = None
    os.kill(pid, signal.SIGSTOP)
    try:
        second = ray.remote(Coordinator).options(num_cpus=0, max_concurrency=100).remote(stage.namespace)
        document = await ended(stage.desk, run_id)
        before = await everything(stage, run_id)
    finally:
        os.kill(pid, signal.SIGCONT)
    try:
        async with asyncio.timeout(60):
            while await first.__ray_call__.remote(lambda self: len(self._tasks)):  # noqa: ASYNC110  another process
                await asyncio.sleep(0.2)
        after = await everything(stage, run_id)
    finally:
        ray.kill(second, no_restart=True)

    assert document["status"] == "completed"
    assert before[0].epoch > 1
    assert after == before


async def everything(stage: Stage, run_id: str) -> tuple[Any, ...]:
    """Return all that the journal has of a run."""
    store = StoreHandle(stage.namespace)
    return await store.get_run(run_id), await store.calls_of(run_id), await stage.events(run_id)


async def test_doing_a_task_again_and_forking_buy_only_what_they_must(stage: Stage) -> None:
    """Results that do not depend on the task are paid once, in the run and in every fork of it."""
    document = await stage.play(ENGLISH.request)
    run_id, tasks = str(document["run_id"]), document["tasks"]
    needed = {name for task in tasks for name in task["depends_on"]}
    last = next(task["id"] for task in tasks if task["id"] not in needed)
    bought = stage.simulator.asked("worker")

    await stage.desk.retry(run_id, last)
    again = await ended(stage.desk, run_id)
    bought_again = stage.simulator.asked("worker")
    fork = await stage.desk.fork(run_id, last, more="Be brief.")
    forked = await ended(stage.desk, fork.run_id)

    assert (again["status"], forked["status"]) == ("completed", "completed")
    assert (bought_again, stage.simulator.asked("worker")) == (bought + 1, bought + 2)
    assert stage.simulator.asked("planner") == 1
    assert forked["usage"]["input_tokens"] < again["usage"]["input_tokens"], "only what it bought itself"


CHECKS: dict[str, Callable[[Desk], Awaitable[None]]] = {
    "played": lambda desk: desk_contract.check_run_is_played_to_its_document(desk, ENGLISH.request),
    "resumes": lambda desk: desk_contract.check_events_resume_anywhere(desk, ENGLISH.request),
    "idempotent": lambda desk: desk_contract.check_idempotency_key_is_honoured(desk, ENGLISH.request),
    "answers": lambda desk: desk_contract.check_answers_let_a_run_go_on(desk, VAGUE),
    "cancels": lambda desk: desk_contract.check_cancel_ends_a_run_once(desk, ENGLISH.request),
    "retries": lambda desk: desk_contract.check_a_task_is_done_again(desk, ENGLISH.request),
    "forks": lambda desk: desk_contract.check_a_fork_leaves_its_source_alone(desk, ENGLISH.request),
    "exports": lambda desk: desk_contract.check_an_export_is_one_zip(desk, ENGLISH.request),
    "unknown": desk_contract.check_unknown_run_is_not_found,
    "lists": lambda desk: desk_contract.check_list_is_newest_first_and_paged(desk, ENGLISH.request),
    "refuses": desk_contract.check_empty_request_is_refused,
}


@pytest.mark.parametrize("check", CHECKS)
async def test_desk_of_the_actors_keeps_the_contract(stage: Stage, check: str) -> None:
    """The actors' desk passes what the fake passes, so tests over the fake mean something."""
    await CHECKS[check](stage.desk)


@contextlib.asynccontextmanager
async def desk_of_file(path: Path) -> AsyncIterator[DeskHandle]:
    """Start our actors in a fresh namespace from a configuration file, and end them."""
    namespace = f"file-{uuid.uuid4().hex[:8]}"
    desk = await bootstrap.ensure(settings.load(path), namespace=namespace)
    try:
        yield desk
    finally:
        await bootstrap.end(namespace=namespace, timeout_s=5.0)


async def test_changed_file_moves_work_without_a_dropped_request(
    ray_cluster: None, simulate: Simulate, tmp_path: Path
) -> None:
    """An account is added and one removed by editing the file; what runs on the removed one is finished there.

    A wrong file in between changes nothing and says why, with its line.
    """
    slow = [worker_rule(ENGLISH.step(name), text=ENGLISH.step(name).result, latency=SLOW) for name in ("t1", "t2")]
    simulator = simulate({**pool.FAST, "replies": scripted.replies(*slow)})
    chief = pool.account(simulator.url, "chief", "chief", "critic")
    path = tmp_path / "tutti.yaml"

    def write(*workers: str, **more: Any) -> None:
        accounts = [pool.account(simulator.url, name, "hand", **more) for name in workers]
        path.write_text(yaml.safe_dump({**pool.orchestra(*accounts, chief), "data_dir": str(tmp_path / "data")}))

    write("alpha")
    async with desk_of_file(path) as desk:
        record = await desk.start(RunRequest(text=ENGLISH.request))
        await seen(desk, record.run_id, "task.started")
        write("alpha", colour="green")
        with pytest.raises(ConfigurationError) as wrong:
            await desk.reload()
        unchanged = {row.account for row in await desk.accounts()}
        write("gamma")
        await eventually(desk, lambda states: states == {"gamma": "healthy", "chief": "healthy"})
        document = await ended(desk, record.run_id)
    by_key = simulator.stats()["keys"]

    assert "colour" in wrong.value.message
    assert wrong.value.line is not None
    assert unchanged == {"alpha", "chief"}
    assert document["status"] == "completed"
    assert {task["id"]: task["account"] for task in document["tasks"]} == {
        "t1": "alpha",
        "t2": "alpha",
        "t3": "gamma",
        "t4": "gamma",
    }
    assert by_key["sk-alpha"]["cancelled_by_client"] == 0
    assert by_key["sk-gamma"]["completed"] >= 2
