"""One upsert means the same in both spellings; what each engine does with it, the integration tests show."""

from __future__ import annotations

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, create_engine, select
from sqlalchemy.dialects import postgresql, sqlite

from app.storage.upsert import Upsert, adding, ignoring, replacing

SUMS = Table(
    "sums",
    MetaData(),
    Column("day", String, primary_key=True),
    Column("owner", String, primary_key=True),
    Column("calls", Integer, nullable=False),
    Column("last", String, nullable=False),
)


@pytest.mark.parametrize("upsert", [replacing(SUMS), ignoring(SUMS), adding(SUMS, ["calls"], ["last"])])
def test_both_spellings_are_the_same_statement(upsert: Upsert) -> None:
    """SQLite took its clause from PostgreSQL: a difference would be a slip of ours."""
    lite = str(upsert.sqlite.compile(dialect=sqlite.dialect(paramstyle="named")))
    post = str(upsert.postgresql.compile(dialect=postgresql.dialect(paramstyle="named")))  # type: ignore[no-untyped-call]  # theirs

    assert "ON CONFLICT" in lite
    assert lite.replace(":", "") == post.replace("::VARCHAR", "").replace("::INTEGER", "").replace(":", "")


def test_rows_are_replaced_kept_or_added_to() -> None:
    """The three meanings, on a database in memory."""
    with create_engine("sqlite://").begin() as connection:
        check_meanings(connection)


def check_meanings(connection: Connection) -> None:
    """Replace, keep and add rows of a table made for it, on any engine."""
    row = {"day": "d", "owner": "o", "calls": 2, "last": "a"}
    SUMS.create(connection)

    def now() -> tuple[object, ...]:
        return tuple(connection.execute(select(SUMS.c.calls, SUMS.c.last)).one())

    connection.execute(ignoring(SUMS).on(connection), row)
    connection.execute(ignoring(SUMS).on(connection), {**row, "calls": 9})
    assert now() == (2, "a")
    connection.execute(adding(SUMS, ["calls"], ["last"]).on(connection), [row, {**row, "calls": 5, "last": "b"}])
    assert now() == (9, "b")
    connection.execute(replacing(SUMS).on(connection), {**row, "calls": 1})
    assert now() == (1, "a")
