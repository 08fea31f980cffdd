"""Plays crash combinations: lives that kill themselves, the provider's bills and the books after every death.

Each life is a process of its own, forked from one that has imported everything; it ends by SIGKILL where it says so,
or it is done. After each the books are read from a copy of the file, and compared with what the provider billed.
"""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerContext
from pathlib import Path

import httpx

from app.domain.accounts import EndpointClass, OnUnknown
from app.storage.place import FILE_NAME
from tests.fakes.simulated import Simulator
from tests.torture import crash_plan
from tests.torture.crash_life import STORE_LAG_S, Life, Way, live

LIFE_WITHIN_S = 120.0
QUIET_WITHIN_S = 30.0
NANO_PER_INPUT_TOKEN, NANO_PER_OUTPUT_TOKEN = 1_000, 4_000

_FIGURES = """
SELECT ledger, SUM(debits_posted - credits_posted), SUM(debits_pending), SUM(debits_unknown)
FROM ledger_account WHERE owner_kind = 'tenant' AND window_kind = 'total' GROUP BY ledger
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of the table: who is asked, and what is done about a call that was under way."""

    way: Way
    endpoint: EndpointClass
    on_unknown: OnUnknown = "retry"
    calls: int = 1

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.way}, {self.endpoint}" + (", hold" if self.on_unknown == "hold" else "")

    @property
    def more_points(self) -> tuple[str, ...]:
        """Points that only a call of several requests has."""
        return crash_plan.LATER_SENDS if self.endpoint in (EndpointClass.REATTACH, EndpointClass.BATCH) else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bills:
    """What the provider billed."""

    requests: int
    input_tokens: int
    output_tokens: int

    @property
    def nano(self) -> int:
        """In nano-dollars."""
        return self.input_tokens * NANO_PER_INPUT_TOKEN + self.output_tokens * NANO_PER_OUTPUT_TOKEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the books say, in one unit: nano-dollars or tokens."""

    spent: int = 0
    held: int = 0
    unknown: int = 0

    @property
    def total(self) -> int:
        """All that may have been bought."""
        return self.spent + self.held + self.unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What became of one combination."""

    case: Case
    points: tuple[str, ...]
    deaths: tuple[str, ...]
    """Points at which a life really died, in order."""
    bills: Bills
    obtained: int
    """Calls whose answer is there in the end."""
    below: tuple[str, ...]
    """Moments at which the books were below the bills."""
    figures: Figures
    """Nano-dollars in the end."""
    failed: str = ""
    """Why it did not come to an end."""

    @property
    def duplicates(self) -> int:
        """Bills beyond one a call."""
        return max(0, self.bills.requests - self.case.calls)


class Stage:
    """Where combinations are played, one after the other.

    Args:
        simulator: The provider.
        folder: For the files of the lives.
    """

    def __init__(self, simulator: Simulator, folder: Path) -> None:
        self._simulator = simulator
        self._folder = folder
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        # A child runs its parent's main module again: what that imports must be there, or every life imports it.
        main = getattr(sys.modules["__main__"].__spec__, "name", None)
        self._context.set_forkserver_preload(["tests.torture.crash_life", *([main] if main else [])])
        self._played = 0
        self._template: Path | None = None

    def play(self, case: Case, points: Iterable[str]) -> Played:
        """Let lives die at ``points``, one a life, then one live to the end."""
        self._played += 1
        folder = self._folder / f"{self._played}"
        (folder / "answers").mkdir(parents=True)
        if self._template is None:
            self._template = self._new_database()
        shutil.copytree(self._template, folder / "data")
        httpx.post(f"{self._simulator.url}/__reset", timeout=30).raise_for_status()
        try:
            return self._lives(case, tuple(points), folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _lives(self, case: Case, points: tuple[str, ...], folder: Path) -> Played:
        deaths: list[str] = []
        below: list[str] = []
        failed = ""
        life = Life(
            way=case.way,
            endpoint=case.endpoint,
            on_unknown=case.on_unknown,
            folder=str(folder),
            url=self._simulator.url,
            number=0,
            crash_at="",
            calls=case.calls,
        )
        for number, point in enumerate((*points, "")):
            status = self._live(replace(life, number=number, crash_at=point))
            bills, nano, tokens = self._looked(folder)
            moment = f"life {number + 1}, {point or 'to its end'}"
            if nano.total < bills.nano:
                below.append(f"{moment}: {nano} are less than {bills.nano} nano-dollars")
            if tokens.total < bills.input_tokens + bills.output_tokens:
                below.append(f"{moment}: {tokens} are less than {bills} tokens")
            if status == -signal.SIGKILL and point:
                deaths.append(point)
                continue
            if status != 0:
                failed = f"{moment}: ended with {status}"
            break
        return Played(
            case=case,
            points=points,
            deaths=tuple(deaths),
            bills=bills,
            obtained=len(list((folder / "answers").iterdir())),
            below=tuple(below),
            figures=nano,
            failed=failed,
        )

    def _live(self, life: Life) -> int | None:
        process = self._context.Process(target=live, args=(life,))
        process.start()
        process.join(LIFE_WITHIN_S)
        if process.is_alive():
            process.kill()
            process.join()
            return None
        return process.exitcode

    def _looked(self, folder: Path) -> tuple[Bills, Figures, Figures]:
        """Return the bills once the provider has nothing under way, and the books in nano-dollars and in tokens."""
        until_s = time.monotonic() + QUIET_WITHIN_S
        while (total := self._simulator.stats()["total"])["in_flight"]:
            assert time.monotonic() < until_s, "the provider is still at work"
            time.sleep(0.01)
        bills = Bills(
            requests=total["billed_requests"],
            input_tokens=total["billed_input_tokens"],
            output_tokens=total["billed_output_tokens"],
        )
        figures = _read(folder)
        return bills, figures.get("usd", Figures()), figures.get("tokens", Figures())

    def _new_database(self) -> Path:
        """Return a data directory whose database has its tables: making them takes longer than a life."""
        folder = self._folder / "template"
        (folder / "answers").mkdir(parents=True)
        life = Life(
            way="gateway",
            endpoint=EndpointClass.OPAQUE,
            on_unknown="retry",
            folder=str(folder),
            url=self._simulator.url,
            number=0,
            crash_at="",
            calls=0,
        )
        status = self._live(life)
        assert status == 0, f"a life without calls ended with {status}"
        return folder / "data"


def _read(folder: Path) -> dict[str, Figures]:
    """Return the tenant's figures by ledger, from a copy: who opens the file itself would tidy up after the dead."""
    copy = folder / "copy"
    copy.mkdir()
    try:
        for file in (folder / "data").glob(f"{FILE_NAME}*"):
            shutil.copy(file, copy / file.name)
        with closing(sqlite3.connect(copy / FILE_NAME)) as connection:
            return {
                ledger: Figures(spent=spent, held=held, unknown=unknown)
                for ledger, spent, held, unknown in connection.execute(_FIGURES)
            }
    finally:
        shutil.rmtree(copy)


def simulator_document() -> dict[str, object]:
    """Return the provider's configuration: answers at once, and bills what it accepted whoever leaves."""
    return {
        "host": "127.0.0.1",
        "port": 0,
        "profile": {"latency": {"kind": "constant", "mean_s": 0}},
        "default_reply": "lorem",
        "bill_on_disconnect": "all",
        "idempotency": True,
        "store_lag_s": STORE_LAG_S,
    }
