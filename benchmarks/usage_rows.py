"""Fills the books' tables with usage of a month, by the database itself: millions of entries and the sums of them.

Ids are of one width and rise with time, so that every index is appended to: with ids that jump about each entry would
cost a page of an index that no cache holds. Sums are made day by day, in memory.
"""

from __future__ import annotations

from sqlalchemy import Connection

from app.domain.books.sums import DIMENSIONS, SUMS
from app.storage.database import allow_long

FROM_S = 1_793_491_200
"""2026-11-01 00:00 UTC."""
DAYS = 30
RUN_EVERY = 10
"""Each so manieth call belongs to a run of ten calls."""
FIRST_ID = 100_000_000
CACHE_KIB = 512 * 1024
"""SQLite's own 2 MB would be read and written again and again."""

_HASH = "(({i}) * 7919) % 1000003"
"""Spreads neighbours over users, keys and models, the same on every engine."""

_DIMENSIONS = {
    "tenant": "'t'",
    "team": "'team-' || CAST({h} % 20 AS TEXT)",
    "user": "'user-' || CAST({h} % 200 AS TEXT)",
    "key": "'key-' || CAST({h} % 200 AS TEXT)",
    "model": "'model-' || CAST({h} % 8 AS TEXT)",
    "account": "'account-' || CAST({h} % 24 AS TEXT)",
    "provider": "'provider-' || CAST({h} % 4 AS TEXT)",
    "task_type": "'type-' || CAST({h} % 5 AS TEXT)",
    "ending": "CASE WHEN {h} % 50 = 0 THEN 'failed' ELSE 'answered' END",
}
_SUMS = {
    "calls": "1",
    "unpriced": "CASE WHEN {h} % 97 = 0 THEN 1 ELSE 0 END",
    "input_tokens": "{h} % 4000",
    "output_tokens": "{h} % 900",
    "cost_nano": "CASE WHEN {h} % 97 = 0 THEN 0 ELSE ({h} % 4000) * 1000 END",
    "duration_ms": "{h} % 3000",
}
_OTHERS = {
    "id": "'e-' || CAST({first} + {i} AS TEXT)",
    "leg_set": "'none'",
    "at_s": "CAST({from_s} + ({i} * {step_ms}) / 1000 AS FLOAT)",
    "hour": "({from_s} + ({i} * {step_ms}) / 1000) / 3600",
    "booked_s": "CAST({from_s} AS FLOAT)",
    "run_id": "CASE WHEN {i} % {every} = 0 THEN 'run-' || CAST({first} + {i} / 100 AS TEXT) ELSE '' END",
    "task_id": "''",
    "batch": "0",
    "usage_source": "'provider'",
    "request_id": "''",
    "trace_id": "''",
    "error_kind": "''",
}


def run_name(number: int) -> str:
    """Return the id of a run that has entries."""
    return f"run-{FIRST_ID + number}"


def fill(connection: Connection, count: int) -> None:
    """Insert ``count`` entries, evenly over the month, and the sums they make."""
    allow_long(connection)
    if connection.dialect.name == "sqlite":
        before = connection.exec_driver_sql("PRAGMA cache_size").scalar_one()
        connection.exec_driver_sql(f"PRAGMA cache_size = -{CACHE_KIB}")
        _fill(connection, count)
        connection.exec_driver_sql(f"PRAGMA cache_size = {before}")
    else:
        _fill(connection, count)


def _fill(connection: Connection, count: int) -> None:
    cells = {**_OTHERS, **_DIMENSIONS, **dict.fromkeys(SUMS, "0"), **_SUMS}
    names = ", ".join(f'"{name}"' for name in cells)
    # Large numbers on the way: PostgreSQL's integers end at two thousand million.
    values = {
        "i": "CAST(i AS BIGINT)",
        "h": _HASH.format(i="CAST(i AS BIGINT)"),
        "from_s": str(FROM_S),
        "step_ms": str(DAYS * 86_400_000 // count),
        "every": str(RUN_EVERY),
        "first": str(FIRST_ID),
    }
    values["h"] = f"({values['h']})"
    selected = ", ".join(text.format(**values) for text in cells.values())
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {count - 1})"
    _run(connection, f"INSERT INTO usage_entry ({names}) {numbers} SELECT {selected} FROM n")
    for day in range(DAYS):
        start = FROM_S + day * 86_400
        of_day = f"WHERE at_s >= {start} AND at_s < {start + 86_400}"
        _add_up(connection, "usage_hour", ("hour", *DIMENSIONS), of_day)
    keys, sums = ", ".join(f'"{name}"' for name in DIMENSIONS), ", ".join(f"SUM({name})" for name in SUMS)
    added = f"SELECT hour / 24, {keys}, {sums} FROM usage_hour GROUP BY hour / 24, {keys}"
    _run(connection, f"INSERT INTO usage_day (day, {keys}, {', '.join(SUMS)}) {added}")
    _add_up(connection, "usage_run", ("run_id", "hour", *DIMENSIONS), "WHERE run_id <> ''")
    _run(connection, "ANALYZE")


def _add_up(connection: Connection, table: str, places: tuple[str, ...], where: str) -> None:
    keys = ", ".join(f'"{name}"' for name in places)
    names, sums = ", ".join(SUMS), ", ".join(f"SUM({name})" for name in SUMS)
    added = f"SELECT {keys}, {sums} FROM usage_entry {where} GROUP BY {keys}"
    _run(connection, f"INSERT INTO {table} ({keys}, {names}) {added}")


def _run(connection: Connection, sql: str) -> None:
    # A percent sign begins a parameter in PostgreSQL's driver.
    connection.exec_driver_sql(sql.replace("%", "%%") if connection.dialect.name == "postgresql" else sql)
