"""Answers questions about usage from the sums by hour, and from entries only for the cut ends of a range.

No question scans ``usage_entry``: whole days of UTC come from ``usage_day``, whole hours from ``usage_hour`` (both from
``usage_run`` where runs are asked for), and the hours that a range or a day of a time zone cuts in two are read by
time, an hour's entries at most each. Sums and entries are written in one transaction, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Connection, Select, Table, bindparam, func, literal_column, select

from app.domain.books.entries import UsageEntry
from app.domain.books.sums import HOUR_S, HOURS_PER_DAY, SUMS
from app.domain.books.usage import (
    ROWS_MAX,
    Dimension,
    UsageQuery,
    UsageRow,
    row_of,
    stretches,
    whole_hours,
)
from app.domain.errors import RequestError
from app.storage import books_rows as rows
from app.storage.books_tables import usage_day, usage_entry, usage_hour, usage_run

_Shape: TypeAlias = tuple[str, tuple[Dimension, ...], tuple[Dimension, ...]]
"""Table, groups, filters: what decides the text of a statement."""

_TABLES = {table.name: table for table in (usage_entry, usage_hour, usage_day, usage_run)}
_OF_RUN: Select[Any] = (
    select(usage_entry)
    .where(usage_entry.c.run_id == bindparam("of_run"), usage_entry.c.run_id != "")
    .order_by(usage_entry.c.at_s, usage_entry.c.id)
    .limit(bindparam("most"))
)


def usage(connection: Connection, query: UsageQuery) -> list[UsageRow]:
    """Return sums by period and group, in that order; groups without calls are left out.

    Raises:
        RequestError: the range is empty or has too many periods, or the answer would have too many rows.
    """
    filters = {f"is_{dimension.value}": list(values) for dimension, values in query.filters}
    found: list[UsageRow] = []
    for name, from_s, to_s in stretches(query):
        sums: dict[tuple[str, ...], list[int]] = {}
        for statement, bounds in _reads(query, from_s, to_s):
            for row in connection.execute(statement, {**filters, **bounds}):
                group = tuple(row[: len(query.group_by)])
                # PostgreSQL adds whole numbers up to decimals.
                values = [int(value) for value in row[len(query.group_by) :]]
                before = sums.get(group)
                sums[group] = values if before is None else [a + b for a, b in zip(before, values, strict=True)]
        found += [row_of(name, group, tuple(sums[group])) for group in sorted(sums) if any(sums[group])]
        if len(found) > ROWS_MAX:
            raise RequestError(
                f"the answer has more than {ROWS_MAX} rows", param="group_by", remedy="filter, or group by less"
            )
    return found


def entries_of_run(connection: Connection, run_id: str, *, entries_max: int = 10_000) -> list[UsageEntry]:
    """Return a run's attempts and corrections, oldest first; of corrections, the differences."""
    found = connection.execute(_OF_RUN, {"of_run": run_id, "most": entries_max})
    return [rows.entry_of(row) for row in found]


def statements(query: UsageQuery) -> Iterator[tuple[Select[Any], dict[str, float]]]:
    """Yield every statement that ``usage`` executes for the query, with its bounds; for a look at their plans."""
    for _name, from_s, to_s in stretches(query):
        yield from _reads(query, from_s, to_s)


def _reads(query: UsageQuery, from_s: float, to_s: float) -> Iterator[tuple[Select[Any], dict[str, float]]]:
    dimensions = tuple(dimension for dimension, _values in query.filters)
    asked = {*query.group_by, *dimensions}
    sums = usage_run if Dimension.RUN in asked else usage_hour
    first, after = whole_hours(from_s, to_s)
    if first < after:
        hours = [(first, after)]
        first_day, after_day = -(-first // HOURS_PER_DAY), after // HOURS_PER_DAY
        if sums is usage_hour and first_day < after_day:
            yield _statement((usage_day.name, query.group_by, dimensions)), {"from_day": first_day, "to_day": after_day}
            hours = [(first, first_day * HOURS_PER_DAY), (after_day * HOURS_PER_DAY, after)]
        for start_hour, end_hour in hours:
            if start_hour < end_hour:
                bounds: dict[str, float] = {"from_hour": start_hour, "to_hour": end_hour}
                yield _statement((sums.name, query.group_by, dimensions)), bounds
        ends = [(from_s, first * HOUR_S), (after * HOUR_S, to_s)]
    else:
        ends = [(from_s, to_s)]
    for start, end in ends:
        if start < end:
            yield _statement((usage_entry.name, query.group_by, dimensions)), {"from_s": start, "to_s": end}


@lru_cache(maxsize=512)
def _statement(shape: _Shape) -> Select[Any]:
    name, groups, filters = shape
    table = _TABLES[name]
    # No index sorts by what is appended to: walking one for the groups' order costs SQLite a look-up a row.
    columns: list[ColumnElement[Any]] = [
        _column(table, dimension).concat(literal_column("''")).label(f"group_{place}")
        for place, dimension in enumerate(groups)
    ]
    sums: list[ColumnElement[Any]] = [func.sum(table.c[one]) for one in SUMS]
    query: Select[Any] = select(*[*columns, *sums])
    if table is usage_entry:
        query = query.where(table.c.at_s >= bindparam("from_s"), table.c.at_s < bindparam("to_s"))
    elif table is usage_day:
        query = query.where(table.c.day >= bindparam("from_day"), table.c.day < bindparam("to_day"))
    else:
        query = query.where(table.c.hour >= bindparam("from_hour"), table.c.hour < bindparam("to_hour"))
    if table is usage_entry and Dimension.RUN in (*groups, *filters):
        query = query.where(table.c.run_id != "")
    for dimension in filters:
        query = query.where(_column(table, dimension).in_(bindparam(f"is_{dimension.value}", expanding=True)))
    if not columns:
        # Without groups a sum over nothing is one row of nulls.
        return query.having(func.count() > 0)
    return query.group_by(*(f"group_{place}" for place in range(len(columns))))


def _column(table: Table, dimension: Dimension) -> ColumnElement[str]:
    return table.c["run_id" if dimension is Dimension.RUN else dimension.value]
