"""Whether the gateway's memory stays flat: one replica and the account actor over 200 000 requests.

Closed loop on loopback against an upstream with 50 ms of latency; after every few thousand requests the proportional
set size (shared pages count once) of every process of Tutti's tree is read from outside. Judged is the private part of
it: a page that another process on the machine begins or ends to share changes the other, without a leak. Exits with 1
where a request failed, or where the replica or the account actor grew beyond what a warm process may still take.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import psutil

from app.domain.chat import Json
from benchmarks import gateway_peers, processes, report
from benchmarks.gateway import upstream
from benchmarks.gateway_load import FAILED_PAUSE_S, Client, Seen, request_bytes
from benchmarks.gateway_peers import Setting, Target
from benchmarks.gateway_upstream import fast_loop

CONNECTIONS = 32
REQUESTS, EVERY = 200_000, 5_000
REQUESTS_SHORT, EVERY_SHORT = 10_000, 1_000
WARM_SHARE = 0.25
"""Of the requests, before which growth is filling: pools, arenas, compiled code."""
WATCHED = ("ServeReplica", "AccountActor")
SLOPE_MIB_MAX = 10.0
"""Per 100 000 requests, after warming up: 100 bytes a request is below what one kept object takes."""
SLACK_MIB = 12.0
"""What a warm process may take once, however short the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Memory after some requests."""

    requests: int
    at_s: float
    mib: Mapping[str, float]
    """By kind of process; the largest account actor where there are several (the callers' limits live in one too)."""
    private_mib: Mapping[str, float]
    """What only that process maps."""
    total_mib: float
    """Of the whole tree, Ray included."""


@dataclass(slots=True, kw_only=True)
class Found:
    """What the run showed."""

    readings: list[Reading] = field(default_factory=list)
    failed: int = 0
    said: str = ""
    wall_s: float = 0.0
    others_share: float = 0.0

    def warm(self) -> list[Reading]:
        """Return the readings after warming up."""
        first = self.readings[-1].requests * WARM_SHARE
        return [reading for reading in self.readings if reading.requests >= first]

    def slope_mib(self, kind: str) -> float:
        """Return MiB per 100 000 requests by least squares over the warm readings."""
        warm = self.warm()
        fitted = statistics.linear_regression(
            [each.requests for each in warm], [each.private_mib[kind] for each in warm]
        )
        return 100_000 * fitted.slope

    def ratio(self, kind: str) -> float:
        """Return the last reading over the first warm one."""
        return self.readings[-1].private_mib[kind] / self.warm()[0].private_mib[kind]

    def is_flat(self, kind: str) -> bool:
        """Tell whether the process grew no more than a warm one may."""
        warm = self.warm()
        share = (warm[-1].requests - warm[0].requests) / 100_000
        return self.slope_mib(kind) * share <= max(SLACK_MIB, SLOPE_MIB_MAX * share)


async def measure(requests: int, every: int) -> Found:
    """Send the requests and read memory in between."""
    found = Found()
    with upstream() as (provider, _pid), gateway_peers.tutti(provider, Setting(accounts=1)) as target:
        # Tutti's tree and the upstream are below this process.
        busy_s, began_s, before = processes.machine_cpu_seconds(), time.monotonic(), processes.tree()
        cpu_s = processes.cpu_seconds(before)
        await _play(target, requests, every, found)
        found.wall_s = time.monotonic() - began_s
        spent_s = processes.cpu_between(cpu_s, processes.cpu_seconds(before))
        busy_s = processes.machine_cpu_seconds() - busy_s
        found.others_share = processes.others_share(busy_s, spent_s, found.wall_s)
    return found


async def _play(target: Target, requests: int, every: int, found: Found) -> None:
    parts = urlsplit(target.url)
    peer = (str(parts.hostname), int(parts.port or 80))
    request = request_bytes(target.url, target.headers, stream=False)
    seen, loop = Seen(), asyncio.get_running_loop()
    clients = []
    for _ in range(CONNECTIONS):
        _transport, client = await loop.create_connection(lambda: Client(request, seen, peer), *peer)
        clients.append(client)
    found.readings.append(_read(target, 0))
    for done in range(every, requests + 1, every):
        left = iter(range(every))
        await asyncio.gather(*(_ask(client, left) for client in clients))
        found.readings.append(_read(target, done))
        seen.latencies_s.clear()
        last = found.readings[-1]
        said = ", ".join(f"{kind} {last.private_mib[kind]:.1f} MiB" for kind in WATCHED)
        print(f"… {done} requests, {last.at_s - found.readings[0].at_s:.0f} s: {said}", file=sys.stderr, flush=True)
    for client in clients:
        client.close()
    found.failed, found.said = seen.failed, seen.said


async def _ask(client: Client, left: Iterator[int]) -> None:
    """Take requests from what is left, shared with the other connections, until there are none."""
    for _ in left:
        if not await client.ask(count=True):
            await asyncio.sleep(FAILED_PAUSE_S)


def _read(target: Target, requests: int) -> Reading:
    assert target.pid is not None
    largest: dict[str, float] = {}
    private: dict[str, float] = {}
    total = 0.0
    for process in processes.tree(target.pid):
        try:
            kind, memory = processes.kind(process), process.memory_full_info()
        except psutil.Error:
            continue
        total += memory.pss / 2**20
        largest[kind] = max(largest.get(kind, 0.0), memory.pss / 2**20)
        private[kind] = max(private.get(kind, 0.0), memory.uss / 2**20)
    return Reading(requests=requests, at_s=time.monotonic(), mib=largest, private_mib=private, total_mib=total)


def rows(found: Found) -> list[list[str]]:
    """Return the table of readings."""
    began_s = found.readings[0].at_s
    table = [["requests", "after", *(f"{kind}, PSS (private)" for kind in WATCHED), "whole tree, Ray included"]]
    for each in found.readings:
        sizes = [f"{each.mib[kind]:.1f} ({each.private_mib[kind]:.1f}) MiB" for kind in WATCHED]
        table.append([str(each.requests), f"{each.at_s - began_s:.0f} s", *sizes, f"{each.total_mib:.0f} MiB"])
    return table


def verdict(found: Found) -> list[list[str]]:
    """Return the table of slopes."""
    table = [["process", "slope of private memory per 100 000 requests", "last / after warming up", "flat"]]
    for kind in WATCHED:
        flat = "yes" if found.is_flat(kind) else "NO"
        table.append([kind, f"{found.slope_mib(kind):+.2f} MiB", f"{found.ratio(kind):.3f}", flat])
    return table


def document(found: Found) -> dict[str, Json]:
    """Return everything measured, as JSON."""
    began_s = found.readings[0].at_s
    return {
        "requests": found.readings[-1].requests,
        "failed": found.failed,
        "wall_s": round(found.wall_s, 1),
        "others_share": found.others_share,
        "readings": [
            {
                "requests": each.requests,
                "at_s": round(each.at_s - began_s, 1),
                "mib": {kind: round(mib, 2) for kind, mib in each.mib.items()},
                "private_mib": {kind: round(mib, 2) for kind, mib in each.private_mib.items()},
                "total_mib": round(each.total_mib, 1),
            }
            for each in found.readings
        ],
        "private_slope_mib_per_100000": {kind: round(found.slope_mib(kind), 3) for kind in WATCHED},
        "private_last_over_warm": {kind: round(found.ratio(kind), 4) for kind in WATCHED},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 1 where a request failed or memory grew."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway_memory", description=__doc__)
    parser.add_argument("--short", action="store_true", help=f"{REQUESTS_SHORT} requests")
    chosen = parser.parse_args(arguments)
    requests, every = (REQUESTS_SHORT, EVERY_SHORT) if chosen.short else (REQUESTS, EVERY)
    on = report.machine()
    fast_loop()
    found = asyncio.run(measure(requests, every))
    report.publish("gateway_memory", short=chosen.short, on=on, rows=rows(found), found=document(found))
    print("\n" + report.table(verdict(found)))
    print(f"\n{requests} requests in {found.wall_s:.0f} s, {found.failed} failed; others {found.others_share:.0%}")
    if found.failed:
        print(f"failed, e.g.: {found.said!r}", file=sys.stderr)
    return 1 if found.failed or not all(found.is_flat(kind) for kind in WATCHED) else 0


if __name__ == "__main__":
    sys.exit(main())
