"""Where a soak plays: simulator and `tutti serve` as processes, looked at from outside and through their streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from benchmarks import processes
from benchmarks.gateway_peers import free_port
from benchmarks.stage import ROOT, Simulator, simulator
from tests.torture.evidence import Evidence, Life, Sample
from tests.torture.setting import Setting, simulator_document, tutti_document

READY_S = 300.0
LOOK_S = 40.0
END_S = 60.0
GONE_S = 30.0
LOG_CHARS = 2_000
OURS = ("SERVE_REPLICA", "account", "callers", "store", "directory", "coordinator", "gcs")
"""How the names of processes begin that are judged: actors of ours, and Ray's books of what we ask of it."""
STARTS = 3
"""On a busy machine Ray gives up waiting for its own parts; the soak is about what comes after."""


class LookError(Exception):
    """The server does not answer."""


@dataclass(slots=True, kw_only=True)
class Stage:
    """A running server and the provider behind it."""

    url: str
    provider: Simulator
    process: subprocess.Popen[str]
    _turn: asyncio.Lock

    async def look(self) -> dict[str, Any]:
        """Return actors, hosts and views (``server.look``).

        Raises:
            LookError: there is no answer.
        """
        async with self._turn:
            seen = await asyncio.wait_for(asyncio.to_thread(self._ask), LOOK_S)
        if "error" in seen:
            raise LookError(seen["error"])
        return seen

    async def open_upstream(self) -> int:
        """Return how many calls the simulator has open."""
        async with httpx.AsyncClient(timeout=30) as client:
            answer = await client.get(f"{self.provider.url}/__stats")
        return int(answer.json()["total"]["in_flight"])

    def _ask(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("looked "):
                return dict(json.loads(line.removeprefix("looked ")))
        raise LookError("the server ended")

    def weigh(self, evidence: Evidence, names: dict[int, str]) -> None:
        """Read the memory of every process of the server."""
        for process in processes.tree(self.process.pid):
            # A process that ends while we look is gone.
            with contextlib.suppress(psutil.Error):
                memory, at_s = process.memory_full_info(), time.monotonic()
                life = evidence.lives.get(process.pid)
                if life is None:
                    name = names.get(process.pid) or processes.kind(process)
                    life = evidence.lives[process.pid] = Life(name=name, ours=name.startswith(OURS))
                elif process.pid in names:
                    life.name, life.ours = names[process.pid], names[process.pid].startswith(OURS)
                life.samples.append(
                    Sample(at_s=at_s, pss_mib=memory.pss / 2**20, private_mib=memory.uss / 2**20),
                )

    def end(self, evidence: Evidence) -> None:
        """End the server in an orderly way; note its status and what outlives it."""
        started = processes.tree(self.process.pid)
        self.process.send_signal(signal.SIGTERM)
        try:
            evidence.exit_status = self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            evidence.exit_status = None
        _gone, alive = psutil.wait_procs(started, timeout=GONE_S)
        evidence.left_running = tuple(f"{process.pid} {processes.kind(process)}" for process in alive)


@contextlib.contextmanager
def opened(setting: Setting) -> Iterator[Stage]:
    """Start both; the server is ended by force where ``Stage.end`` did not."""
    with (
        simulator(simulator_document(setting)) as provider,
        tempfile.TemporaryDirectory(prefix="tutti-torture-", ignore_cleanup_errors=True) as name,
    ):
        folder = Path(name)
        config = folder / "tutti.yaml"
        document = {**tutti_document(provider.url), "data_dir": str(folder / "data")}
        config.write_text(yaml.safe_dump(document), encoding="utf-8")
        for left in reversed(range(STARTS)):
            process, url = _start(folder, config, setting.replicas)
            try:
                if _is_ready(process, url):
                    yield Stage(url=url, provider=provider, process=process, _turn=asyncio.Lock())
                    return
            finally:
                _force(process)
            if not left:
                log = (folder / "log").read_text(encoding="utf-8", errors="replace")
                raise RuntimeError(f"the server did not come up: {log[-LOG_CHARS:]}")


def _start(folder: Path, config: Path, replicas: int) -> tuple[subprocess.Popen[str], str]:
    port = free_port()
    command = [sys.executable, "-m", "tests.torture.server", str(config), str(port), str(replicas)]
    with (folder / "log").open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
            env=environment(folder),
        )
    return process, f"http://127.0.0.1:{port}"


def _force(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait(10)
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            assert pipe is not None
            pipe.close()


def environment(home: Path) -> dict[str, str]:
    """Return an environment without keys or settings of this machine."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG", "SSL_CERT_FILE") if name in os.environ}
    return {**kept, "HOME": str(home), "TERM": "dumb"}


def _is_ready(process: subprocess.Popen[str], url: str) -> bool:
    until_s = time.monotonic() + READY_S
    while time.monotonic() < until_s and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return True
        time.sleep(0.2)
    return False
