"""Crash points under Ray: the coordinator, an account's actor or a Serve replica killed at every named point of a call.

python -m tests.torture.crash_ray [--sample N] [--seed N] [--page FILE]; exits with 1 on any violation. One cluster
plays all of it; Ray and Serve start what died. ``crash_matrix`` has pairs and triples, in plain processes.
"""

from __future__ import annotations

import argparse
import platform
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import httpx

from actors.bootstrap import COORDINATOR, DIRECTORY
from app.domain.accounts import EndpointClass
from app.domain.crash_points import CrashPoint
from benchmarks.report import table
from tests.torture.crash_play import Bills, Figures
from tests.torture.crash_ray_stage import CLASSES, RayStage, freeze, is_dead, key_of, opened, until

Victim = Literal["replica", "coordinator", "account"]
SENDING = (CrashPoint.BEFORE_SEND, CrashPoint.ACCEPTED, CrashPoint.RECEIVED)
"""Passed where the call is made: of a run's, in the account's actor."""
RECOVERY = (CrashPoint.RECOVERING, CrashPoint.RECOVERED)
OF_A_CALL = tuple(point for point in CrashPoint if point not in RECOVERY)
GATEWAY_CLASSES = ("opaque", "idempotent", "lookup")
STAGE_CALLS = 2
"""Calls of a run before that of its task: clarify, plan."""
SEVERAL = frozenset({EndpointClass.REATTACH, EndpointClass.BATCH})
"""A call is several requests there; a process may die at its second one too."""
ENDED = ("completed", "partial", "failed", "cancelled")
PARKED = "needs_answers"
DONE_WITHIN_S = 180.0
ASK_PAUSE_S = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Single:
    """One death: who, where, and what its endpoint offers."""

    victim: Victim
    point: CrashPoint
    endpoint: str
    """Of ``crash_ray_stage.CLASSES``."""
    request: int = 1
    """Which request of the call passes the point."""

    @property
    def row(self) -> tuple[str, str]:
        """Where the table has it."""
        return self.victim, self.endpoint.replace("_", ", ")

    @property
    def name(self) -> str:
        """For people."""
        return f"{', '.join(self.row)}, {self.point.value}" + (f":{self.request}" if self.request > 1 else "")

    @property
    def is_known(self) -> bool:
        """Tell whether it is found out what became of the call, wherever it was lost."""
        endpoint, _on_unknown = CLASSES[self.endpoint]
        if endpoint is EndpointClass.REATTACH:
            # From its first byte to the commit of the provider's name for it, a call is as one at an opaque endpoint.
            return self.request > 1 or self.point not in (*SENDING, *RECOVERY)
        return endpoint is not EndpointClass.OPAQUE

    @property
    def asks_first(self) -> bool:
        """Tell whether a person decides on a call of which nobody knows."""
        _endpoint, on_unknown = CLASSES[self.endpoint]
        return on_unknown == "hold"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of it."""

    single: Single
    died: int
    """Processes that were really killed."""
    ended: str
    """As the client was told in the end."""
    bills: Bills
    task_bills: int
    """Of them for the one call that was to be made."""
    nano: Figures
    tokens: Figures
    below: tuple[str, ...]
    """Moments at which the books were below the bills."""
    seconds: float
    failed: str = ""
    """Why it did not come to its end."""

    def violations(self) -> list[str]:
        """Return what must not happen and did."""
        single, found = self.single, list(self.below)
        if self.failed:
            return [f"{single.name}: {self.failed}"]
        deaths = 2 if single.point in RECOVERY else 1
        if self.died != deaths:
            found.append(f"{self.died} processes died, {deaths} were to")
        # The first bill of all is the answer's; each death may have lost one more.
        allowed = 1 if single.is_known or single.asks_first else 1 + self.died
        if self.task_bills > allowed:
            found.append(f"{self.task_bills} bills for one call, at most {allowed} are allowed")
        parked = self.ended == PARKED and single.asks_first and not single.is_known
        if self.ended != "completed" and not parked:
            found.append(f"it ended as {self.ended!r}")
        if not parked and not self.task_bills:
            found.append("an answer without a bill: the count is wrong")
        # What a replica held when it died stays unknown: its hold covered other calls too.
        if single.victim != "replica" and single.is_known and self.nano.total != self.bills.nano:
            found.append(f"the books say {self.nano}, the bills {self.bills.nano} nano-dollars")
        return [f"{single.name}: {what}" for what in found]


def singles() -> list[Single]:
    """Return every death of one process at one point; at the two of a recovery, the second death of a coordinator."""
    replica: list[Single] = [
        Single(victim="replica", point=point, endpoint=endpoint) for endpoint in GATEWAY_CLASSES for point in OF_A_CALL
    ]
    return replica + _of_runs("coordinator", tuple(CrashPoint)) + _of_runs("account", SENDING)


def _of_runs(victim: Victim, points: Sequence[CrashPoint]) -> list[Single]:
    every = []
    for name, (endpoint, _on_unknown) in CLASSES.items():
        every += [Single(victim=victim, point=point, endpoint=name) for point in points]
        if endpoint in SEVERAL:
            every += [Single(victim=victim, point=point, endpoint=name, request=2) for point in SENDING]
    return every


def sampled(count: int, seed: int) -> list[Single]:
    """Return ``count`` singles drawn by a seed, of every kind of victim as many as can be."""
    chance = random.Random(seed)
    kinds: dict[Victim, list[Single]] = {}
    for single in singles():
        kinds.setdefault(single.victim, []).append(single)
    for of_kind in kinds.values():
        chance.shuffle(of_kind)
    order = list(kinds.values())
    return [order[number % len(order)][number // len(order)] for number in range(count)]


@dataclass(slots=True)
class _Case:
    """A case that is being played."""

    stage: RayStage
    number: int
    single: Single
    died: int = 0
    below: list[str] = field(default_factory=list)

    @property
    def client(self) -> httpx.Client:
        """Return a client with the case's key; each request on a connection of its own."""
        return httpx.Client(headers={"authorization": f"Bearer {key_of(self.number)}"}, timeout=30, verify=False)

    def kill_at(self, name: str, point: CrashPoint, *, victim: str, passing: int = 1) -> int:
        """Have ``victim`` killed where ``name`` passes the point; return the victim's process."""
        pid = self.stage.pid_of(victim)
        self.stage.tell(arm=name, point=point.value, passing=passing, victim=victim)
        return pid

    def wait_for_death(self, pid: int) -> None:
        """Wait until the process has been killed, and look at the books that it leaves."""
        until(lambda: is_dead(pid), what=f"{self.single.name}: it passed no such point")
        self.died += 1
        self.look(f"after death {self.died}")

    def look(self, moment: str) -> tuple[Bills, Figures, Figures]:
        """Compare the case's books with its bills."""
        bills = self.stage.bills()
        nano, tokens = self.stage.figures(self.number)
        if nano.total < bills.nano:
            self.below.append(f"{moment}: {nano} are less than {bills.nano} nano-dollars")
        if tokens.total < bills.input_tokens + bills.output_tokens:
            self.below.append(f"{moment}: {tokens} are less than {bills} tokens")
        return bills, nano, tokens


def play(stage: RayStage, number: int, single: Single) -> Outcome:
    """Play one death: arm, ask, let Ray start what died, and look at answer, bills and books in the end."""
    began = time.monotonic()
    stage.wait_until_ready()
    httpx.post(f"{stage.simulator.url}/__reset", timeout=30).raise_for_status()
    case, ended, failed = _Case(stage, number, single), "", ""
    try:
        ended = _ask_as_client(case) if single.victim == "replica" else _ask_as_project(case)
    except AssertionError as error:
        failed = str(error)
        stage.disarm()
    bills, nano, tokens = case.look("in the end")
    return Outcome(
        single=single,
        died=case.died,
        ended=ended,
        bills=bills,
        task_bills=stage.bills_of(single.endpoint),
        nano=nano,
        tokens=tokens,
        below=tuple(case.below),
        seconds=time.monotonic() - began,
        failed=failed,
    )


def _ask_as_client(case: _Case) -> str:
    """Ask the gateway as a client does that asks again until it has an answer."""
    replica = case.stage.replica()
    pid = case.kill_at(replica, case.single.point, victim=replica)
    body = {
        "model": case.single.endpoint,
        "messages": [{"role": "user", "content": "How many bills does a crash make?"}],
        "max_tokens": 64,
    }
    headers = {} if case.single.endpoint == "opaque" else {"idempotency-key": f"case-{case.number}"}
    until_s, status = time.monotonic() + DONE_WITHIN_S, 0
    while status != httpx.codes.OK and time.monotonic() < until_s:
        try:
            with case.client as client:
                status = client.post(f"{case.stage.url}/v1/chat/completions", json=body, headers=headers).status_code
        except httpx.HTTPError:
            status = 0
        if status != httpx.codes.OK:
            time.sleep(ASK_PAUSE_S)
    # The books hear of the end within half a second of the answer.
    case.wait_for_death(pid)
    case.stage.replica(but=pid)
    return "completed" if status == httpx.codes.OK else f"HTTP {status}"


def _ask_as_project(case: _Case) -> str:
    """Have a run done whose task is made where the crash comes; wait for its end."""
    stage, single = case.stage, case.single
    point = CrashPoint.ACCEPTED if single.point in RECOVERY else single.point
    host = stage.host_of(single.endpoint)
    directory = stage.pid_of(DIRECTORY)
    if point in SENDING:
        victim = COORDINATOR if single.victim == "coordinator" else host
        pid = case.kill_at(host, point, victim=victim, passing=single.request)
    else:
        pid = case.kill_at(COORDINATOR, point, victim=COORDINATOR, passing=STAGE_CALLS + 1)
    text = f"Count the bills of class {single.endpoint} in case {case.number}."
    with case.client as client:
        run_id = _accepted(case, client, text)
    if single.point not in RECOVERY:
        case.wait_for_death(pid)
        return _end_of(case, run_id)
    # The next coordinator waits for the configuration, so that it can be armed before it recovers: it takes a second or
    # more to start. If this one should not have died by then, it does without the directory.
    freeze(directory)
    try:
        case.wait_for_death(pid)
        pid = stage.pid_of(COORDINATOR, but=pid)
        case.kill_at(COORDINATOR, single.point, victim=COORDINATOR)
    finally:
        freeze(directory, thaw=True)
    case.wait_for_death(pid)
    return _end_of(case, run_id)


def _accepted(case: _Case, client: httpx.Client, text: str) -> str:
    """Have a run accepted, asking again with the same key until it is; return its id."""
    run_id = ""
    headers = {"idempotency-key": f"case-{case.number}"}

    def accepted() -> bool:
        nonlocal run_id
        try:
            answer = client.post(f"{case.stage.url}/v1/projects", json={"request_text": text}, headers=headers)
        except httpx.HTTPError:
            return False
        run_id = str(answer.json().get("run_id", "")) if answer.status_code == httpx.codes.ACCEPTED else ""
        return bool(run_id)

    until(accepted, within_s=DONE_WITHIN_S, what="no run was accepted")
    return run_id


def _end_of(case: _Case, run_id: str) -> str:
    status = ""

    def ended() -> bool:
        nonlocal status
        try:
            with case.client as client:
                status = str(client.get(f"{case.stage.url}/v1/projects/{run_id}").json().get("status", ""))
        except (httpx.HTTPError, ValueError):
            return False
        return status in (*ENDED, PARKED)

    until(ended, within_s=DONE_WITHIN_S, what=f"{case.single.name}: the run has not ended, it is {status!r}")
    return status


def play_all(chosen: Sequence[Single], folder: Path) -> Iterator[Outcome]:
    """Play them one after the other on one cluster."""
    with opened(folder) as stage:
        for number, single in enumerate(chosen):
            yield play(stage, number, single)


def rows(record: Sequence[Outcome]) -> list[list[str]]:
    """Return the table: a row for every kind of victim and class of endpoint."""
    made = [["killed", "endpoint", "points", "deaths", "most bills a call", "billed twice", "parked", "books below"]]
    for row in dict.fromkeys(each.single.row for each in record):
        same = [each for each in record if each.single.row == row]
        made.append(
            [
                *row,
                str(len(same)),
                str(sum(each.died for each in same)),
                str(max(each.task_bills for each in same)),
                str(sum(each.task_bills > 1 for each in same)),
                str(sum(each.ended == PARKED for each in same)),
                str(sum(len(each.below) for each in same)),
            ]
        )
    return made


_PAGE = """\
# Crash points under Ray

`tutti serve` on a real Ray cluster: a process of it is killed (SIGKILL) at a named point of one call, Ray and Serve
start it again, and the client's answer, the provider's bills and the books of the client's key are compared.
`make crash-ray` plays all of it again and writes this page: {count} singles, {day}, Python {python}.
[crash-matrix.md](crash-matrix.md) has pairs and triples, in plain processes, and says what the endpoints' classes are.

{table}

{verdict}

- **replica**: one HTTP replica, killed during a gateway call; the client asks again until it has its answer.
- **coordinator**: killed during the call of a run's task, wherever the call just is; at the two points of a recovery
  it is the second death, of the coordinator that takes the run over.
- **account**: the actor that makes the call; the run's conductor lives.
- *Points*: a call at a `reattach` or `batch` endpoint is several requests, and the points of sending are played at the
  first and at the second: beginning the call and looking at it; handing over the batch's file and beginning the batch.
- *Billed twice*: deaths after which the task's call was billed a second time: allowed at opaque endpoints, and at
  `reattach` until the call's name there is in our journal, which is after its first request. *Parked*: the run asks a
  person, as `hold` wants it, and only where nobody can know.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.crash_ray", description=__doc__)
    parser.add_argument("--sample", type=int, help="so many of them, drawn by the seed (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="draws the sample (default 0)")
    parser.add_argument("--only", help="those whose name contains this")
    parser.add_argument("--page", type=Path, help="write the page there if nothing was violated")
    options = parser.parse_args(arguments)
    chosen = sampled(options.sample, options.seed) if options.sample else singles()
    chosen = [single for single in chosen if (options.only or "") in single.name]
    record, wrong = [], []
    with tempfile.TemporaryDirectory(prefix="tutti-crash-ray-", ignore_cleanup_errors=True) as folder:
        for outcome in play_all(chosen, Path(folder)):
            record.append(outcome)
            wrong += outcome.violations()
            said = "; ".join(outcome.violations()) or "as promised"
            bills = f"{outcome.task_bills} bills"
            print(f"{outcome.single.name}: {outcome.ended}, {bills}, {outcome.seconds:.1f} s: {said}", flush=True)
    print(f"\n{table(rows(record))}", flush=True)
    if wrong:
        print("\n".join(wrong), file=sys.stderr, flush=True)
        return 1
    if options.page is not None:
        options.page.write_text(page(record), encoding="utf-8")
    return 0


def page(record: Sequence[Outcome]) -> str:
    """Return the page of a record without violations."""
    return _PAGE.format(
        count=len(record),
        day=datetime.now(UTC).date().isoformat(),
        python=platform.python_version(),
        table=table(rows(record)),
        verdict="Nothing was violated.",
    )


if __name__ == "__main__":
    sys.exit(main())
