"""How a database means to answer a question about usage: which tables it reads, and by which indexes.

Asks for plans only, runs nothing. For the benchmark of such questions and for the tests that none reads all entries.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlalchemy import Connection

from app.domain.books.usage import UsageQuery
from app.storage.usage_queries import statements

_READS = re.compile(r"^(SEARCH|SCAN) |\bScan\b")
"""Lines that name a table or an index, in SQLite's and in PostgreSQL's words."""
_COSTS = re.compile(r"\s+\(cost=.*$")


def plan_of(connection: Connection, query: UsageQuery) -> tuple[str, ...]:
    """Return how tables are read by all statements that the query executes; each way once."""
    filters = {f"is_{dimension.value}": list(values) for dimension, values in query.filters}
    lines: dict[str, None] = {}
    for statement, bounds in statements(query):
        text = statement.params(**filters, **bounds).compile(
            dialect=connection.dialect, compile_kwargs={"literal_binds": True}
        )
        lines |= dict.fromkeys(explain(connection, str(text)))
    return tuple(lines)


def explain(connection: Connection, sql: str) -> tuple[str, ...]:
    """Return how tables are read by a statement, without the planner's guesses of what that costs."""
    lite = connection.dialect.name == "sqlite"
    found = connection.exec_driver_sql(f"EXPLAIN {'QUERY PLAN' if lite else ''} {sql}")
    lines = (_COSTS.sub("", str(row[3] if lite else row[0])).strip(" ->") for row in found)
    return tuple(line for line in lines if _READS.search(line))


def scans_entries(plan: Sequence[str]) -> bool:
    """Whether a plan reads the whole table of entries, in either engine's words."""
    return any("SCAN usage_entry" in line or "Seq Scan on usage_entry" in line for line in plan)
