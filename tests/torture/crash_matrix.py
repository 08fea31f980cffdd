"""The crash matrix: a process killed at every named point of a call, at every pair, at triples drawn by a seed.

python -m tests.torture.crash_matrix [--triples N] [--seed N] [--page FILE]; exits with 1 on any violation.
"""

from __future__ import annotations

import argparse
import platform
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import yaml

from app.domain.accounts import EndpointClass
from benchmarks.report import table
from tests.fakes.simulated import running_simulator
from tests.torture import crash_plan
from tests.torture.crash_play import Case, Played, Stage, simulator_document
from tests.torture.crash_verdict import rows, violations

CASES = (
    Case(way="gateway", endpoint=EndpointClass.OPAQUE),
    Case(way="gateway", endpoint=EndpointClass.IDEMPOTENT),
    Case(way="gateway", endpoint=EndpointClass.LOOKUP),
    Case(way="run", endpoint=EndpointClass.OPAQUE),
    Case(way="run", endpoint=EndpointClass.OPAQUE, on_unknown="hold"),
    Case(way="run", endpoint=EndpointClass.IDEMPOTENT),
    Case(way="run", endpoint=EndpointClass.LOOKUP),
    Case(way="run", endpoint=EndpointClass.REATTACH),
    Case(way="run", endpoint=EndpointClass.REATTACH, on_unknown="hold"),
    Case(way="run", endpoint=EndpointClass.BATCH),
)
CASES_AT_ONCE = 4
"""A life waits more than it computes."""
AT_ONCE = 3
"""Calls under way together, in combinations of their own."""
AT_ONCE_COMBINATIONS = 8

_PAGE = """\
# Crash matrix

A process that buys is killed (SIGKILL) at a named point of its way, started again on the same files, killed again at
another point, and so on, then lives to its end. The provider is a process of its own that bills whatever it accepted;
its bills are compared with the books after every death. `make crash-matrix` plays all of it again and writes this page:
{combinations} combinations, {deaths} deaths, seed {seed}, {day}, Python {python}.

Figures with strokes are by number of planned deaths: one / two / three. Every point alone and every pair are played,
triples are drawn. *Books below*: moments at which spent + held + unknown was less than the bills; it must be 0.

{table}

{verdict}

- **gateway**: clients of a replica, who ask again until they have an answer, with their own Idempotency-Key except at
  the opaque endpoint; what an attempt that died had held is unknown from then on, and counts as spent.
- **run**: the calls of a project, which a later life of its conductor takes over from the journal.
- **opaque** (the default): nobody can ask the provider what became of a call, so a crash between its first byte and our
  journal buys again: at most as often as calls were under way. **hold**: a person decides instead, and nothing is
  bought twice. **idempotent**: the provider honours our key, and gives the stored answer. **lookup**: calls are found
  by our key before they are sent again. **reattach**: the provider names a call at once and makes it without us; its
  answer is fetched by that name. Until the name is in our journal (`before-send`, `accepted`, `received`) the call is
  as one at an opaque endpoint: bought again, or, with **hold**, a person's to decide. From then on (`before-send:2`)
  nothing is bought twice. **batch**: a batch has a name of ours, on disk before it leaves, by which it is found again.

The points, in order: {points}; `:2` means the second time, which only a call of several requests (`reattach`, `batch`)
has. They are compiled in and off; `TUTTI_CRASH_AT` names one for tests.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.crash_matrix", description=__doc__)
    parser.add_argument("--triples", type=int, default=20, help="of each case (default 20)")
    parser.add_argument("--seed", type=int, help="decides the triples (default: a new one each time)")
    parser.add_argument("--page", type=Path, help="write the page there if nothing was violated")
    chosen = parser.parse_args(arguments)
    seed = chosen.seed if chosen.seed is not None else random.randrange(1_000_000)
    print(f"crash matrix, seed {seed}", flush=True)
    record = played(chosen.triples, seed)
    found = [what for each in record for what in violations(each)]
    print(table(rows(record)))
    print("\n".join(f"NOT KEPT: {what}" for what in found) or "kept", flush=True)
    if chosen.page is not None and not found:
        chosen.page.write_text(page(record, seed), encoding="utf-8")
    return 1 if found else 0


def played(triples: int, seed: int) -> list[Played]:
    """Play everything; tells how far it is."""
    with (
        tempfile.TemporaryDirectory(prefix="tutti-crash-", ignore_cleanup_errors=True) as name,
        ThreadPoolExecutor(CASES_AT_ONCE) as pool,
    ):
        under_way = [
            pool.submit(_play, case, Path(name) / str(number), triples, seed) for number, case in enumerate(CASES)
        ]
        return [each for case in under_way for each in case.result()]


def _play(case: Case, folder: Path, triples: int, seed: int) -> list[Played]:
    began_s = time.monotonic()
    folder.mkdir()
    file = folder / "provider.yaml"
    file.write_text(yaml.safe_dump(simulator_document()), encoding="utf-8")
    more = case.more_points
    combinations = [*crash_plan.singles(more), *crash_plan.pairs(more), *crash_plan.triples(triples, seed, more)]
    together = replace(case, calls=AT_ONCE)
    with running_simulator(file) as simulator:
        stage = Stage(simulator, folder)
        record = [stage.play(case, points) for points in combinations]
        record += [stage.play(together, points) for points in crash_plan.triples(AT_ONCE_COMBINATIONS, seed + 1, more)]
    print(f"… {case.name}: {len(record)} combinations in {time.monotonic() - began_s:.0f} s", flush=True)
    return record


def page(record: Sequence[Played], seed: int) -> str:
    """Return the page in docs/."""
    head, *body = rows(record)
    lines = [head, ["---"] * len(head), *body]
    return _PAGE.format(
        combinations=len(record),
        deaths=sum(len(each.deaths) for each in record),
        seed=seed,
        day=f"{datetime.now(UTC):%Y-%m-%d}",
        python=platform.python_version(),
        table="\n".join(f"| {' | '.join(line)} |" for line in lines),
        verdict="Nothing was violated.",
        points=", ".join(f"`{point}`" for point in crash_plan.LATER),
    )


if __name__ == "__main__":
    sys.exit(main())
