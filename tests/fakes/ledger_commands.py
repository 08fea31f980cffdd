"""Makes commands and databases for tests of the books."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, select
from sqlalchemy.pool import StaticPool

from app.domain.books.budgets import EVERYONE, BudgetSpec, OwnerKind, Owners, Window
from app.domain.books.entries import Ending, Hold, Settle, UsageEntry
from app.domain.books.prices import PriceRow, Rates
from app.domain.chat import Usage
from app.storage import budgets, tables

NOON_S = 1_795_262_400.0
"""2026-11-21 12:00 UTC."""
PRICE = PriceRow(price_id="p1", model="m1", rates=Rates(input="1", output="2"))
ALICE = Owners(tenant="t", team="red", user="alice", key="k1")
BOB = Owners(tenant="t", team="red", user="bob", key="k2")

ROWS_OF = (
    *("ledger_account", "leg", "hold", "transfer", "usage_entry"),
    *("usage_hour", "usage_day", "usage_run", "budget", "books_clock"),
)


def open_memory() -> Engine:
    """Return an empty database in memory with the tables of the books."""
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})

    def prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        connection.deserialize(_empty_tables())

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", begin)
    return engine


@cache
def _empty_tables() -> bytes:
    """Return the file of an empty database, made once: making tables takes longer than a property's whole example."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    tables.metadata.create_all(engine)
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        return bytes(driver.serialize())


@contextmanager
def fresh_books(specs: Sequence[BudgetSpec] = (), now_s: float = NOON_S) -> Iterator[Engine]:
    """Give a database with these budgets and one price row."""
    engine = open_memory()
    with engine.begin() as connection:
        budgets.sync_budgets(connection, specs, now_s)
        budgets.record_prices(connection, [PRICE])
    yield engine
    engine.dispose()


def dump(connection: Connection) -> dict[str, list[tuple[object, ...]]]:
    """Return every row of the books, in an order that does not depend on when they were written."""
    found = {}
    for name in ROWS_OF:
        table = tables.metadata.tables[name]
        columns = [column for column in table.columns if column.name != "seq"]
        found[name] = sorted((tuple(row) for row in connection.execute(select(*columns))), key=repr)
    return found


def a_budget(
    kind: OwnerKind = OwnerKind.USER, name: str = EVERYONE, window: Window = Window.DAY, **fields: Any
) -> BudgetSpec:
    """Return a budget of 1 000 nano-dollars unless told otherwise."""
    limits = fields if "limit_nano" in fields or "limit_tokens" in fields else {"limit_nano": 1_000, **fields}
    return BudgetSpec(owner_kind=kind, owner_name=name, window=window, **limits)


def a_hold(hold_id: str, nano: int | None = 100, *, owners: Owners = ALICE, **fields: Any) -> Hold:
    """Return a hold at noon that expires in a minute."""
    at_s = fields.pop("at_s", NOON_S)
    values = {"tokens": 10, "expires_s": at_s + 60.0, "holder": "replica-1", **fields}
    return Hold(hold_id=hold_id, owners=owners, amount_nano=nano, at_s=at_s, **values)


def an_entry(entry_id: str, cost: int | None = 40, *, owners: Owners = ALICE, **fields: Any) -> UsageEntry:
    """Return an answered attempt at noon that cost ``cost``."""
    values: dict[str, Any] = {
        "at_s": NOON_S,
        "usage": Usage(input_tokens=3, output_tokens=1),
        "model": "m1",
        "account": "a1",
        "provider": "openai",
        "task_type": "general",
        "ending": Ending.ANSWERED,
        "price_id": None if cost is None else "p1",
        **fields,
    }
    return UsageEntry(entry_id=entry_id, owners=owners, cost_nano=cost, **values)


def a_settle(hold_id: str | None, *entries: UsageEntry, at_s: float = NOON_S) -> Settle:
    """Return the settlement of a hold."""
    return Settle(hold_id=hold_id, entries=entries, at_s=at_s)
