"""What acceptance tests share: the real `tutti` command as a user runs it, and simulated providers behind it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import psutil
import pytest
import yaml

from tests.fakes import pool, scripted
from tests.fakes.simulated import Simulator, running_simulator

ROOT = Path(__file__).parents[2]
START_WITHIN_S = 90.0


@dataclass
class Server:
    """A running `tutti serve`."""

    process: subprocess.Popen[str]
    url: str
    home: Path
    config: Path
    data_dir: Path
    errors: list[str] = field(default_factory=list)
    """Lines of its standard error so far."""

    def descendants(self) -> list[psutil.Process]:
        """Return every process that it started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def tutti(self, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command on this server's data directory."""
        return run_tutti(self.home, *arguments, "--config", str(self.config), timeout_s=timeout_s)


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return an environment without keys or settings of the machine we run on."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "SSL_CERT_FILE") if name in os.environ}
    return {**kept, "HOME": str(home), "TERM": "dumb", **more}


def run_tutti(home: Path, *arguments: str, timeout_s: float = 120.0, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment(home, **more),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        check=False,
    )


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """A simulator for all tests of a module, playing the stories of ``scripted``; keys with ``gone`` are revoked."""
    path = tmp_path_factory.mktemp("simulator") / "sim.yaml"
    keys: list[dict[str, str]] = [{"key": f"sk-{name}"} for name in ("alpha", "beta", "chief")]
    keys += [{"key": f"sk-gone-{name}", "state": "revoked"} for name in "abc"]
    document = {"host": "127.0.0.1", "port": 0, **pool.FAST, "keys": keys, "replies": scripted.replies()}
    path.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    with running_simulator(path) as running:
        yield running


def gone_within(processes: list[psutil.Process], seconds: float) -> list[str]:
    """Wait until none of these processes runs; return those that still do after ``seconds``."""
    deadline = time.monotonic() + seconds
    while (left := _alive(processes)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def _alive(processes: list[psutil.Process]) -> list[str]:
    left = []
    for process in processes:
        # A process that ends while we look is gone.
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                left.append(f"{process.pid} {' '.join(process.cmdline())[:80]}")
    return left


@dataclass
class Watched:
    """How a command ended, and every process it had started."""

    status: int
    stdout: str
    stderr: str
    started: list[psutil.Process]


def watch_tutti(home: Path, *arguments: str, timeout_s: float = 120.0, **more: str) -> Watched:
    """Run the command to its end, noting what it starts on its way."""
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=environment(home, **more),
        cwd=ROOT,
    )
    started: set[psutil.Process] = set()
    ended = threading.Event()

    def look() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            command = psutil.Process(process.pid)
            while not ended.wait(0.5):
                started.update(command.children(recursive=True))

    looker = threading.Thread(target=look, daemon=True)
    looker.start()
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    finally:
        ended.set()
        looker.join(5)
        if process.poll() is None:
            process.kill()
            process.wait(10)
    return Watched(status=process.returncode, stdout=stdout, stderr=stderr, started=list(started))


def write_config(path: Path, configuration: dict[str, Any]) -> Path:
    """Write a configuration file."""
    path.write_text(yaml.safe_dump(configuration, allow_unicode=True), encoding="utf-8")
    return path


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class ServeIt(Protocol):
    """Starts a server on a free port and waits for its ready line."""

    def __call__(
        self,
        configuration: dict[str, Any],
        *,
        command: Sequence[str] = ("app.cli", "serve"),
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> Server:
        """Start it; ``variables`` come on top of its environment."""
        ...


@pytest.fixture(scope="module")
def serve_it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeIt]:
    """Return a function that starts a server on a free port and waits for its ready line."""
    with contextlib.ExitStack() as stack:

        def start(
            configuration: dict[str, Any],
            *,
            command: Sequence[str] = ("app.cli", "serve"),
            variables: Mapping[str, str] = MappingProxyType({}),
        ) -> Server:
            folder = tmp_path_factory.mktemp("served")
            data_dir = Path(configuration.setdefault("data_dir", str(folder / "data")))
            config = write_config(folder / "tutti.yaml", configuration)
            process = subprocess.Popen(
                [sys.executable, "-m", *command, "--config", str(config), "--port", str(free_port())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment(folder, **variables),
                cwd=ROOT,
            )
            stack.callback(_end, process)
            errors: list[str] = []
            url = _ready_url(process, errors)
            return Server(process=process, url=url, home=folder, config=config, data_dir=data_dir, errors=errors)

        yield start


def _ready_url(process: subprocess.Popen[str], errors: list[str]) -> str:
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True)
    reader.start()
    watchdog = threading.Timer(START_WITHIN_S, process.kill)
    watchdog.start()
    try:
        line = process.stdout.readline()
    finally:
        watchdog.cancel()
    assert line.startswith("ready http://"), f"no ready line: {line!r}\n{''.join(errors)}"
    return line.split()[1]


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
