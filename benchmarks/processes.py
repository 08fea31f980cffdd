"""What a tree of processes costs: CPU seconds and memory, by kind of process.

Looks from outside, by psutil, so that Ray's own processes count as well. Called by every benchmark.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping

import psutil

_ACTOR = re.compile(r"ray::(\w+)")
_PLAIN = {"StoreActor": "Store", "EventLogActor": "EventLog"}
"""Actors that figures name by their plain class."""
_KINDS = {
    "gcs_server": "gcs",
    "raylet": "raylet",
    "app.simulator": "simulator",
    "actors.watchdog": "watchdog",
    "dashboard/agent": "ray agents",
    "runtime_env/agent": "ray agents",
    "DashboardAgent": "ray agents",
    "RuntimeEnvAgent": "ray agents",
    "log_monitor": "ray agents",
    "monitor.py": "ray agents",
    "dashboard": "ray agents",
    "app.cli": "tutti",
}
"""What a command line contains, and what we call that process; the first that matches counts."""


def tree(pid: int | None = None) -> list[psutil.Process]:
    """Return a process (default: this one) and everything it started."""
    top = psutil.Process(os.getpid() if pid is None else pid)
    return [top, *top.children(recursive=True)]


def kind(process: psutil.Process) -> str:
    """Return what a process is: an actor's class, a part of Ray, the simulator, or ``driver`` for this one."""
    if process.pid == os.getpid():
        return "driver"
    line = " ".join(process.cmdline())
    actor = _ACTOR.search(line)
    if actor:
        return _PLAIN.get(actor[1], actor[1])
    return next((name for part, name in _KINDS.items() if part in line), "other")


def cpu_seconds(processes: Iterable[psutil.Process]) -> dict[psutil.Process, float]:
    """Return user and system seconds of each process that still runs."""
    found = {}
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        found[process] = times.user + times.system
    return found


def cpu_between(before: Mapping[psutil.Process, float], after: Mapping[psutil.Process, float]) -> dict[str, float]:
    """Return CPU seconds spent between two readings, by kind, largest first; one that ended in between is missing."""
    spent: Counter[str] = Counter()
    for process, seconds in after.items():
        try:
            spent[kind(process)] += seconds - before.get(process, 0.0)  # type: ignore[assignment]  # floats add as well
        except psutil.Error:
            continue
    return {name: round(float(seconds), 2) for name, seconds in spent.most_common()}


def machine_cpu_seconds() -> float:
    """Return the seconds that all cores of the machine have been busy since it started, whoever kept them busy."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def others_share(busy_s: float, ours: Mapping[str, float], wall_s: float) -> float:
    """Return the share of all cores that processes other than ours kept busy: above a few percent, distrust wall times.

    Args:
        busy_s: Seconds the machine was busy in the window, by ``machine_cpu_seconds`` at both ends.
        ours: From ``cpu_between`` of the same window; a process of ours that ended in it counts as another's.
        wall_s: Length of the window.
    """
    return round(max(0.0, busy_s - sum(ours.values())) / (wall_s * (os.cpu_count() or 1)), 3)


def memory_mib(processes: Iterable[psutil.Process]) -> dict[str, float]:
    """Return proportional set sizes by kind, largest first: shared pages count once over all processes."""
    sizes: Counter[str] = Counter()
    for process in processes:
        try:
            sizes[kind(process)] += process.memory_full_info().pss
        except psutil.Error:
            continue
    return {name: round(size / 2**20, 1) for name, size in sizes.most_common()}
