"""A simulator process of its own for a test, with the stories of ``scripted``, and its counts."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.fakes import scripted


@dataclass(frozen=True)
class Simulator:
    """A running simulator."""

    url: str
    pid: int

    def stats(self, *, log: bool = False) -> dict[str, Any]:
        """Return its own counts: never ours."""
        answer = httpx.get(f"{self.url}/__stats", params={"log": "1"} if log else {}, timeout=10)
        answer.raise_for_status()
        return dict(answer.json())

    def control(self, change: dict[str, Any]) -> None:
        """Change faults, limits, key states or replies at run time."""
        httpx.post(f"{self.url}/__control", json=change, timeout=10).raise_for_status()

    def asked(self, role: str) -> int:
        """Return how many requests of that role were accepted."""
        rows = self.stats(log=True)["log"]
        return sum(row["rejected"] is None and f"ROLE: {role} v1" in row["text"] for row in rows)

    def reset(self, *rules: dict[str, Any]) -> None:
        """Go back to the stories of ``scripted``, after ``rules``, without faults and with counts at zero."""
        self.control({"faults": [], "replies": scripted.replies(*rules)})
        httpx.post(f"{self.url}/__reset", timeout=10).raise_for_status()


@contextlib.contextmanager
def running_simulator(path: Path) -> Iterator[Simulator]:
    """Run a simulator process for as long as the context lasts."""
    process = subprocess.Popen(
        [sys.executable, "-m", "app.simulator", "--config", str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        found = re.match(r"ready (http://\S+)", line)
        assert found, f"the simulator did not come up: {line!r}"
        yield Simulator(url=found[1], pid=process.pid)
    finally:
        process.terminate()
        process.wait(10)
