"""What an idle pool costs: memory and CPU with 50 accounts, one per actor and packed, beside the same with one account.

Memory is the proportional set size of everything the cluster consists of, Ray included; CPU is of the same processes
while nobody asks for anything.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

from actors import cluster
from app.domain.chat import Json
from benchmarks import processes, report, stage

ACCOUNTS, ACCOUNTS_SHORT = 50, 4
IDLE_S, IDLE_SHORT_S = 20.0, 4.0
SETTLE_S = 3.0
"""What starting leaves behind (limiter states to save, first rounds of looking) is over after this."""
ACTORS_AT_ONCE = 10
"""A start must be through in a minute, and so must a change: on two cores that is some forty actors. Hence steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How many accounts, and how many of them share an actor."""

    name: str
    accounts: int
    accounts_per_actor: int = 1

    @property
    def steps(self) -> list[int]:
        """How many accounts there are after each step of the start."""
        step = ACTORS_AT_ONCE * self.accounts_per_actor
        return [min(count + step, self.accounts) for count in range(0, self.accounts, step)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """How one layout idles."""

    layout: Layout
    actors: int
    start_s: float
    idle_s: float
    memory_mib: Mapping[str, float]
    cpu_s: Mapping[str, float]
    others_share: float
    """Of all cores while ours idled, kept busy by processes that are not ours."""

    @property
    def total_mib(self) -> float:
        """Memory of everything."""
        return sum(self.memory_mib.values())

    @property
    def cpu_percent(self) -> float:
        """Of one core."""
        return sum(self.cpu_s.values()) / self.idle_s * 100


async def measure(layout: Layout, idle_s: float) -> Found:
    """Start the accounts, let them idle, read; needs a connected Ray cluster."""
    accounts = [
        # Never called: port 9 discards.
        stage.account(f"a{number}", "http://127.0.0.1:9/v1", limits={"rpm": 500, "tpm": 200_000, "concurrency": 32})
        for number in range(layout.accounts)
    ]
    with tempfile.TemporaryDirectory(prefix="tutti-bench-") as folder:
        documents = [
            stage.configuration(
                *accounts[:count], data_dir=f"{folder}/data", accounts_per_actor=layout.accounts_per_actor
            )
            for count in layout.steps
        ]
        began = time.monotonic()
        async with stage.opened(documents[0]) as opened:
            for document in documents[1:]:
                await opened.grow(document)
            start_s = time.monotonic() - began
            await asyncio.sleep(SETTLE_S)
            members = _members()
            before, at, busy_s = processes.cpu_seconds(members), time.monotonic(), processes.machine_cpu_seconds()
            await asyncio.sleep(idle_s)
            cpu_s = processes.cpu_between(before, processes.cpu_seconds(members))
            waited_s, busy_s = time.monotonic() - at, processes.machine_cpu_seconds() - busy_s
            memory_mib = processes.memory_mib(members)
            actors = sum(processes.kind(process) == "AccountActor" for process in members)
    return Found(
        layout=layout,
        actors=actors,
        start_s=start_s,
        idle_s=waited_s,
        memory_mib=memory_mib,
        cpu_s=cpu_s,
        others_share=processes.others_share(busy_s, cpu_s, waited_s),
    )


def _members() -> list[psutil.Process]:
    """Return the processes of the cluster without this one: it only looks."""
    return processes.tree()[1:]


def rows(found: Sequence[Found]) -> list[list[str]]:
    """Return the table; the first layout is the baseline."""
    base = found[0]
    head = ["layout", "account actors", "start", "memory (PSS)", "of the baseline", "a further account"]
    head += ["idle CPU of one core", "of the baseline", "others, of all cores"]
    table = [head]
    for item in found:
        more = item.layout.accounts - base.layout.accounts
        table.append(
            [
                item.layout.name,
                str(item.actors),
                f"{item.start_s:.1f} s",
                f"{item.total_mib:.0f} MiB",
                f"{item.total_mib / base.total_mib:.2f} x",
                f"{(item.total_mib - base.total_mib) / more:.1f} MiB" if more else "",
                f"{item.cpu_percent:.1f} %",
                f"{item.cpu_percent / base.cpu_percent:.2f} x",
                f"{item.others_share:.0%}",
            ]
        )
    return table


def document(found: Sequence[Found]) -> dict[str, Json]:
    """Return everything measured, as JSON."""
    return {
        "layouts": [
            {
                "name": item.layout.name,
                "accounts": item.layout.accounts,
                "accounts_per_actor": item.layout.accounts_per_actor,
                "account_actors": item.actors,
                "start_s": round(item.start_s, 2),
                "idle_s": round(item.idle_s, 2),
                "memory_mib": dict(item.memory_mib),
                "total_mib": round(item.total_mib, 1),
                "cpu_s": dict(item.cpu_s),
                "cpu_percent": round(item.cpu_percent, 2),
                "others_share": item.others_share,
            }
            for item in found
        ]
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description=__doc__)
    parser.add_argument("--short", action="store_true", help=f"{ACCOUNTS_SHORT} accounts, {IDLE_SHORT_S:g} s")
    chosen = parser.parse_args(arguments)
    many = ACCOUNTS_SHORT if chosen.short else ACCOUNTS
    layouts = (
        Layout(name="1 account", accounts=1),
        Layout(name=f"{many} accounts, packed", accounts=many, accounts_per_actor=many),
        Layout(name=f"{many} accounts, one per actor", accounts=many),
    )
    on = report.machine()
    found = []
    for layout in layouts:
        # A cluster of its own for each: idle workers of the one before must not count.
        cluster.start_local(namespace="benchmarks")
        try:
            found.append(asyncio.run(measure(layout, IDLE_SHORT_S if chosen.short else IDLE_S)))
        finally:
            cluster.stop()
    report.publish("idle", short=chosen.short, on=on, rows=rows(found), found=document(found))
    for item in found:
        print(f"\nMiB, {item.layout.name}: {report.said(item.memory_mib)}")
        print(f"CPU seconds in {item.idle_s:.0f} s: {report.said(item.cpu_s)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
