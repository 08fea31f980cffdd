"""What a hundred runs at once cost, and how long they stand still when the coordinator or the store is killed.

100 runs of 50 tasks are accepted at once and conducted by the real coordinator over account actors and HTTP to the
simulator, which plans, works, merges and evaluates from a script. Once undisturbed (the baseline), once with SIGKILL of
the coordinator and once with SIGKILL of the store when half of the tasks are done. Bills are the simulator's, never
ours. Exit status 1 where a run was lost or did not complete, more was bought than the endpoint's class allows, or the
books were below the bills.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import signal
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from actors import bootstrap, cluster
from actors.desk_handle import DeskHandle
from actors.store_handle import StoreHandle
from app import settings
from app.domain.chat import Json
from app.domain.run import RunRequest
from app.services.evaluate import TASKS_PER_CALL
from benchmarks import processes, report, stage
from benchmarks.runs_survive_watch import Bills, JournalFile, actor, bills, final_bills, private_mib
from tests.fakes import scripted
from tests.fakes.simulated import Simulator, running_simulator

ACCOUNTS = 8
CONCURRENCY = 16
LAYERS = 5
LOOK_S = 0.1
MEMORY_EVERY = 10
"""Looks between two looks at memory, which is dearer."""
WITHIN_S = 1_800.0
WATCHED = ("Coordinator", "Store")
WARM_UP = "0"
"""Number of the survey that warms up connections and imports; it is in no figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is played."""

    runs: int
    tasks: int
    latency_s: float

    @property
    def calls_a_run(self) -> int:
        """Model calls that a run needs: clarify, plan, one a task, merge, evaluate in parts."""
        return 3 + self.tasks + math.ceil(self.tasks / TASKS_PER_CALL)

    @property
    def bound_s(self) -> float:
        """No schedule on these accounts is shorter: all calls over all slots, or the longest chain of one run."""
        slots = ACCOUNTS * CONCURRENCY
        return max(self.runs * self.calls_a_run / slots, 4 + LAYERS) * self.latency_s


FULL = Size(runs=100, tasks=50, latency_s=1.0)
SHORT = Size(runs=10, tasks=10, latency_s=0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed:
    """What a SIGKILL did."""

    victim: str
    open_calls: int
    """Without a result in the journal at that moment."""
    under_way: int
    """Of them at the provider."""
    back_s: float
    """Until the actor answered again."""
    first_s: float
    half_s: float
    all_s: float
    """Until the first run, half of the runs, and all of them had written something new to the journal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """How the runs went."""

    name: str
    size: Size
    completed: int
    wall_s: float
    cpu_s: Mapping[str, float]
    others_share: float
    memory_before: Mapping[str, float]
    memory_most: Mapping[str, float]
    """MiB by actor's class; private, so that pages shared with other processes do not count."""
    bills: Bills
    calls: Mapping[str, int]
    """In the journal, by state."""
    books_below: int
    """Moments at which the books were below the bills, in tokens."""
    killed: Killed | None

    @property
    def tasks(self) -> int:
        """Over all runs."""
        return self.size.runs * self.size.tasks

    @property
    def cpu_ms(self) -> float:
        """CPU of our processes and Ray's a task, in milliseconds."""
        return sum(self.cpu_s.values()) / self.tasks * 1e3

    @property
    def wall_ms(self) -> float:
        """Wall time a task beyond the bound, in milliseconds."""
        return (self.wall_s - self.size.bound_s) / self.tasks * 1e3

    @property
    def duplicates(self) -> int:
        """Bills beyond one for each answer that the runs needed."""
        return self.bills.requests - self.size.runs * self.size.calls_a_run

    @property
    def memory_a_run(self) -> dict[str, float]:
        """MiB that each actor grew by, over the runs; nothing where it was another process in between."""
        return {
            name: (self.memory_most[name] - before) / self.size.runs
            for name, before in self.memory_before.items()
            if self.killed is None or self.killed.victim != name
        }

    def violations(self) -> list[str]:
        """Return what must not happen and did."""
        needed = self.size.runs * self.size.calls_a_run
        found = []
        if self.completed != self.size.runs:
            found.append(f"{self.size.runs - self.completed} of {self.size.runs} runs did not complete")
        if self.calls.get("done", 0) < needed:
            found.append(f"{self.calls.get('done', 0)} answers in the journal, {needed} were needed")
        allowed = self.killed.open_calls if self.killed is not None and self.killed.victim == "Coordinator" else 0
        if not 0 <= self.duplicates <= allowed:
            found.append(f"{self.duplicates} bills beyond one a call, at most {allowed} are allowed")
        if self.books_below:
            found.append(f"the books were below the bills at {self.books_below} moments")
        return [f"{self.name}: {what}" for what in found]


def rules(size: Size) -> list[dict[str, Any]]:
    """Return the simulator's script: a plan for every survey by its number, and the work on its parts."""
    width = size.tasks // LAYERS
    ids = [f"t{number}" for number in range(1, size.tasks + 1)]
    plan = {
        "goal_restated": "Survey {n}",
        "assumptions": [],
        "decomposition_reason": "The parts are independent.",
        "tasks": [
            {
                "id": name,
                "title": f"Part {number} of survey {{n}}",
                "instruction": f"Describe part {number} of survey {{n}} well.",
                "out_of_scope": "",
                "depends_on": [{"task_id": ids[number - 1 - width], "uses": "its result"}] if number > width else [],
                "capability": "general",
                "min_tier": "cheap",
                "expected_output": {"format": "text", "description": "", "max_words": None},
                "acceptance_criteria": [
                    {"id": "c1", "statement": "It is there.", "check": "not_empty", "check_arg": None, "must": True}
                ],
                "effort": "S",
                "side_effects": False,
            }
            for number, name in enumerate(ids, 1)
        ],
        "merge": {"strategy": "synthesise", "instruction": "One answer.", "covers": ["all parts"]},
    }
    work = r"\AROLE: worker v1.*\nTASK: Part (?P<k>\d+) of survey (?P<n>\d+)\n"
    answer = "Every part of the survey is described well " + "".join(f"[{name}]" for name in ids)
    return [
        {"match": {"regex": work}, "text": "Part {k} of survey {n} is described well and whole."},
        {"match": {"regex": r"\AROLE: planner v1.*survey (?P<n>\d+)"}, "json": plan},
        {"match": {"regex": r"\AROLE: merger v1"}, "json": scripted.merged(answer)},
    ]


def configuration(url: str, data_dir: Path, size: Size) -> dict[str, Any]:
    """Return accounts that bind nobody but by their slots, one call a task: no judge, nothing redone."""
    accounts = [
        stage.account(f"a{number}", f"{url}/v1", limits={"concurrency": CONCURRENCY}) for number in range(ACCOUNTS)
    ]
    document = stage.configuration(*accounts, data_dir=str(data_dir))
    return {**document, "coordinator": {"model": stage.MODEL, "max_tasks": size.tasks, "max_redo": 0}}


class Scene:
    """Our actors, and everything that is watched of them.

    Args:
        desk: The way in.
        store: The journal, for its liveness.
        file: The journal's file.
        simulator: The provider.
    """

    def __init__(self, desk: DeskHandle, store: StoreHandle, file: JournalFile, simulator: Simulator) -> None:
        self._desk = desk
        self._store = store
        self._file = file
        self._simulator = simulator
        self._booked_before = 0
        self._looks = 0
        self.books_below = 0
        self.memory_most: dict[str, float] = {}

    async def begin(self, numbers: Sequence[str]) -> list[str]:
        """Have runs accepted all at once; return their ids."""
        texts = [f"Write survey {number} of the town: describe every part of it well." for number in numbers]
        records = await asyncio.gather(*(self._desk.start(RunRequest(text=text)) for text in texts))
        return [record.run_id for record in records]

    async def warm_up(self) -> None:
        """Play one run, so that the first counted one finds everything imported and connected."""
        await self.until_ended(await self.begin([WARM_UP]))
        self._booked_before = self._file.tokens_booked()
        self.memory_most = {}

    async def until_ended(self, run_ids: Sequence[str]) -> None:
        """Wait until every run has ended."""
        async with asyncio.timeout(WITHIN_S):
            while not all(stand.ended for stand in self._file.stands(run_ids).values()):
                await self._pause()

    async def until_done(self, tasks: int) -> None:
        """Wait until so many tasks are completed."""
        async with asyncio.timeout(WITHIN_S):
            while self._file.tasks_done() < tasks:
                await self._pause()

    async def kill(self, victim: str, run_ids: Sequence[str]) -> Killed:
        """Kill an actor's process and wait until every run that had not ended goes on."""
        process = actor(victim)
        going = [name for name, stand in self._file.stands(run_ids).items() if not stand.ended]
        under_way = bills(self._simulator).under_way
        killed_s, began = time.time(), time.monotonic()
        os.kill(process.pid, signal.SIGKILL)
        open_calls = self._file.calls().get("sent", 0)
        answering = asyncio.create_task(self._until_it_answers(victim))
        waiting, seen_s = set(going), []
        async with asyncio.timeout(WITHIN_S):
            while waiting:
                stands = self._file.stands(waiting)
                on = {name for name, stand in stands.items() if stand.ended or stand.last_s > killed_s}
                seen_s += [time.monotonic() - began] * len(on)
                waiting -= on
                await self._pause()
        back_s = await answering - began
        print(f"{victim} killed: {len(going)} runs were going, all go on after {seen_s[-1]:.1f} s", flush=True)
        return Killed(
            victim=victim,
            open_calls=open_calls,
            under_way=under_way,
            back_s=back_s,
            first_s=seen_s[0],
            half_s=seen_s[len(seen_s) // 2],
            all_s=seen_s[-1],
        )

    def look_at_books(self) -> None:
        """Compare the books with the bills, which are read first and so are the older ones."""
        billed = bills(self._simulator).tokens
        self.books_below += self._file.tokens_booked() - self._booked_before < billed

    async def _until_it_answers(self, victim: str) -> float:
        name = "store" if victim == "Store" else "coordinator"
        async with asyncio.timeout(WITHIN_S):
            while (await self._desk.ready())[name] != "ok":  # noqa: ASYNC110  another process
                await asyncio.sleep(LOOK_S)
        return time.monotonic()

    async def _pause(self) -> None:
        self._looks += 1
        if self._looks % MEMORY_EVERY == 0:
            self.look_at_books()
            for name, size in private_mib(WATCHED).items():
                self.memory_most[name] = max(size, self.memory_most.get(name, 0.0))
        await asyncio.sleep(LOOK_S)


async def play(size: Size, victim: str | None, simulator: Simulator, folder: Path) -> Played:
    """Play all runs in a namespace of their own, killing ``victim`` when half of the tasks are done."""
    namespace = f"bench-{uuid.uuid4().hex[:8]}"
    data_dir = folder / (victim or "undisturbed")
    orchestra = settings.load_mapping(configuration(simulator.url, data_dir, size), source="benchmark")
    simulator.reset(*rules(size))
    desk = await bootstrap.ensure(orchestra, namespace=namespace)
    try:
        file = JournalFile(data_dir)
        scene = Scene(desk, StoreHandle(namespace), file, simulator)
        await scene.warm_up()
        simulator.reset(*rules(size))
        before = private_mib(WATCHED)
        window = Window()
        run_ids = await scene.begin([str(number) for number in range(1, size.runs + 1)])
        killed = None
        if victim is not None:
            await scene.until_done(size.tasks + size.runs * size.tasks // 2)
            window.note()
            killed = await scene.kill(victim, run_ids)
        await scene.until_ended(run_ids)
        wall_s, cpu_s, others_share = window.close()
        final = final_bills(simulator)
        scene.look_at_books()
        statuses = Counter(stand.status for stand in file.stands(run_ids).values())
        calls = Counter(file.calls())
        calls["done"] -= size.calls_a_run  # those of the warming up
        return Played(
            name=f"{victim.lower()} killed" if victim else "undisturbed",
            size=size,
            completed=statuses["completed"],
            wall_s=wall_s,
            cpu_s=cpu_s,
            others_share=others_share,
            memory_before=before,
            memory_most=scene.memory_most,
            bills=final,
            calls=calls,
            books_below=scene.books_below + len(await StoreHandle(namespace).verify_books()),
            killed=killed,
        )
    finally:
        await bootstrap.end(namespace=namespace, timeout_s=5.0)


class Window:
    """Wall and CPU seconds from its making to ``close``; what a killed process took is kept by ``note``."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy_s = processes.machine_cpu_seconds()
        self._before = processes.cpu_seconds(processes.tree())
        self._noted: Counter[str] = Counter()
        self._since = self._before

    def note(self) -> None:
        """Keep what was spent until now: a process may be about to end."""
        now = processes.cpu_seconds(processes.tree())
        self._noted.update(processes.cpu_between(self._since, now))
        self._since = now

    def close(self) -> tuple[float, dict[str, float], float]:
        """Return wall seconds, CPU seconds of ours by kind of process, and the share of the cores others took."""
        self.note()
        wall_s = time.monotonic() - self._began
        every = {name: round(float(seconds), 2) for name, seconds in self._noted.most_common()}
        share = processes.others_share(processes.machine_cpu_seconds() - self._busy_s, every, wall_s)
        ours = {name: seconds for name, seconds in every.items() if name not in ("simulator", "driver")}
        return wall_s, ours, share


def rows(found: Sequence[Played]) -> list[list[str]]:
    """Return the table; each case is compared with the undisturbed one of the same run."""
    first = found[0]
    head = ["case", "runs completed", "wall", "of undisturbed", "beyond the bound, a task", "CPU a task"]
    head += ["of undisturbed", *(f"{name}, memory a run" for name in WATCHED), "others, of all cores"]
    return [head] + [
        [
            each.name,
            f"{each.completed} of {each.size.runs}",
            f"{each.wall_s:.1f} s",
            f"{each.wall_s / first.wall_s:.2f} x",
            f"{each.wall_ms:.1f} ms",
            f"{each.cpu_ms:.1f} ms",
            f"{each.cpu_ms / first.cpu_ms:.2f} x",
            *(f"{each.memory_a_run[name]:.2f} MiB" if name in each.memory_a_run else "" for name in WATCHED),
            f"{each.others_share:.0%}",
        ]
        for each in found
    ]


def death_rows(found: Sequence[Played]) -> list[list[str]]:
    """Return the table of what a SIGKILL did."""
    head = ["killed", "it answers again", "first run goes on", "half of them", "all", "calls without a result then"]
    head += ["at the provider then", "billed twice", "books below bills"]
    return [head] + [
        [
            each.killed.victim.lower(),
            *(f"{seconds:.1f} s" for seconds in (each.killed.back_s, each.killed.first_s, each.killed.half_s)),
            f"{each.killed.all_s:.1f} s",
            str(each.killed.open_calls),
            str(each.killed.under_way),
            str(each.duplicates),
            str(each.books_below),
        ]
        for each in found
        if each.killed is not None
    ]


def document(found: Sequence[Played]) -> dict[str, Json]:
    """Return everything measured, as JSON."""
    size = found[0].size
    return {
        "runs": size.runs,
        "tasks_a_run": size.tasks,
        "calls_a_run": size.calls_a_run,
        "latency_s": size.latency_s,
        "bound_s": size.bound_s,
        "cases": {each.name: _case(each) for each in found},
    }


def _case(each: Played) -> dict[str, Json]:
    killed = each.killed
    return {
        "completed": each.completed,
        "wall_s": round(each.wall_s, 2),
        "overhead_wall_ms": round(each.wall_ms, 2),
        "overhead_cpu_ms": round(each.cpu_ms, 2),
        "cpu_s": dict(each.cpu_s),
        "others_share": each.others_share,
        "memory_a_run_mib": {name: round(size, 3) for name, size in each.memory_a_run.items()},
        "memory_before_mib": {name: round(size, 1) for name, size in each.memory_before.items()},
        "bills": each.bills.requests,
        "billed_twice": each.duplicates,
        "calls": dict(each.calls),
        "books_below": each.books_below,
        "killed": None
        if killed is None
        else {
            "victim": killed.victim,
            "open_calls": killed.open_calls,
            "under_way": killed.under_way,
            **{f"{name}_s": round(getattr(killed, f"{name}_s"), 2) for name in ("back", "first", "half", "all")},
        },
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 1 where anything was lost, bought too often, or not booked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runs_survive", description=__doc__)
    parser.add_argument("--short", action="store_true", help=f"{SHORT.runs} runs of {SHORT.tasks} tasks")
    parser.add_argument("--runs", type=int, help="how many runs")
    parser.add_argument("--only", nargs="*", choices=("undisturbed", *WATCHED), help="some of the cases")
    chosen = parser.parse_args(arguments)
    size = SHORT if chosen.short else FULL
    size = replace(size, runs=chosen.runs or size.runs)
    cases = [None if name == "undisturbed" else name for name in chosen.only or ("undisturbed", *WATCHED)]
    on = report.machine()
    found = []
    with tempfile.TemporaryDirectory(prefix="tutti-survive-") as folder:
        path = Path(folder) / "provider.yaml"
        path.write_text(yaml.safe_dump(_provider(size)), encoding="utf-8")
        with running_simulator(path) as simulator:
            cluster.start_local(namespace="benchmarks")
            try:
                for victim in cases:
                    found.append(asyncio.run(play(size, victim, simulator, Path(folder))))
                    print(f"{found[-1].name}: CPU seconds: {report.said(found[-1].cpu_s)}", flush=True)
            finally:
                cluster.stop()
    report.publish("runs_survive", short=size != FULL, on=on, rows=rows(found), found=document(found))
    print("\n" + report.table(death_rows(found)), flush=True)
    wrong = [what for each in found for what in each.violations()]
    print("\n".join(wrong), file=sys.stderr, flush=True)
    return 1 if wrong else 0


def _provider(size: Size) -> dict[str, Json]:
    """Return the simulator's configuration: it bills what it accepted, whoever leaves."""
    latency: dict[str, Json] = {"kind": "constant", "mean_s": size.latency_s}
    return {"host": "127.0.0.1", "port": 0, "profile": {"latency": latency}, "bill_on_disconnect": "all"}


if __name__ == "__main__":
    sys.exit(main())
