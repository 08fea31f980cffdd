"""What a task costs us: DAGs of 10 ms tasks through the task flow, the run's caller, the dispatcher and account actors.

The provider is a plug-in that sleeps, not the simulator: HTTP and the simulator's own CPU would share the cores with
what is to be measured. The journal is on. Beside it, in the same run, a bare asyncio loop plays the same DAG.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors import cluster
from actors.clock import SystemClock
from app.domain.books.budgets import Owners
from app.domain.calls import ModelCall
from app.domain.chat import Json, Usage
from app.domain.errors import UpstreamError
from app.domain.lower_bound import Bound, BoundOption, BoundPool, BoundTask, lower_bound
from app.domain.plan import Dependency, Plan, PlannedTask
from app.domain.run import RunRecord, RunRequest, RunStatus, TaskRecord, TaskState
from app.services.context import RunContext
from app.services.judge import Judge
from app.services.prompts import Prompts
from app.services.run_books import RunBooks
from app.services.run_caller import RunCaller, RunLimits
from app.services.run_journal import RunJournal
from app.services.run_log import RunLog
from app.services.task_flow import TaskFlow
from app.services.work import Worker
from benchmarks import processes, report, sleeping, stage

SEED = 7
ACCOUNTS = 8
CONCURRENCY = 16
FAN_IN_MAX = 3
RUN_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A layered DAG: ``layers`` of ``width`` tasks, each needing one to three of the layer before."""

    name: str
    layers: int
    width: int

    @property
    def tasks(self) -> int:
        """How many tasks it has."""
        return self.layers * self.width


FULL = (Shape(name="wide", layers=40, width=50), Shape(name="chain", layers=100, width=1))
SHORT = (Shape(name="wide", layers=8, width=50), Shape(name="chain", layers=30, width=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """How one shape went."""

    shape: Shape
    completed: int
    bound: Bound
    bare_s: float
    bare_cpu_s: float
    ours_s: float
    cpu_s: Mapping[str, float]
    others_share: float
    """Of all cores while ours played, kept busy by processes that are not ours."""

    @property
    def wall_ms(self) -> float:
        """Wall time a task above the bare loop, in milliseconds."""
        return (self.ours_s - self.bare_s) / self.shape.tasks * 1e3

    @property
    def cpu_ms(self) -> float:
        """CPU time a task over all processes, in milliseconds."""
        return sum(self.cpu_s.values()) / self.shape.tasks * 1e3


def plan_of(shape: Shape) -> Plan:
    """Return the plan: the same in every run. Its tasks have no criteria, so each is exactly one model call."""
    chance = random.Random(SEED)
    tasks: list[PlannedTask] = []
    for layer in range(shape.layers):
        before = [f"t{(layer - 1) * shape.width + place}" for place in range(shape.width)] if layer else []
        for place in range(shape.width):
            number = layer * shape.width + place
            needs = chance.sample(before, min(len(before), chance.randint(1, FAN_IN_MAX)))
            tasks.append(
                PlannedTask(
                    id=f"t{number}",
                    title=f"Part {number}",
                    instruction=f"Do the work on part {number} and say how it went.",
                    depends_on=tuple(Dependency(task_id=name) for name in needs),
                )
            )
    return Plan(goal=f"A DAG of {shape.tasks} tasks", tasks=tuple(tasks))


def bound_of(plan: Plan) -> Bound:
    """Return what no schedule on these accounts can beat."""
    pools = [BoundPool(id=f"a{number}", concurrency=CONCURRENCY) for number in range(ACCOUNTS)]
    options = tuple(BoundOption(pool=pool.id, duration_s=sleeping.TASK_S) for pool in pools)
    tasks = [BoundTask(id=task.id, options=options, depends_on=task.dependency_ids) for task in plan.tasks]
    return lower_bound(tasks, pools)


async def bare(plan: Plan) -> float:
    """Play the plan with nothing but asyncio and as many slots as the accounts have; return seconds."""
    slots = asyncio.Semaphore(ACCOUNTS * CONCURRENCY)
    done: dict[str, asyncio.Task[None]] = {}

    async def perform(task: PlannedTask) -> None:
        for name in task.dependency_ids:
            await done[name]
        async with slots:
            await asyncio.sleep(sleeping.TASK_S)

    began = time.monotonic()
    for task in plan.tasks:
        done[task.id] = asyncio.create_task(perform(task))
    await asyncio.gather(*done.values())
    return time.monotonic() - began


class Book:
    """What a task flow needs of its run, as the conductor gives it: the log in the journal, and the sums."""

    def __init__(self, run_id: str, caller: RunCaller, opened: stage.Stage) -> None:
        self._run_id = run_id
        self._caller = caller
        self._store = opened.store
        self._zero_s = time.monotonic()
        self.log = RunLog(run_id, opened.store, SystemClock())

    def emit(self, kind: str, /, task_id: str | None = None, attempt: int | None = None, **payload: Json) -> None:
        """Add a progress line."""
        self.log.emit(kind, task_id, attempt, **payload)

    async def save(self, task: TaskRecord) -> None:
        """Commit the task's row with every line so far."""
        await self.log.commit(lambda lines: self._store.record_task(self._run_id, task, lines))

    def add_notes(self, task_id: str, notes: Sequence[str]) -> None:
        """Nobody reads them here."""

    def now_s(self) -> float:
        """Return seconds since the run began."""
        return time.monotonic() - self._zero_s

    def spent(self, task_id: str) -> tuple[Usage, str | None]:
        """Return usage and cost of a task."""
        return self._caller.usage(task_id), self._caller.cost_usd(task_id)


async def flow_of(plan: Plan, run_id: str, opened: stage.Stage) -> TaskFlow:
    """Return a flow of ``plan`` whose run is in the journal."""
    clock, prompts = SystemClock(), Prompts.load()
    now_s = clock.wall_s()
    record = RunRecord(
        run_id=run_id,
        status=RunStatus.RUNNING,
        request=RunRequest(text="Do the work on every part.", timeout_s=RUN_TIMEOUT_S),
        created_s=now_s,
        updated_s=now_s,
        plan=plan,
    )
    await opened.store.create_run(record)
    await opened.store.record_plan(run_id, plan, [])
    caller = RunCaller(
        opened.dispatcher,
        RunJournal(opened.store, run_id, record.epoch, on_lost=lambda: None),
        clock,
        books=RunBooks(lambda: opened.orchestra, clock, Owners(tenant=opened.orchestra.tenant, run=run_id)),
        limits=RunLimits(tokens_max=None, retry_share=0.2),
        on_failure=_say_failure,
    )
    return TaskFlow(
        plan=plan,
        context=RunContext.of(record, _Tools(clock, opened)),
        worker=Worker(caller, opened.orchestra, prompts),
        judge=Judge(caller, opened.orchestra, prompts),
        book=Book(run_id, caller, opened),
        redo_max=0,
    )


class _Tools:
    def __init__(self, clock: SystemClock, opened: stage.Stage) -> None:
        self.clock = clock
        self.orchestra = opened.orchestra


def _say_failure(call: ModelCall, error: UpstreamError, again: bool) -> None:
    print(f"failed: {call.call_id}: {error.message}", file=sys.stderr)


async def timed(work: Callable[[], Awaitable[object]]) -> tuple[float, dict[str, float], float]:
    """Return wall seconds, CPU seconds by kind of process, and the share of the cores that others took."""
    before, busy_s = processes.cpu_seconds(processes.tree()), processes.machine_cpu_seconds()
    began = time.monotonic()
    await work()
    wall_s = time.monotonic() - began
    cpu_s = processes.cpu_between(before, processes.cpu_seconds(processes.tree()))
    busy_s = processes.machine_cpu_seconds() - busy_s
    return wall_s, cpu_s, processes.others_share(busy_s, cpu_s, wall_s)


async def measure(shapes: Sequence[Shape]) -> list[Found]:
    """Play every shape once, after a few tasks that warm up connections and imports; needs a connected cluster."""
    accounts = [
        stage.account(
            f"a{number}",
            "http://127.0.0.1:9/v1",  # never used
            limits={"concurrency": CONCURRENCY},
            options={"adapter": sleeping.NAME},
        )
        for number in range(ACCOUNTS)
    ]
    found = []
    with tempfile.TemporaryDirectory(prefix="tutti-bench-") as folder:
        async with stage.opened(stage.configuration(*accounts, data_dir=f"{folder}/data")) as opened:
            await (await flow_of(plan_of(Shape(name="warm", layers=2, width=40)), "warm", opened)).play({})
            for shape in shapes:
                plan = plan_of(shape)
                bare_s, bare_cpu_s, _ = await timed(lambda plan=plan: bare(plan))  # type: ignore[misc]
                flow = await flow_of(plan, f"run-{shape.name}", opened)
                ours_s, cpu_s, others_share = await timed(lambda flow=flow: flow.play({}))  # type: ignore[misc]
                completed = sum(item.record.state is TaskState.COMPLETED for item in flow.played.values())
                found.append(
                    Found(
                        shape=shape,
                        completed=completed,
                        bound=bound_of(plan),
                        bare_s=bare_s,
                        bare_cpu_s=bare_cpu_s.get("driver", 0.0),
                        ours_s=ours_s,
                        cpu_s=cpu_s,
                        others_share=others_share,
                    )
                )
    return found


def rows(found: Sequence[Found]) -> list[list[str]]:
    """Return the table."""
    head = ["DAG", "tasks", "bound", "bare asyncio", "Tutti", "Tutti / bound", "Tutti / bare"]
    head += ["overhead a task, wall", "CPU a task", "bare CPU a task", "others, of all cores"]
    return [head] + [
        [
            f"{item.shape.name}, {item.shape.layers} x {item.shape.width}",
            f"{item.completed} of {item.shape.tasks}",
            f"{item.bound.seconds:.2f} s",
            f"{item.bare_s:.2f} s",
            f"{item.ours_s:.2f} s",
            f"{item.ours_s / item.bound.seconds:.1f} x",
            f"{item.ours_s / item.bare_s:.1f} x",
            f"{item.wall_ms:.2f} ms",
            f"{item.cpu_ms:.2f} ms",
            f"{item.bare_cpu_s / item.shape.tasks * 1e3:.2f} ms",
            f"{item.others_share:.0%}",
        ]
        for item in found
    ]


def document(found: Sequence[Found]) -> dict[str, Json]:
    """Return everything measured, as JSON."""
    return {
        "task_s": sleeping.TASK_S,
        "accounts": ACCOUNTS,
        "concurrency": CONCURRENCY,
        "shapes": {
            item.shape.name: {
                "tasks": item.shape.tasks,
                "completed": item.completed,
                "lower_bound_s": round(item.bound.seconds, 3),
                "binding": item.bound.binding,
                "bare_s": round(item.bare_s, 3),
                "bare_cpu_s": round(item.bare_cpu_s, 3),
                "ours_s": round(item.ours_s, 3),
                "overhead_wall_ms": round(item.wall_ms, 3),
                "overhead_cpu_ms": round(item.cpu_ms, 3),
                "cpu_s": dict(item.cpu_s),
                "others_share": item.others_share,
            }
            for item in found
        },
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 1 where a task did not complete."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dag", description=__doc__)
    parser.add_argument("--short", action="store_true", help="400 tasks instead of 2 000")
    chosen = parser.parse_args(arguments)
    on = report.machine()
    with tempfile.TemporaryDirectory(prefix="tutti-bench-plugin-") as folder:
        sleeping.install(Path(folder))
        inherited = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, str(stage.ROOT), inherited)))
        cluster.start_local(namespace="benchmarks")
        try:
            found = asyncio.run(measure(SHORT if chosen.short else FULL))
        finally:
            cluster.stop()
    report.publish("dag", short=chosen.short, on=on, rows=rows(found), found=document(found))
    for item in found:
        print(f"\nCPU seconds, {item.shape.name}: {report.said(item.cpu_s)}", flush=True)
    return 0 if all(item.completed == item.shape.tasks for item in found) else 1


if __name__ == "__main__":
    sys.exit(main())
