"""The soak: `tutti serve` with two replicas, clients of every kind, faults and kill -9, judged at the end.

python -m tests.torture [--minutes N] [--seed N] [--kills N]; exits with 1 on any violation.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Sequence

from tests.torture import soak
from tests.torture.report import lines
from tests.torture.setting import Setting, said
from tests.torture.verdict import judge

KILL_EVERY_S = 50.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="of load (default 10)")
    parser.add_argument("--seed", type=int, help="decides faults, kills and clients (default: a new one each time)")
    parser.add_argument("--kills", type=int, help=f"processes to kill (default: one per {KILL_EVERY_S:g} s)")
    chosen = parser.parse_args(arguments)
    seconds = 60 * chosen.minutes
    setting = Setting(
        seconds=seconds,
        seed=chosen.seed if chosen.seed is not None else random.randrange(1_000_000),
        kills=chosen.kills if chosen.kills is not None else max(1, int(seconds * 2 / 3 / KILL_EVERY_S)),
    )
    began_s = time.monotonic()
    for line in said(setting):
        print(line, flush=True)
    evidence = asyncio.run(soak.play(setting, lambda text: print(f"… {time.monotonic() - began_s:.0f} s: {text}")))
    checks = judge(evidence)
    print("\n".join(lines(evidence, checks)), flush=True)
    return 0 if all(check.kept for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
