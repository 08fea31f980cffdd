"""How long a user waits: from `tutti serve` to its ready line, from `tutti run` to the first task, and on an empty Ray.

The baseline of the same run is what Ray alone needs: a process that imports it, starts a cluster with our options and
gets an answer from one actor. Models are simulated and answer at once. Every figure is of fresh processes; file caches
are warm after the first round, which is not counted (the short form is one round, and counts it).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

from app.domain.chat import Json
from benchmarks import processes, report, stage
from tests.fakes import pool, scripted

RUNS = 3
PATIENCE_S = 120.0
PORTS = range(20_000, 30_000)
BARE = """
from actors import cluster
import ray
cluster.start_local(namespace="bare")
@ray.remote(num_cpus=0)
class One:
    def ping(self):
        return "ok"
print("ready", ray.get(One.remote().ping.remote()), flush=True)
import sys
sys.stdin.read()
cluster.stop()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Seconds and CPU seconds of every counted run of one thing."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    """Of the whole tree, until the moment that was waited for."""
    others_share: list[float] = field(default_factory=list)
    """Of all cores in that time, kept busy by processes that are not of the tree."""


@contextlib.contextmanager
def measured(command: Sequence[str], home: Path, seen: Callable[[str], bool]) -> Iterator[tuple[float, float, float]]:
    """Start a command, wait for a line of its output, yield seconds, CPU seconds and others' share, and end it."""
    began, busy_s = time.monotonic(), processes.machine_cpu_seconds()
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=stage.ROOT,
        env=environment(home),
    )
    giving_up = threading.Timer(PATIENCE_S, process.kill)
    giving_up.start()
    try:
        lines = _lines_until(process, seen)
        wall_s = time.monotonic() - began
        cpu_s = sum(processes.cpu_seconds(_tree(process.pid)).values())
        busy_s = processes.machine_cpu_seconds() - busy_s
        if process.poll() is not None and not seen(lines[-1] if lines else ""):
            raise RuntimeError(f"{' '.join(command[:4])} ended early:\n{''.join(lines[-20:])}")
        yield wall_s, cpu_s, processes.others_share(busy_s, {"tree": cpu_s}, wall_s)
    finally:
        giving_up.cancel()
        _end(process)


def environment(home: Path) -> dict[str, str]:
    """Return an environment without keys or settings of this machine."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "SSL_CERT_FILE") if name in os.environ}
    return {**kept, "HOME": str(home), "TERM": "dumb"}


def once(name: str, folder: Path, url: str) -> tuple[float, float, float]:
    """Measure one thing once, with a data directory of its own."""
    config = folder / "tutti.yaml"
    document = {**pool.three_accounts(url), "data_dir": str(folder / "data")}
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    tutti = [sys.executable, "-m", "app.cli"]
    if name == "bare":
        command = [sys.executable, "-c", BARE]
    elif name == "serve":
        command = [*tutti, "serve", "--config", str(config), "--port", str(_free_port())]
    else:
        command = [*tutti, "run", scripted.ENGLISH.request, "--config", str(config)]
    with measured(command, folder, _SEEN[name]) as found:
        return found


_SEEN: dict[str, Callable[[str], bool]] = {
    "bare": lambda line: line.startswith("ready "),
    "serve": lambda line: line.startswith("ready http"),
    "run": lambda line: "] t1 started" in line or "] t2 started" in line,
}


def measure(*, warm_ups: int, runs: int) -> dict[str, Found]:
    """Measure everything ``runs`` times, in turn, after some rounds that are not counted."""
    found = {name: Found() for name in _SEEN}
    with stage.simulator({**pool.FAST, "replies": scripted.replies()}) as upstream:
        for number in range(warm_ups + runs):
            for name, figures in found.items():
                with tempfile.TemporaryDirectory(prefix="tutti-bench-", ignore_cleanup_errors=True) as folder:
                    wall_s, cpu_s, others_share = once(name, Path(folder), upstream.url)
                if number >= warm_ups:
                    figures.wall_s.append(wall_s)
                    figures.cpu_s.append(cpu_s)
                    figures.others_share.append(others_share)
    return found


def rows(found: dict[str, Found]) -> list[list[str]]:
    """Return the table; ratios are of medians."""
    said = {
        "bare": "bare ray.init() and one actor",
        "serve": "`tutti serve` to its ready line",
        "run": "`tutti run` to the first task",
    }
    base_s = statistics.median(found["bare"].wall_s)
    return [["what", "median", "fastest", "slowest", "of the baseline", "CPU, median", "others, at most"]] + [
        [
            said[name],
            f"{statistics.median(figures.wall_s):.2f} s",
            f"{min(figures.wall_s):.2f} s",
            f"{max(figures.wall_s):.2f} s",
            f"{statistics.median(figures.wall_s) / base_s:.2f} x",
            f"{statistics.median(figures.cpu_s):.1f} s",
            f"{max(figures.others_share):.0%}",
        ]
        for name, figures in found.items()
    ]


def document(found: dict[str, Found]) -> dict[str, Json]:
    """Return everything measured, as JSON."""
    base_s = statistics.median(found["bare"].wall_s)
    return {
        name: {
            "wall_s": [round(seconds, 3) for seconds in figures.wall_s],
            "cpu_s": [round(seconds, 2) for seconds in figures.cpu_s],
            "others_share": list(figures.others_share),
            "median_s": round(statistics.median(figures.wall_s), 3),
            "ratio": round(statistics.median(figures.wall_s) / base_s, 3),
        }
        for name, figures in found.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--short", action="store_true", help=f"one run instead of {RUNS}")
    chosen = parser.parse_args(arguments)
    on = report.machine()
    found = measure(warm_ups=0, runs=1) if chosen.short else measure(warm_ups=1, runs=RUNS)
    report.publish("startup", short=chosen.short, on=on, rows=rows(found), found=document(found))
    return 0


def _lines_until(process: subprocess.Popen[str], seen: Callable[[str], bool]) -> list[str]:
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if seen(line):
            break
    return lines


def _tree(pid: int) -> list[psutil.Process]:
    try:
        return processes.tree(pid)
    except psutil.Error:
        return []


def _end(process: subprocess.Popen[str]) -> None:
    """End what was started in an orderly way, and wait until all of it is gone: the next run must not share cores."""
    started = _tree(process.pid)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    reader = threading.Thread(target=process.stdout.read, daemon=True)
    reader.start()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
    psutil.wait_procs(started, timeout=30)


def _free_port() -> int:
    """Return a port below those that systems hand out: Ray asks for dozens of them before ours is bound."""
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"no port from {PORTS.start} to {PORTS.stop - 1} is free")


if __name__ == "__main__":
    sys.exit(main())
