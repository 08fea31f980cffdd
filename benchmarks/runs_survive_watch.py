"""What can be seen from outside of runs that are being conducted: the journal's file, the provider's bills, processes.

Reads SQLite's file with connections of its own, opened for each look: the store may be dead just then.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from app.domain.run import RunStatus
from app.storage.place import FILE_NAME
from benchmarks import processes
from tests.fakes.simulated import Simulator

QUIET_WITHIN_S = 60.0
_LOOK_TIMEOUT_S = 30.0
_ENDED = frozenset(status.value for status in RunStatus if status.ended)
_STANDS = """
SELECT id, status, (SELECT at_s FROM event WHERE run_id = run.id ORDER BY seq DESC LIMIT 1) FROM run
"""
_BOOKED = """
SELECT COALESCE(SUM(debits_posted - credits_posted + debits_pending + debits_unknown), 0)
FROM ledger_account WHERE owner_kind = 'tenant' AND window_kind = 'total' AND ledger = 'tokens'
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """How far one run has come."""

    status: str
    last_s: float
    """Wall time of its newest line on disk."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in _ENDED


@dataclass(frozen=True, slots=True)
class JournalFile:
    """The database of a store that runs, or has just died."""

    data_dir: Path

    def stands(self, run_ids: Iterable[str]) -> dict[str, Stand]:
        """Return how far each of these runs has come; one that is not there is left out."""
        wanted = set(run_ids)
        return {
            name: Stand(status=status, last_s=last_s or 0.0)
            for name, status, last_s in self._rows(_STANDS)
            if name in wanted
        }

    def tasks_done(self) -> int:
        """Return how many tasks are completed, over all runs."""
        return self._number("SELECT COUNT(*) FROM task WHERE state = 'completed'")

    def calls(self) -> Mapping[str, int]:
        """Return how many provider calls there are in each state."""
        return {
            str(state): int(count) for state, count in self._rows("SELECT state, COUNT(*) FROM call GROUP BY state")
        }

    def tokens_booked(self) -> int:
        """Return what the tenant has spent, holds, and may have spent, in tokens."""
        return self._number(_BOOKED)

    def _number(self, sql: str) -> int:
        ((number,),) = self._rows(sql)
        return int(number)

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        path = f"file:{self.data_dir / FILE_NAME}?mode=ro"
        with closing(sqlite3.connect(path, uri=True, timeout=_LOOK_TIMEOUT_S)) as connection:
            return connection.execute(sql).fetchall()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bills:
    """What the provider has billed."""

    requests: int
    tokens: int
    under_way: int


def bills(simulator: Simulator) -> Bills:
    """Return the provider's bills of this moment."""
    total = simulator.stats()["total"]
    return Bills(
        requests=int(total["billed_requests"]),
        tokens=int(total["billed_input_tokens"]) + int(total["billed_output_tokens"]),
        under_way=int(total["in_flight"]),
    )


def final_bills(simulator: Simulator) -> Bills:
    """Return the bills once the provider has nothing under way."""
    until_s = time.monotonic() + QUIET_WITHIN_S
    while (found := bills(simulator)).under_way:
        if time.monotonic() > until_s:
            raise RuntimeError("the provider is still at work")
        time.sleep(0.1)
    return found


def actor(kind: str) -> psutil.Process:
    """Return the one living process of an actor's class."""
    (found,) = [process for process in processes.tree() if processes.kind(process) == kind]
    return found


def private_mib(kinds: Iterable[str]) -> dict[str, float]:
    """Return the memory that each of these actors has for itself; one that is not running is left out."""
    wanted = re.compile("|".join(kinds))
    sizes = {}
    for process in processes.tree():
        try:
            if wanted.fullmatch(name := processes.kind(process)):
                sizes[name] = process.memory_full_info().uss / 2**20
        except psutil.Error:
            continue
    return sizes
