"""What a request through the gateway costs, beside its peers and a direct client, in one run.

Closed loop on loopback against an upstream with 50 ms of latency. The figure is CPU seconds (user and system) of all
processes of the measured tree, net of what the same tree takes idle, watched just before. Upstream and load generator
are processes of their own and do not count. Peers that do not install here are left out, with the reason.

All are up at once and take turns: the speed of a shared machine changes within minutes, by more than what is compared.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil

from app.domain.chat import Json
from benchmarks import gateway_peers, processes, report
from benchmarks.gateway_load import stream_s
from benchmarks.gateway_peers import PeerMissingError, Setting, Target
from benchmarks.stage import ROOT

STREAMS = 100
TRAIL_S = 0.3
"""Of the window after the last answer: reports and logs that come late belong to the requests."""
PERIOD_S = 10.0
"""Ray's processes gather their metrics once in so long, for half a CPU second: a window of another length holds more or
less of that than its share, which was a tenth of the figure."""
SETTLE_S = 15.0
CALM, CALM_SHARE = 3, 0.1
"""Idle is watched once so many half seconds in a row differ by less than that share, or ``SETTLE_S`` later."""
BOUNDS: dict[tuple[str, str], float] = {
    ("cpu", "litellm"): 1 / 6,
    ("cpu", "portkey"): 1.1,
    ("chunk", "litellm"): 1 / 4,
    ("chunk", "portkey"): 1.5,
}
ADDED_MS_MAX = 3.0
TTFT_MS_MAX = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """How long each part is watched."""

    first_s: float = 4.0
    """Of load that nobody looks at: pools fill, code is compiled."""
    idle_s: float = PERIOD_S
    warm_s: float = 1.0
    one_s: float = 5.0
    many_s: float = PERIOD_S - TRAIL_S
    rounds: int = 2
    """Turns of each part and target."""
    connections: tuple[int, ...] = (1, 32, 128)


SHORT = Durations(first_s=2.0, idle_s=1.5, warm_s=0.5, one_s=2.5, many_s=2.5, rounds=1, connections=(1, 32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One window of load, or several."""

    answered: int
    failed: int
    reconnected: int
    said: str
    """The start of one failed answer."""
    chunks: int
    wall_s: float
    median_s: float
    p99_s: float
    cpu_s: float
    """Net of idle."""
    upstream_cpu_s: float
    others_share: float
    by_kind: Mapping[str, float]

    @property
    def per_thousand_s(self) -> float:
        """CPU seconds per 1 000 requests."""
        return 1_000 * self.cpu_s / max(1, self.answered)

    @property
    def per_chunk_us(self) -> float:
        """CPU microseconds per streamed chunk, the openings of the streams included."""
        return 1e6 * self.cpu_s / max(1, self.chunks)


@dataclass(slots=True, kw_only=True)
class Found:
    """Everything measured of one target."""

    idle_share: float
    """CPU seconds per second without any request."""
    parts: dict[str, Part] = field(default_factory=dict)
    """By connections ("1", "32", "128"), "spread" and "at once"."""


@contextlib.contextmanager
def upstream() -> Iterator[tuple[str, int]]:
    """Run the benchmark's provider; yields its address and process id."""
    command = [sys.executable, "-m", "benchmarks.gateway_upstream"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line.startswith("ready "):
            raise RuntimeError(f"the upstream did not come up: {line!r}")
        yield line.split()[1], process.pid
    finally:
        process.stdin.close()
        process.terminate()
        process.wait(10)
        process.stdout.close()


def watch(targets: Mapping[str, Target], provider: int, durations: Durations) -> dict[str, Found]:
    """Measure targets that are up, in turns."""
    found: dict[str, Found] = {}
    for target in targets.values():
        _load(target, _job(target, connections=32, seconds=0.1, warm_s=durations.first_s), provider, idle_share=0.0)
    for name, target in targets.items():
        found[name] = Found(idle_share=_idle_share(target, durations.idle_s))
    for part, job in _parts(durations).items():
        print(f"… {part}", file=sys.stderr, flush=True)
        turns: dict[str, list[Part]] = {name: [] for name in targets}
        for _ in range(durations.rounds):
            for name, target in targets.items():
                idle_share = found[name].idle_share
                turns[name].append(_load(target, _job(target, **job), provider, idle_share=idle_share))
        for name, each in turns.items():
            found[name].parts[part] = _together(each)
    return found


def _parts(durations: Durations) -> dict[str, dict[str, Any]]:
    parts: dict[str, dict[str, Any]] = {}
    for connections in durations.connections:
        seconds = durations.one_s if connections == 1 else durations.many_s
        parts[str(connections)] = {"connections": connections, "seconds": seconds, "warm_s": durations.warm_s}
    streams = {"connections": STREAMS, "seconds": 1, "warm_s": 0.2, "stream": True}
    parts["spread"] = {**streams, "spread_s": stream_s(1, 0)}
    parts["at once"] = {**streams, "spread_s": 0.0}
    return parts


def _together(turns: Sequence[Part]) -> Part:
    """Return several windows as one: sums, the mean of the medians, the worst of the rest."""
    by_kind: Counter[str] = Counter()
    for turn in turns:
        by_kind.update(turn.by_kind)
    return Part(
        answered=sum(turn.answered for turn in turns),
        failed=sum(turn.failed for turn in turns),
        reconnected=sum(turn.reconnected for turn in turns),
        said=next((turn.said for turn in turns if turn.said), ""),
        chunks=sum(turn.chunks for turn in turns),
        wall_s=round(sum(turn.wall_s for turn in turns), 3),
        median_s=statistics.fmean(turn.median_s for turn in turns),
        p99_s=max(turn.p99_s for turn in turns),
        cpu_s=sum(turn.cpu_s for turn in turns),
        upstream_cpu_s=sum(turn.upstream_cpu_s for turn in turns),
        others_share=max(turn.others_share for turn in turns),
        by_kind=dict(by_kind.most_common()),
    )


def _job(
    target: Target, *, connections: int, seconds: float, warm_s: float, stream: bool = False, spread_s: float = 0.0
) -> dict[str, object]:
    return {
        "url": target.url,
        "headers": dict(target.headers),
        "connections": connections,
        "seconds": seconds,
        "warm_s": warm_s,
        "stream": stream,
        "spread_s": spread_s,
    }


def _idle_share(target: Target, seconds: float) -> float:
    if target.pid is None:
        return 0.0
    last, calm, until_s = _share(target.pid), 0, time.monotonic() + SETTLE_S
    while calm < CALM and time.monotonic() < until_s:
        now = _share(target.pid)
        calm, last = (calm + 1 if abs(now - last) < CALM_SHARE else 0), now
    before, began = _cpu_s(target.pid), time.monotonic()
    time.sleep(seconds)
    return (_cpu_s(target.pid) - before) / (time.monotonic() - began)


def _share(pid: int) -> float:
    """Return the CPU seconds per second of the next half second."""
    before, began = _cpu_s(pid), time.monotonic()
    time.sleep(0.5)
    return (_cpu_s(pid) - before) / (time.monotonic() - began)


def _load(target: Target, job: Mapping[str, object], provider: int, *, idle_share: float) -> Part:
    """Run the load generator once and count what the target's tree took meanwhile."""
    command = [sys.executable, "-m", "benchmarks.gateway_load", json.dumps(job)]
    load = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert load.stdin is not None
    assert load.stdout is not None
    try:
        if load.stdout.readline() != "warm\n":
            raise RuntimeError(f"the load generator did not reach {target.name}")
        watched = {name: pid for name, pid in (("target", target.pid), ("provider", provider)) if pid is not None}
        ours = processes.tree(target.pid) if target.pid is not None else []
        before = {name: _cpu_s(pid) for name, pid in watched.items()}
        kinds, busy_s, load_s = processes.cpu_seconds(ours), processes.machine_cpu_seconds(), _cpu_s(load.pid)
        began = time.monotonic()
        load.stdin.write("\n")
        load.stdin.flush()
        seen = json.loads(load.stdout.readline())
        load_s = _cpu_s(load.pid) - load_s if load.poll() is None else 0.0
        time.sleep(TRAIL_S)
        wall_s = time.monotonic() - began
        spent = {name: _cpu_s(pid) - before[name] for name, pid in watched.items()}
        busy_s = processes.machine_cpu_seconds() - busy_s
        by_kind = processes.cpu_between(kinds, processes.cpu_seconds(ours))
    finally:
        load.stdin.close()
        load.stdout.close()
        load.wait(10)
    latencies_s = sorted(seen["latencies_s"]) or [float("nan")]
    return Part(
        answered=seen["answered"],
        failed=seen["failed"],
        reconnected=seen["reconnected"],
        said=seen["said"],
        chunks=seen["chunks"],
        wall_s=round(seen["wall_s"], 3),
        median_s=statistics.median(latencies_s),
        p99_s=latencies_s[int(len(latencies_s) * 0.99)],
        cpu_s=spent.get("target", 0.0) - idle_share * wall_s,
        upstream_cpu_s=spent["provider"],
        others_share=processes.others_share(busy_s, {**spent, "load": load_s}, wall_s),
        by_kind=by_kind,
    )


def _cpu_s(pid: int) -> float:
    """Return CPU seconds of a tree, those of children that ended and were waited for included."""
    total = 0.0
    for process in processes.tree(pid):
        with contextlib.suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])
    return total


def measure(names: Sequence[str], durations: Durations, setting: Setting) -> tuple[dict[str, Found], dict[str, str]]:
    """Measure the named targets in turns; what is missing, and why, comes second."""
    targets: dict[str, Target] = {}
    missing: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        url, provider = stack.enter_context(upstream())
        openings: dict[str, Callable[[], AbstractContextManager[Target]]] = {
            "direct": lambda: gateway_peers.direct(url),
            "tutti": lambda: gateway_peers.tutti(url, setting),
            "portkey": lambda: gateway_peers.portkey(url),
            "litellm": lambda: gateway_peers.litellm(url),
        }
        for name in names:
            print(f"… {name}", file=sys.stderr, flush=True)
            try:
                targets[name] = stack.enter_context(openings[name]())
            except PeerMissingError as error:
                if name == "tutti":
                    raise
                missing[name] = str(error)
        return watch(targets, provider, durations), missing


def rows(found: Mapping[str, Found]) -> list[list[str]]:
    """Return the table of costs."""
    loops = [name for name in next(iter(found.values())).parts if name.isdigit()]
    head = ["", "idle, of one core", *(f"CPU s / 1 000, {name} conn." for name in loops), "added at 1 conn., median"]
    head += ["CPU µs / chunk", "TTFT added, spread", "TTFT added, at once", "rejected or failed", "others, at most"]
    table = [head]
    for name, each in found.items():
        measured = name != "direct"
        table.append(
            [
                name,
                f"{each.idle_share:.1%}" if measured else "",
                *(f"{each.parts[loop].per_thousand_s:.3f}" if measured else "" for loop in loops),
                _added(found, name, "1"),
                f"{each.parts['spread'].per_chunk_us:.0f}" if measured else "",
                _added(found, name, "spread"),
                _added(found, name, "at once"),
                str(sum(part.failed for part in each.parts.values())),
                f"{max(part.others_share for part in each.parts.values()):.0%}",
            ]
        )
    return table


def bound_rows(found: Mapping[str, Found]) -> list[list[str]]:
    """Return the table of ratios: ours over the peer's, beside the most that it may be."""
    table = [["what", "ours", "peer", "ours / peer", "at most", "kept"]]
    ours = found.get("tutti")
    if ours is None:
        return table
    for peer in ("litellm", "portkey"):
        if peer not in found:
            continue
        for loop in (name for name in ours.parts if name.isdigit() and name != "1"):
            pair = ours.parts[loop].per_thousand_s, found[peer].parts[loop].per_thousand_s
            table.append(_bound_row(f"CPU s / 1 000, {loop} conn., {peer}", *pair, BOUNDS["cpu", peer]))
        pair = ours.parts["spread"].per_chunk_us, found[peer].parts["spread"].per_chunk_us
        table.append(_bound_row(f"CPU µs / chunk, {peer}", *pair, BOUNDS["chunk", peer]))
    if "direct" in found:
        for what, part, most in (("latency at 1 conn.", "1", ADDED_MS_MAX), ("TTFT, spread", "spread", TTFT_MS_MAX)):
            added_ms = 1e3 * (ours.parts[part].median_s - found["direct"].parts[part].median_s)
            kept = "yes" if added_ms <= most else "NO"
            table.append([f"added {what}, median", f"{added_ms:.2f} ms", "", "", f"{most:g} ms", kept])
    return table


def _bound_row(what: str, ours: float, peer: float, most: float) -> list[str]:
    ratio = ours / peer
    return [what, f"{ours:.3g}", f"{peer:.3g}", f"{ratio:.3f}", f"{most:.3f}", "yes" if ratio <= most else "NO"]


def _added(found: Mapping[str, Found], name: str, part: str) -> str:
    own_ms = 1e3 * found[name].parts[part].median_s
    if name == "direct" or "direct" not in found:
        return f"({own_ms:.2f} ms)"
    return f"{own_ms - 1e3 * found['direct'].parts[part].median_s:.2f} ms"


def document(found: Mapping[str, Found], missing: Mapping[str, str], setting: Setting) -> dict[str, Json]:
    """Return everything measured, as JSON."""
    targets: dict[str, Json] = {}
    for name, each in found.items():
        parts: dict[str, Json] = {}
        for part_name, part in each.parts.items():
            parts[part_name] = {
                key: round(value, 5) if isinstance(value, float) else value for key, value in asdict(part).items()
            }
        targets[name] = {"idle_share": round(each.idle_share, 4), "parts": parts}
    return {"accounts": setting.accounts, "replicas": setting.replicas, "targets": targets, "missing": dict(missing)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 1 where Tutti did not answer every request."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    parser.add_argument("--short", action="store_true", help="no 128 connections, shorter windows")
    parser.add_argument("--only", nargs="+", choices=("direct", "tutti", "portkey", "litellm"), help="some of them")
    parser.add_argument("--accounts", type=int, default=2, help="accounts of Tutti's pool (default 2)")
    parser.add_argument("--replicas", type=int, default=1, help="HTTP replicas of Tutti (default 1)")
    chosen = parser.parse_args(arguments)
    setting = Setting(accounts=chosen.accounts, replicas=chosen.replicas)
    names = chosen.only or ["direct", "tutti", "portkey", "litellm"]
    on = report.machine()
    found, missing = measure(names, SHORT if chosen.short else Durations(), setting)
    partial = chosen.short or len(names) < 4 or setting != Setting()
    report.publish("gateway", short=partial, on=on, rows=rows(found), found=document(found, missing, setting))
    print("\n" + report.table(bound_rows(found)))
    for name, each in found.items():
        for part_name, part in each.parts.items():
            said = report.said(part.by_kind)
            print(
                f"{name}, {part_name}: {part.answered} answered in {part.wall_s:.1f} s,"
                f" median {1e3 * part.median_s:.1f} ms,"
                f" p99 {1e3 * part.p99_s:.1f} ms, upstream {part.upstream_cpu_s:.2f} CPU s; {said}"
            )
            if part.failed:
                print(f"{name}, {part_name}: {part.failed} failed, e.g. {part.said!r}", file=sys.stderr)
    for name, why in missing.items():
        print(f"{name} is missing: {why}", file=sys.stderr)
    ours = found.get("tutti")
    return 1 if ours is not None and any(part.failed for part in ours.parts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
