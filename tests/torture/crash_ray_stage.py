"""Where deaths on a real Ray cluster are played: a provider that bills, and one `tutti serve` for all of them.

Every case asks with a key of its own, and a budget for each key makes the books keep sums by key: bills and books of a
case can then be compared to the token, whatever cases before it have left open.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from app.domain.accounts import EndpointClass, OnUnknown
from app.domain.hosting import host_name
from app.storage.place import FILE_NAME
from benchmarks.gateway_peers import free_port
from benchmarks.stage import ROOT
from tests.fakes import scripted
from tests.fakes.simulated import Simulator, running_simulator
from tests.torture.crash_life import LOOKUP_LAG_S
from tests.torture.crash_play import Bills, Figures, simulator_document
from tests.torture.crash_ray_server import REPLICA
from tests.torture.stage import environment

CLASSES: dict[str, tuple[EndpointClass, OnUnknown]] = {
    "opaque": (EndpointClass.OPAQUE, "retry"),
    "opaque_hold": (EndpointClass.OPAQUE, "hold"),
    "idempotent": (EndpointClass.IDEMPOTENT, "retry"),
    "lookup": (EndpointClass.LOOKUP, "retry"),
    "reattach": (EndpointClass.REATTACH, "retry"),
    "reattach_hold": (EndpointClass.REATTACH, "hold"),
    "batch": (EndpointClass.BATCH, "retry"),
}
"""Accounts, their models and the types of tasks that they serve are called so."""
CHIEF = "chief"
"""Clarifies, plans and evaluates."""
BATCH_WINDOW_S = 0.05
KEYS_MAX = 200
"""At least as many as there are deaths to be played."""
STARTS = 3
"""On a busy machine Ray gives up waiting for its own parts."""
READY_S = 300.0
END_S = 60.0
LOG_CHARS = 2_000
WITHIN_S = 120.0
LOOK_S, START_LOOK_S = 0.1, 0.5
HTTP = httpx.Client(verify=False, timeout=5)
"""Loading certificates takes longer than a look."""
_FIGURES = """
SELECT ledger, SUM(debits_posted - credits_posted), SUM(debits_pending), SUM(debits_unknown)
FROM ledger_account WHERE owner_kind = 'key' AND owner_name = ? AND window_kind = 'total' GROUP BY ledger
"""


def rules() -> list[dict[str, Any]]:
    """Return what the provider says: a plan of one task of the class that the request names, and the work on it."""
    plan = {
        "goal_restated": "Class {c}",
        "assumptions": [],
        "decomposition_reason": "It is one task.",
        "tasks": [
            {
                "id": "t1",
                "title": "Count",
                "instruction": "Say how many bills a crash makes, in case {n}.",
                "out_of_scope": "",
                "depends_on": [],
                "capability": "{c}",
                "min_tier": "cheap",
                "expected_output": {"format": "text", "description": "", "max_words": None},
                "acceptance_criteria": [
                    {"id": "c1", "statement": "It is there.", "check": "not_empty", "check_arg": None, "must": True}
                ],
                "effort": "S",
                "side_effects": False,
            }
        ],
        "merge": {"strategy": "synthesise", "instruction": "One answer.", "covers": ["the bills"]},
    }
    return [
        {"match": {"regex": r"\AROLE: planner v1.*of class (?P<c>\w+) in case (?P<n>\d+)"}, "json": plan},
        {"match": {"regex": r"\AROLE: worker v1"}, "text": "A crash makes at most two bills, and often only one."},
    ]


def configuration(url: str, data_dir: Path) -> dict[str, Any]:
    """Return the server's configuration: an actor for each account, so that each can be armed alone."""
    accounts = [
        {
            "name": name,
            "provider": "custom",
            "base_url": f"{url}/v1",
            "api_key": f"sk-{name}",
            "models": [name],
            "limits": {"concurrency": 16},
            "endpoint": endpoint.value,
            "lookup_lag_s": LOOKUP_LAG_S,
            "batch_window_s": BATCH_WINDOW_S,
        }
        for name, (endpoint, _on_unknown) in {CHIEF: CLASSES["opaque"], **CLASSES}.items()
    ]
    model = {
        "family": "f",
        "tier": "standard",
        "structured": "schema",
        "context_tokens": 100_000,
        "output_tokens_max": 16_000,
        "input_usd_per_mtok": 1,
        "output_usd_per_mtok": 4,
    }
    routes = {name: {"primary": [name], "on_unknown": on_unknown} for name, (_endpoint, on_unknown) in CLASSES.items()}
    return {
        "accounts": accounts,
        "coordinator": {"model": CHIEF},
        "routing": routes,
        "models": dict.fromkeys((CHIEF, *CLASSES), model),
        "auth": {"keys": [{"name": f"case-{number}", "key": key_of(number)} for number in range(KEYS_MAX)]},
        "budgets": [{"for": "key:*", "window": "total", "usd": 1_000, "tokens": 1_000_000_000}],
        "data_dir": str(data_dir),
    }


def key_of(number: int) -> str:
    """Return the secret of a case's key."""
    return f"key-of-case-{number}"


@dataclass(slots=True)
class RayStage:
    """A running server, the provider behind it, and its books."""

    url: str
    simulator: Simulator
    process: subprocess.Popen[str]
    data_dir: Path

    def tell(self, **command: Any) -> dict[str, Any]:
        """Give the server a command; return its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        line = ""
        while not line.startswith("{"):  # Ray prints now and then, and Tutti says that it is ready
            line = self.process.stdout.readline()
            assert line, "the server has ended"
        answer = dict(json.loads(line))
        assert "error" not in answer, answer
        return answer

    def pids(self) -> dict[str, int]:
        """Return the processes of the actors that live, by name."""
        return dict(self.tell(pids=True)["pids"])

    def disarm(self) -> None:
        """Switch every point off that a case left armed: it did not come to it."""
        for name in self.pids():
            self.tell(disarm=name)

    def replica(self, *, but: int = 0) -> str:
        """Return the name of the one replica, once it lives in another process than ``but``: each has its own name."""
        found: list[str] = []

        def one() -> bool:
            found[:] = [name for name, pid in self.pids().items() if name.startswith(REPLICA) and pid != but]
            return len(found) == 1

        until(one, what="no replica lives, or several do")
        return found[0]

    def host_of(self, account: str) -> str:
        """Return the name of the account's actor, once it lives."""
        name = host_name(f"account:{account}")
        self.pid_of(name)
        return name

    def pid_of(self, name: str, *, but: int = 0) -> int:
        """Return the process of the actor, once it lives in another one than ``but``."""
        until(lambda: self.pids().get(name, but) != but, what=f"{name} was not started again")
        return self.pids()[name]

    def wait_until_ready(self) -> None:
        """Wait until requests are accepted."""
        until(lambda: _status(f"{self.url}/readyz") == 200, within_s=READY_S, what="the server is not ready")

    def bills(self) -> Bills:
        """Return the provider's bills once it has nothing under way."""
        total: dict[str, Any] = {}

        def quiet() -> bool:
            total.update(self.simulator.stats()["total"])
            return not total["in_flight"]

        until(quiet, what="the provider is still at work")
        return Bills(
            requests=total["billed_requests"],
            input_tokens=total["billed_input_tokens"],
            output_tokens=total["billed_output_tokens"],
        )

    def bills_of(self, account: str) -> int:
        """Return how many requests of one account were billed."""
        return int(self.simulator.stats()["keys"].get(f"sk-{account}", {}).get("billed_requests", 0))

    def figures(self, number: int) -> tuple[Figures, Figures]:
        """Return what the books say of a case's key, in nano-dollars and in tokens."""
        path = f"file:{self.data_dir / FILE_NAME}?mode=ro"
        with closing(sqlite3.connect(path, uri=True, timeout=30)) as connection:
            rows = connection.execute(_FIGURES, (f"case-{number}",)).fetchall()
        found = {ledger: Figures(spent=spent, held=held, unknown=unknown) for ledger, spent, held, unknown in rows}
        return found.get("usd", Figures()), found.get("tokens", Figures())


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[RayStage]:
    """Start both for as long as the context lasts."""
    provider, config = folder / "provider.yaml", folder / "tutti.yaml"
    document = {**simulator_document(), "replies": scripted.replies(*rules())}
    provider.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    with running_simulator(provider) as simulator:
        config.write_text(yaml.safe_dump(configuration(simulator.url, folder / "data")), encoding="utf-8")
        process, url = _served(folder, config)
        try:
            yield RayStage(url, simulator, process, folder / "data")
        finally:
            _end(process)


def _served(folder: Path, config: Path) -> tuple[subprocess.Popen[str], str]:
    """Start the server and return it once it is ready, with its address."""
    for left in reversed(range(STARTS)):
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        with (folder / "log").open("w", encoding="utf-8") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.torture.crash_ray_server", str(config), str(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env=environment(folder),
            )
        until_s = time.monotonic() + READY_S
        while process.poll() is None and time.monotonic() < until_s:
            if _status(f"{url}/readyz") == httpx.codes.OK:
                return process, url
            time.sleep(START_LOOK_S)
        _end(process)
        if not left:
            said = (folder / "log").read_text(encoding="utf-8", errors="replace")
            raise RuntimeError(f"the server did not come up: {said[-LOG_CHARS:]}")
    raise AssertionError("the last start returns or raises")


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            assert pipe is not None
            pipe.close()


def until(holds: Callable[[], bool], *, within_s: float = WITHIN_S, what: str) -> None:
    """Wait until ``holds``."""
    until_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until_s, what
        time.sleep(LOOK_S)


def is_dead(pid: int) -> bool:
    """Tell whether the process has ended; one that its parent has not buried counts."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return True
    return text.rpartition(")")[2].split()[0] == "Z"


def freeze(pid: int, *, thaw: bool = False) -> None:
    """Stop a process, or let it go on."""
    os.kill(pid, signal.SIGCONT if thaw else signal.SIGSTOP)


def _status(url: str) -> int:
    try:
        return HTTP.get(url).status_code
    except httpx.HTTPError:
        return 0
