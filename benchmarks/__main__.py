"""Runs all benchmarks, or the named ones, one after the other, each in a process and a cluster of its own."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.stage import ROOT

NAMES = (
    "pool",
    "dag",
    "runs_survive",
    "startup",
    "idle",
    "gateway",
    "gateway_pool",
    "gateway_memory",
    "ledger",
    "ledger_actor",
    "usage_queries",
    "events",
)

VARIANTS: dict[str, tuple[tuple[str, ...], ...]] = {"gateway_pool": ((), ("--unknown",))}
"""How often a benchmark is played, and with which arguments; once without any where it is not named here."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 1 where any benchmark failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--short", action="store_true", help="about six minutes for all, on two cores")
    chosen = parser.parse_args(arguments)
    unknown = [name for name in chosen.names if name not in NAMES]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(NAMES)}")
    failed = []
    for name in chosen.names or NAMES:
        for variant in VARIANTS.get(name, ((),)):
            began, title = time.monotonic(), " ".join((name, *variant))
            command = [sys.executable, "-m", f"benchmarks.{name}", *variant, *(["--short"] if chosen.short else [])]
            done = subprocess.run(command, cwd=ROOT, check=False)
            print(f"\n{title}: {time.monotonic() - began:.0f} s in all, exit status {done.returncode}", flush=True)
            if done.returncode:
                failed.append(title)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
