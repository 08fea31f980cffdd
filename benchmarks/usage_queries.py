"""How long questions about usage take with ten million entries, beside reading them all for the answer.

The entries of a month are made by the database itself, then every question is asked five times; the median counts.
Baseline in the same run: the same sums over all entries, which is what a question without sums by hour costs at least.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from sqlalchemy import Connection, func, select

from app.domain.books.sums import SUMS
from app.domain.books.usage import Dimension, Period, UsageQuery
from app.domain.chat import Json
from app.storage.books_tables import usage_entry, usage_hour
from app.storage.database import allow_long, bring_to, open_for_writing
from app.storage.place import FILE_NAME, Place
from app.storage.usage_queries import usage
from benchmarks import report, usage_rows

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


def timed(ask: Callable[[], object]) -> float:
    """Return the median seconds of asking."""
    took = []
    for _ in range(TIMES):
        began = time.perf_counter()
        ask()
        took.append(time.perf_counter() - began)
    return median(took)


def measure(connection: Connection) -> tuple[dict[str, tuple[float, int]], float]:
    """Return (seconds, rows) of every question, and the seconds that reading all entries takes."""
    found = {}
    for name, query in QUESTIONS.items():
        rows = usage(connection, query)
        assert rows, name
        found[name] = (timed(lambda query=query: usage(connection, query)), len(rows))  # type: ignore[misc]  # bound now
    scan = select(*(func.sum(usage_entry.c[name]) for name in SUMS))
    return found, timed(lambda: connection.execute(scan).one())


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.usage_queries", description=__doc__)
    parser.add_argument("--short", action="store_true", help=f"{ROWS_SHORT} entries")
    parser.add_argument("--rows", type=int, help=f"how many entries (default {ROWS})")
    chosen = parser.parse_args(arguments)
    count = chosen.rows or (ROWS_SHORT if chosen.short else ROWS)
    on = report.machine()
    with tempfile.TemporaryDirectory(prefix="tutti-usage-") as folder:
        place = Place(Path(folder))
        engine = open_for_writing(place)
        bring_to(engine, place, None)
        began = time.monotonic()
        with engine.begin() as connection:
            usage_rows.fill(connection, count)
        fill_s = time.monotonic() - began
        with engine.connect() as connection:
            found, scan_s = measure(allow_long(connection))
            hours = connection.execute(select(func.count()).select_from(usage_hour)).scalar_one()
        engine.dispose()
        size_mib = (Path(folder) / FILE_NAME).stat().st_size / 2**20
    print(f"{count} entries, {hours} sums by hour, {size_mib:.0f} MiB, made in {fill_s:.0f} s")
    rows = [("question", "rows", "median", "of reading all entries")]
    rows += [
        (name, str(lines), f"{took_s * 1e3:.1f} ms", f"{took_s / scan_s:.4f}")
        for name, (took_s, lines) in found.items()
    ]
    rows.append(("reading all entries", "1", f"{scan_s * 1e3:.1f} ms", "1"))
    figures: dict[str, Json] = {name: {"median_s": took_s, "rows": lines} for name, (took_s, lines) in found.items()}
    report.publish(
        "usage_queries",
        short=count != ROWS,
        on=on,
        rows=rows,
        found={"entries": count, "sums": hours, "size_mib": size_mib, "scan_s": scan_s, "questions": figures},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
