"""How long questions about usage take with ten million entries, beside reading them all for the answer.

The entries of a month are made by the database itself, then every question is asked five times; the median counts.
Baseline in the same run: the same sums over all entries, which is what a question without sums by hour costs at least.
A question whose plan reads all entries ends the run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import pytest
from sqlalchemy import Connection, func, make_url, select

from app.domain.books.sums import SUMS
from app.domain.books.usage import Dimension, Period, UsageQuery
from app.domain.chat import Json
from app.storage.books_tables import usage_entry, usage_hour
from app.storage.database import allow_long, bring_to, open_for_reading, open_for_writing
from app.storage.place import FILE_NAME, Place
from app.storage.usage_queries import usage
from benchmarks import report, usage_rows
from benchmarks.usage_plans import plan_of, scans_entries
from tests.fixtures.postgres import running_postgres

ROWS, ROWS_SHORT = 10_000_000, 300_000
TIMES = 5

_START, _END = usage_rows.FROM_S, usage_rows.FROM_S + usage_rows.DAYS * 86_400
_MONTH = UsageQuery(from_s=_START, to_s=_END)
_LAST_DAY = replace(_MONTH, from_s=_END - 86_400)
QUESTIONS = {
    "the month, in all": _MONTH,
    "the month, by day": replace(_MONTH, period=Period.DAY),
    "the month, by day in Kathmandu (days begin at :15)": replace(
        _MONTH, period=Period.DAY, time_zone="Asia/Kathmandu"
    ),
    "the month, by user": replace(_MONTH, group_by=(Dimension.USER,)),
    "the month, by team and model": replace(_MONTH, group_by=(Dimension.TEAM, Dimension.MODEL)),
    "the month of one key, by day": replace(_MONTH, period=Period.DAY, filters=((Dimension.KEY, ("key-7",)),)),
    "the last day, by hour and account": replace(_LAST_DAY, period=Period.HOUR, group_by=(Dimension.ACCOUNT,)),
    "the last 24 h to the second, by model": replace(
        _LAST_DAY, from_s=_LAST_DAY.from_s - 601.0, to_s=_END - 601.0, group_by=(Dimension.MODEL,)
    ),
    "one run": replace(_MONTH, filters=((Dimension.RUN, (usage_rows.run_name(77),)),)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Where the entries are made."""

    place: Place
    tidy: Callable[[], object]
    """What the database does by itself some time after such a load, done at once."""
    size_bytes: Callable[[], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """How a question was answered."""

    median_s: float
    rows: int
    plan: tuple[str, ...]


@contextmanager
def on_sqlite() -> Iterator[Ground]:
    """Yield an empty file."""
    with tempfile.TemporaryDirectory(prefix="tutti-usage-") as folder:
        file = Path(folder) / FILE_NAME
        yield Ground(place=Place(Path(folder)), tidy=lambda: None, size_bytes=lambda: file.stat().st_size)


@contextmanager
def on_postgresql() -> Iterator[Ground]:
    """Yield an empty database on a server of its own, which has its package's settings but for room for the load."""
    with tempfile.TemporaryDirectory(prefix="tutti-usage-") as folder, running_postgres() as server:
        server.execute("ALTER SYSTEM SET max_wal_size = '16GB'")
        server.execute("SELECT pg_reload_conf()")
        url = server.new_database()
        name = make_url(url).database or ""
        yield Ground(
            place=Place(Path(folder), url),
            tidy=lambda: server.execute("VACUUM (ANALYZE)", name),
            size_bytes=lambda: int(server.execute(f"SELECT pg_database_size('{name}')")[0][0]),
        )


def timed(ask: Callable[[], object]) -> float:
    """Return the median seconds of asking."""
    took = []
    for _ in range(TIMES):
        began = time.perf_counter()
        ask()
        took.append(time.perf_counter() - began)
    return median(took)


def fill(ground: Ground, count: int) -> None:
    """Make the schema, the entries and their sums."""
    engine = open_for_writing(ground.place)
    bring_to(engine, ground.place, None)
    with engine.begin() as connection:
        usage_rows.fill(connection, count)
    engine.dispose()
    ground.tidy()


def ask(connection: Connection, query: UsageQuery) -> Found:
    """Answer a question so many times, as the store does; its plan must not read all entries."""
    plan = plan_of(connection, query)
    assert not scans_entries(plan), plan
    rows = usage(connection, query)
    assert rows, query
    return Found(median_s=timed(lambda: usage(connection, query)), rows=len(rows), plan=plan)


def measure(ground: Ground) -> tuple[dict[str, Found], float, int]:
    """Return what was found of every question, the seconds that reading all entries takes, and the sums by hour."""
    engine = open_for_reading(ground.place)
    with engine.connect() as connection:
        found = {name: ask(connection, query) for name, query in QUESTIONS.items()}
        connection.rollback()
        scan = select(*(func.sum(usage_entry.c[name]) for name in SUMS))
        allow_long(connection)
        scan_s = timed(lambda: connection.execute(scan).one())
        hours = connection.execute(select(func.count()).select_from(usage_hour)).scalar_one()
    engine.dispose()
    return found, scan_s, hours


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 1 where there is no PostgreSQL to ask."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.usage_queries", description=__doc__)
    parser.add_argument("--short", action="store_true", help=f"{ROWS_SHORT} entries")
    parser.add_argument("--rows", type=int, help=f"how many entries (default {ROWS})")
    parser.add_argument("--postgresql", action="store_true", help="on a server of its own instead of SQLite")
    chosen = parser.parse_args(arguments)
    count = chosen.rows or (ROWS_SHORT if chosen.short else ROWS)
    on = report.machine()
    try:
        with on_postgresql() if chosen.postgresql else on_sqlite() as ground:
            began = time.monotonic()
            fill(ground, count)
            fill_s = time.monotonic() - began
            found, scan_s, hours = measure(ground)
            size_mib = ground.size_bytes() / 2**20
    except pytest.skip.Exception as missing:
        print(missing, file=sys.stderr)
        return 1
    print(f"{count} entries, {hours} sums by hour, {size_mib:.0f} MiB, made in {fill_s:.0f} s")
    rows = [("question", "rows", "median", "of reading all entries")]
    rows += [
        (name, str(one.rows), f"{one.median_s * 1e3:.1f} ms", f"{one.median_s / scan_s:.4f}")
        for name, one in found.items()
    ]
    rows.append(("reading all entries", "1", f"{scan_s * 1e3:.1f} ms", "1"))
    figures: dict[str, Json] = {
        name: {"median_s": one.median_s, "rows": one.rows, "plan": list(one.plan)} for name, one in found.items()
    }
    report.publish(
        "usage_queries_postgresql" if chosen.postgresql else "usage_queries",
        short=count != ROWS,
        on=on,
        rows=rows,
        found={
            **{"entries": count, "sums": hours, "size_mib": size_mib, "fill_s": fill_s, "scan_s": scan_s},
            "questions": figures,
        },
    )
    for name, one in found.items():
        print(f"{name}: {'; '.join(one.plan)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
