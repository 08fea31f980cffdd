"""How many calls a second the books can hold and settle, durably, in one process; and what a pair costs in CPU.

256 coroutines each hold, then settle with one entry (or a hundred, as the gateway's replicas do), again and again, on
three budgets each, through the journal's writer (group commit, ``synchronous=FULL``). Baseline in the same run: plain
sqlite3 that writes the same rows (but for sums by day and the counter accounts) into the same tables in transactions of
256 commands, with its conditions in SQL and nothing else: no answers, no replays.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from app.domain.books.budgets import BudgetSpec, OwnerKind, Owners, Window
from app.domain.books.entries import Answer, Command, Hold, Settle, UsageEntry
from app.domain.books.legs import leg_set_of, legs_for
from app.domain.books.prices import PriceRow, Rates
from app.domain.books.sums import HOUR_S
from app.domain.chat import Json, Usage
from app.storage import books_checks, budgets, ledger
from app.storage.database import open_database
from app.storage.place import FILE_NAME
from app.storage.writer import Writer
from benchmarks import report

SUBMITTERS = 256
CALLS = 100
"""Of one hold taken ahead."""
PAIRS, PAIRS_SHORT = 60_000, 6_000
USERS = 50
AT_S = 1_795_262_400.0
HOLD_NANO, COST_NANO, HOLD_TOKENS = 40_000, 15_000, 3_000
SPECS = (
    BudgetSpec(owner_kind=OwnerKind.TENANT, owner_name="t", window=Window.MONTH, limit_nano=10**16),
    BudgetSpec(owner_kind=OwnerKind.USER, owner_name="*", window=Window.DAY, limit_nano=10**15, limit_tokens=10**12),
    BudgetSpec(owner_kind=OwnerKind.KEY, owner_name="*", window=Window.MONTH, limit_nano=10**15),
)
PRICE = PriceRow(price_id="p", model="m", rates=Rates(input="5", output="20"))
USAGE = Usage(input_tokens=1_000, output_tokens=500)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one way of booking took."""

    pairs: int
    """Calls held and settled."""
    wall_s: float
    cpu_s: float
    p50_ms: float | None = None
    p99_ms: float | None = None

    @property
    def per_s(self) -> float:
        return self.pairs / self.wall_s

    @property
    def cpu_us(self) -> float:
        return self.cpu_s / self.pairs * 1e6


class Gathered:
    """Hands commands to the writer together: while one batch is written, the next one gathers.

    Not thread-safe: one event loop's.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._waiting: list[tuple[Command, asyncio.Future[Answer]]] = []
        self._under_way = False

    async def submit(self, command: Command) -> Answer:
        """Apply a command and return once it is on disk."""
        done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, done))
        if not self._under_way:
            self._under_way = True
            # Whoever is ready now comes along.
            asyncio.get_running_loop().call_soon(self._send)
        return await done

    def _send(self) -> None:
        batch, self._waiting = self._waiting, []
        commands = [command for command, _done in batch]

        def write(connection: Connection) -> list[Answer]:
            return ledger.apply(connection, commands)

        written = asyncio.wrap_future(self._writer.submit(write))
        written.add_done_callback(lambda answers: self._answer(batch, answers.result()))

    def _answer(self, batch: Sequence[tuple[Command, asyncio.Future[Answer]]], answers: Sequence[Answer]) -> None:
        for (_command, done), answer in zip(batch, answers, strict=True):
            done.set_result(answer)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._send)
        else:
            self._under_way = False


def owners_of(number: int) -> Owners:
    """Return one of the owners; each user has two keys."""
    return Owners(tenant="t", team="team", user=f"user-{number % USERS}", key=f"key-{number % (2 * USERS)}")


def pair(number: int, calls: int = 1) -> tuple[Hold, Settle]:
    """Return a hold for so many calls, and its settlement with their entries."""
    owners = owners_of(number)
    hold_id = f"h-{number:012d}"
    hold = Hold(
        hold_id=hold_id,
        owners=owners,
        amount_nano=HOLD_NANO * calls,
        tokens=HOLD_TOKENS * calls,
        at_s=AT_S,
        expires_s=AT_S + 60,
        holder="benchmark",
        calls=calls,
    )
    entries = tuple(_entry(f"e-{number:012d}-{place}", number + place, owners) for place in range(calls))
    return hold, Settle(hold_id=hold_id, entries=entries, at_s=AT_S)


def _entry(entry_id: str, number: int, owners: Owners) -> UsageEntry:
    return UsageEntry(
        entry_id=entry_id,
        at_s=AT_S,
        owners=owners,
        account=f"account-{number % 8}",
        provider="openai",
        model=f"model-{number % 4}",
        task_type="general",
        usage=USAGE,
        cost_nano=COST_NANO,
        price_id="p",
        duration_s=1.5,
    )


async def measure_books(folder: Path, pairs: int, calls: int = 1) -> Found:
    """Play the pairs through the ledger and the journal's writer; everything must add up after."""
    engine = open_database(folder)
    with engine.begin() as connection:
        budgets.sync_budgets(connection, SPECS, AT_S)
        budgets.record_prices(connection, [PRICE])
    writer = Writer(engine)
    gathered = Gathered(writer)
    waits: list[float] = []

    async def play(first: int) -> None:
        for number in range(first, pairs // calls, SUBMITTERS):
            hold, settle = pair(number, calls)
            for command in (hold, settle):
                began = time.monotonic()
                answer = await gathered.submit(command)
                assert answer.outcome == "done"
                waits.append(time.monotonic() - began)

    wall, cpu = time.monotonic(), time.process_time()
    await asyncio.gather(*(play(first) for first in range(SUBMITTERS)))
    wall_s, cpu_s = time.monotonic() - wall, time.process_time() - cpu
    writer.close()
    with engine.begin() as connection:
        assert books_checks.verify(connection) == []
    engine.dispose()
    waits.sort()
    return Found(
        pairs=pairs // calls * calls,
        wall_s=wall_s,
        cpu_s=cpu_s,
        p50_ms=waits[len(waits) // 2] * 1e3,
        p99_ms=waits[len(waits) * 99 // 100] * 1e3,
    )


def measure_raw(folder: Path, pairs: int) -> Found:
    """Write the same rows with sqlite3 alone."""
    engine = open_database(folder)
    with engine.begin() as connection:
        budgets.sync_budgets(connection, SPECS, AT_S)
        # Leg sets and accounts stand ready, as they do for every call but an owner's first.
        ledger.apply(connection, [command for number in range(2 * USERS) for command in pair(-1 - number)])
    engine.dispose()
    database = sqlite3.connect(folder / FILE_NAME, isolation_level=None)
    database.execute("PRAGMA synchronous=FULL")
    wall, cpu = time.monotonic(), time.process_time()
    for start in range(0, pairs, SUBMITTERS):
        numbers = range(start, min(start + SUBMITTERS, pairs))
        for write in (_raw_hold, _raw_settle):
            database.execute("BEGIN IMMEDIATE")
            for number in numbers:
                write(database, number)
            database.execute("COMMIT")
    found = Found(pairs=pairs, wall_s=time.monotonic() - wall, cpu_s=time.process_time() - cpu)
    (booked,) = database.execute("SELECT count(*) FROM usage_entry").fetchone()
    assert booked == pairs + 2 * USERS
    database.close()
    return found


def _raw_legs(number: int) -> tuple[list[tuple[str, bool]], str]:
    legs = legs_for(owners_of(number), SPECS, AT_S)
    return [(key.account_id, key.ledger == "usd") for key in legs], leg_set_of(key.account_id for key in legs)


_LEGS = {number: _raw_legs(number) for number in range(2 * USERS)}
_HOLD = "INSERT INTO hold VALUES (?, 'open', 0, 't', 'team', ?, ?, '', ?, ?, 1, '[]', 'raw', ?, ?, NULL, ?)"
_TRANSFER = (
    "INSERT INTO transfer (kind, at_s, hold_id, leg_set, nano, tokens, freed_nano, freed_tokens) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_TAKE = (
    "UPDATE ledger_account SET debits_pending = debits_pending + ?1 "
    "WHERE id = ?2 AND debits_posted + debits_pending + debits_unknown + ?1 <= 10000000000000000"
)
_POST = "UPDATE ledger_account SET debits_pending = debits_pending - ?, debits_posted = debits_posted + ? WHERE id = ?"
_ENTRY = (
    "INSERT INTO usage_entry VALUES (?, NULL, ?, ?, ?, ?, ?, '', '', 't', 'team', ?, ?, ?, ?, 'openai', 'general', "
    "'answered', 1, 0, 1000, 500, 0, 0, 0, 0, 15000, 0, 1500, 0, 'p', 'provider', NULL, '', '', '')"
)
_HOUR = (
    "INSERT INTO usage_hour VALUES (?, 't', 'team', ?, ?, ?, ?, 'openai', 'general', 'answered', 1, 0, 1000, 500, "
    "0, 0, 0, 0, 15000, 0, 1500) ON CONFLICT DO UPDATE SET calls = calls + 1, cost_nano = cost_nano + 15000, "
    "input_tokens = input_tokens + 1000, output_tokens = output_tokens + 500, duration_ms = duration_ms + 1500"
)


def _raw_hold(database: sqlite3.Connection, number: int) -> None:
    legs, leg_set = _LEGS[number % (2 * USERS)]
    owners = owners_of(number)
    hold_id = f"h-{number:012d}"
    database.execute(_HOLD, (hold_id, owners.user, owners.key, HOLD_NANO, HOLD_TOKENS, AT_S, AT_S + 60, leg_set))
    for account_id, usd in legs:
        database.execute(_TAKE, (HOLD_NANO if usd else HOLD_TOKENS, account_id))
    database.execute(_TRANSFER, ("pending", AT_S, hold_id, leg_set, HOLD_NANO, HOLD_TOKENS, 0, 0))


def _raw_settle(database: sqlite3.Connection, number: int) -> None:
    legs, leg_set = _LEGS[number % (2 * USERS)]
    owners = owners_of(number)
    hold_id, hour = f"h-{number:012d}", int(AT_S // HOUR_S)
    place = (owners.user, owners.key, f"model-{number % 4}", f"account-{number % 8}")
    tokens = USAGE.input_tokens + USAGE.output_tokens
    database.execute(_ENTRY, (f"e-{number:012d}", hold_id, leg_set, AT_S, hour, AT_S, *place))
    database.execute(_HOUR, (hour, *place))
    for account_id, usd in legs:
        database.execute(_POST, (*((HOLD_NANO, COST_NANO) if usd else (HOLD_TOKENS, tokens)), account_id))
    database.execute("UPDATE hold SET state = 'posted', ended_s = ? WHERE id = ? AND state = 'open'", (AT_S, hold_id))
    database.execute(_TRANSFER, ("post", AT_S, hold_id, leg_set, COST_NANO, tokens, HOLD_NANO, HOLD_TOKENS))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger", description=__doc__)
    parser.add_argument("--short", action="store_true", help=f"{PAIRS_SHORT} pairs instead of {PAIRS}")
    chosen = parser.parse_args(arguments)
    pairs = PAIRS_SHORT if chosen.short else PAIRS
    on = report.machine()
    found: dict[str, Found] = {}
    ways: dict[str, Callable[[Path], Found]] = {
        "plain sqlite3, the same rows": lambda folder: measure_raw(folder, pairs),
        "the books, a hold for each call": lambda folder: asyncio.run(measure_books(folder, pairs)),
        "the books, a hold for 100 calls": lambda folder: asyncio.run(measure_books(folder, 5 * pairs, CALLS)),
    }
    for name, measure in ways.items():
        with tempfile.TemporaryDirectory(prefix="tutti-ledger-") as folder:
            found[name] = measure(Path(folder))
    raw = found["plain sqlite3, the same rows"]
    rows = [("way", "calls", "calls/s", "of plain", "CPU a call", "of plain", "p50", "p99")]
    figures: dict[str, Json] = {}
    for name, one in found.items():
        p50, p99 = ("" if ms is None else f"{ms:.1f} ms" for ms in (one.p50_ms, one.p99_ms))
        rows.append(
            (
                *(name, str(one.pairs), f"{one.per_s:.0f}", f"{one.per_s / raw.per_s:.2f}"),
                *(f"{one.cpu_us:.0f} us", f"{one.cpu_us / raw.cpu_us:.2f}", p50, p99),
            )
        )
        figures[name] = {"calls_per_s": one.per_s, "cpu_us": one.cpu_us, "p50_ms": one.p50_ms, "p99_ms": one.p99_ms}
    report.publish("ledger", short=chosen.short, on=on, rows=rows, found={"submitters": SUBMITTERS, "ways": figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
