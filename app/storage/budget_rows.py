"""Budgets as rows: looked up by owner, brought in line with the configuration, and shown with what was spent.

Called with an open connection inside the caller's transaction, as ``ledger`` is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, bindparam, select, update

from app.domain.books.budgets import BudgetSpec, OwnerKind, Window
from app.storage import books_rows as rows
from app.storage.books_tables import budget
from app.storage.prepared import Cell, Prepared
from app.storage.upsert import replacing

COLUMNS = (
    *("id", "owner", "owner_kind", "owner_name", "window_kind", "time_zone", "limit_nano", "limit_tokens"),
    *("soft_share", "hard", "configured", "active"),
)
PUT = Prepared(replacing(budget), COLUMNS)
RETIRE = update(budget).where(budget.c.id == bindparam("of_id")).values(active=0)
_BY_OWNER = select(budget).where(budget.c.owner.in_(bindparam("ids", expanding=True)), budget.c.active == 1)
_ACTIVE = select(budget).where(budget.c.active == 1)


def find_specs(connection: Connection, words: Iterable[str]) -> list[BudgetSpec]:
    """Return the budgets of these owners, in the words of ``owner_word``."""
    wanted = sorted(words)
    if not wanted:
        return []
    return [spec_in(row) for row in connection.execute(_BY_OWNER, {"ids": wanted})]


def list_specs(connection: Connection) -> list[tuple[BudgetSpec, bool]]:
    """Return every budget in force, and whether the configuration names it."""
    return [(spec_in(row), bool(row.configured)) for row in connection.execute(_ACTIVE)]


def put_specs(connection: Connection, specs: Sequence[BudgetSpec], *, configured: bool) -> None:
    """Insert or replace budgets."""
    PUT.run(connection, [_row(spec, configured=configured) for spec in specs])


def retire(connection: Connection, budget_ids: Iterable[str]) -> None:
    """Take budgets out of force; what was counted for them stays."""
    gone: list[dict[str, Cell]] = [{"of_id": one} for one in budget_ids]
    if gone:
        connection.execute(RETIRE, gone)


def spec_in(row: rows.Found) -> BudgetSpec:
    """Return the budget that a row holds."""
    return BudgetSpec(
        owner_kind=OwnerKind(row.owner_kind),
        owner_name=row.owner_name,
        window=Window(row.window_kind),
        time_zone=row.time_zone,
        limit_nano=row.limit_nano,
        limit_tokens=row.limit_tokens,
        soft_share=row.soft_share,
        hard=bool(row.hard),
    )


def _row(spec: BudgetSpec, *, configured: bool) -> tuple[Cell, ...]:
    return (
        *(spec.budget_id, spec.owner, spec.owner_kind.value, spec.owner_name, spec.window.value, spec.time_zone),
        *(spec.limit_nano, spec.limit_tokens, spec.soft_share, int(spec.hard), int(configured), 1),
    )
