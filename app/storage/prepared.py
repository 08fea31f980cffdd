"""Statements that run thousands of times a second: compiled once an engine, fed with plain tuples.

SQLAlchemy's own way takes several microseconds a row to look parameters over that are plain integers and text; here
they go to the driver as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from sqlalchemy import Connection, Executable
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.compiler import SQLCompiler

from app.storage.upsert import Upsert

Cell: TypeAlias = str | int | float | bytes | None


class Prepared:
    """One insert or update, for many rows.

    Args:
        statement: Built by SQLAlchemy.
        names: Its parameters, in the order of the rows' cells.
    """

    def __init__(self, statement: Executable | Upsert, names: Sequence[str]) -> None:
        self._statement = statement
        self._names = tuple(names)
        self._compiled: dict[str, tuple[str, tuple[int, ...] | None]] = {}

    def run(self, connection: Connection, rows: Sequence[tuple[Cell, ...]]) -> int:
        """Execute it for every row and return how many rows of the table it changed."""
        if not rows:
            return 0
        sql, order = self._compiled.get(connection.dialect.name) or self._compile(connection)
        if order is None:
            names = self._names
            return connection.exec_driver_sql(sql, [dict(zip(names, row, strict=True)) for row in rows]).rowcount
        if order != tuple(range(len(order))):
            rows = [tuple(row[place] for place in order) for row in rows]
        return connection.exec_driver_sql(sql, list(rows)).rowcount

    def _compile(self, connection: Connection) -> tuple[str, tuple[int, ...] | None]:
        statement = self._statement.on(connection) if isinstance(self._statement, Upsert) else self._statement
        assert isinstance(statement, ClauseElement)
        compiled = statement.compile(dialect=connection.dialect, column_keys=list(self._names))
        assert isinstance(compiled, SQLCompiler)
        order = None
        if compiled.positional:
            order = tuple(self._names.index(name) for name in compiled.positiontup or ())
        found = (str(compiled), order)
        self._compiled[connection.dialect.name] = found
        return found
