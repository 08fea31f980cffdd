"""What the way over the store actor costs the books: pairs a second from two processes, beside the same in one process.

256 coroutines, half in each of two processes, hold and settle again and again through ``StoreHandle``: commands issued
while a message is under way travel together in the next, and the store writes what has gathered in one transaction
(``synchronous=FULL``). Baseline in the same run: the same coroutines in one process over the ledger and its writer
(``benchmarks.ledger``). The bound of the design: at least half of it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from actors import bootstrap, cluster
from actors.store_handle import StoreHandle
from app.domain.chat import Json
from benchmarks import processes, report
from benchmarks.ledger import CALLS, PAIRS, PAIRS_SHORT, PRICE, SPECS, SUBMITTERS, Found, measure_books, pair

CLIENTS = 2
SHARE_MIN = 0.5
WARM_PAIRS = 256


class Client:
    """Half of the coroutines, in a process of its own."""

    def __init__(self, namespace: str) -> None:
        self._store = StoreHandle(namespace)

    async def play(self, first: int, holds: int, calls: int) -> list[float]:
        """Hold and settle ``holds`` times, numbered from ``first``; return how long each command took, in seconds."""
        waits: list[float] = []
        numbers = iter(range(first, first + holds))

        async def one() -> None:
            for number in numbers:
                for command in pair(number, calls):
                    began = time.monotonic()
                    (answer,) = await self._store.apply_books([command])
                    assert answer.outcome == "done", answer
                    waits.append(time.monotonic() - began)

        await asyncio.gather(*(one() for _ in range(SUBMITTERS // CLIENTS)))
        return waits


async def measure_actor(folder: Path, pairs: int, calls: int = 1) -> Found:
    """Play the pairs through the store actor of the connected cluster; everything must add up after."""
    namespace = f"bench-{uuid.uuid4().hex[:8]}"
    bootstrap._create(bootstrap.STORE_CLASS, bootstrap.STORE, namespace, str(folder), None, namespace)
    store = StoreHandle(namespace)
    await store.ping(timeout_s=60.0)
    await store.sync_books(SPECS, [PRICE])
    clients: list[Any] = [ray.remote(Client).options(num_cpus=0).remote(namespace) for _ in range(CLIENTS)]
    await asyncio.gather(*(client.play.remote(10**9 * (1 + at), WARM_PAIRS, 1) for at, client in enumerate(clients)))
    holds = pairs // calls // CLIENTS
    tree = processes.tree()
    cpu, wall = sum(processes.cpu_seconds(tree).values()), time.monotonic()
    told = await asyncio.gather(*(client.play.remote(at * holds, holds, calls) for at, client in enumerate(clients)))
    wall_s, cpu_s = time.monotonic() - wall, sum(processes.cpu_seconds(tree).values()) - cpu
    assert await store.verify_books() == []
    await store.close()
    for client in clients:
        ray.kill(client)
    bootstrap._kill(bootstrap.STORE, namespace)
    waits = sorted(wait for each in told for wait in each)
    return Found(
        pairs=holds * CLIENTS * calls,
        wall_s=wall_s,
        cpu_s=cpu_s,
        p50_ms=waits[len(waits) // 2] * 1e3,
        p99_ms=waits[len(waits) * 99 // 100] * 1e3,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger_actor", description=__doc__)
    parser.add_argument("--short", action="store_true", help=f"{PAIRS_SHORT} pairs instead of {PAIRS}")
    chosen = parser.parse_args(arguments)
    pairs = PAIRS_SHORT if chosen.short else PAIRS
    on = report.machine()
    found: dict[str, Found] = {}
    cluster.start_local(namespace="benchmarks")
    try:
        for calls, many, words in ((1, pairs, "a hold for each call"), (CALLS, 5 * pairs, f"a hold for {CALLS} calls")):
            with tempfile.TemporaryDirectory(prefix="tutti-ledger-") as folder:
                found[f"in process, {words}"] = asyncio.run(measure_books(Path(folder), many, calls))
            with tempfile.TemporaryDirectory(prefix="tutti-ledger-") as folder:
                found[f"store actor, {words}"] = asyncio.run(measure_actor(Path(folder), many, calls))
    finally:
        cluster.stop()
    head = (
        "way",
        "calls",
        "calls/s",
        f"of in process (at least {SHARE_MIN})",
        "CPU a call, all processes",
        "p50",
        "p99",
    )
    rows: list[tuple[str, ...]] = [head]
    figures: dict[str, Json] = {}
    for name, one in found.items():
        share = one.per_s / found[name.replace("store actor", "in process")].per_s
        rows.append(
            (
                *(name, str(one.pairs), f"{one.per_s:.0f}", f"{share:.2f}", f"{one.cpu_us:.0f} us"),
                *(f"{ms:.1f} ms" for ms in (one.p50_ms or 0.0, one.p99_ms or 0.0)),
            )
        )
        figures[name] = {"calls_per_s": one.per_s, "share": share, "cpu_us": one.cpu_us, "p50_ms": one.p50_ms}
    report.publish("ledger_actor", short=chosen.short, on=on, rows=rows, found={"ways": figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
