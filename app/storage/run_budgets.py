"""A run's ceilings are in force from its start to its end, so that they do not pile up with the runs.

The journal calls this in the transaction that begins, reopens or ends the run. What was counted stays with the run's
accounts, which are set apart at its end: nothing that looks at budgets reads them any more, and a run that is done
again goes on with what it has spent. Called with an open connection, as ``ledger`` is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from sqlalchemy import Connection, bindparam, delete, select, update

from app.domain.books.budgets import EVERYONE, BudgetSpec, Ledger, OwnerKind, Window, owner_word, window_at
from app.domain.books.legs import account_key
from app.domain.books.money import nano_from_usd
from app.domain.run import RunStatus
from app.storage import budgets
from app.storage.books_tables import budget, ledger_account
from app.storage.budget_rows import find_specs, put_specs
from app.storage.tables import run

OVER = "over"
"""As an account's window: its run has ended."""

_SET_APART = (
    update(ledger_account)
    .where(ledger_account.c.id.in_(bindparam("ids", expanding=True)))
    .values(window_key=bindparam("key"))
)
_OVERDUE = (
    select(run.c.id)
    .join(budget, budget.c.owner_name == run.c.id)
    .where(
        budget.c.owner_kind == OwnerKind.RUN,
        budget.c.configured == 0,
        run.c.status.in_([one.value for one in RunStatus if one.ended]),
    )
)
_FORGET = delete(budget).where(budget.c.owner == bindparam("of_owner"), budget.c.configured == 0)


def begin_run(connection: Connection, run_id: str, budget_usd: str | None) -> None:
    """Put a run's own ceiling in force; one that is for every run holds beside it, and the lower one wins."""
    if budget_usd is None:
        return
    everyone = [spec for spec in _specs(connection, EVERYONE) if spec.hard]
    limits = [nano_from_usd(budget_usd), *(spec.limit_nano for spec in everyone if spec.limit_nano is not None)]
    tokens = [spec.limit_tokens for spec in everyone if spec.limit_tokens is not None]
    spec = BudgetSpec(
        owner_kind=OwnerKind.RUN,
        owner_name=run_id,
        window=Window.TOTAL,
        limit_nano=min(limits),
        limit_tokens=min(tokens, default=None),
    )
    put_specs(connection, [spec], configured=False)


def reopen_run(connection: Connection, run_id: str, budget_usd: str | None, now_s: float) -> None:
    """Put the ceilings of a run in force again that had ended; on one that goes on it changes nothing."""
    begin_run(connection, run_id, budget_usd)
    specs = _specs(connection, EVERYONE, run_id)
    _set_apart(connection, run_id, specs, "")
    # One for every run may have come while this one was over.
    budgets.count_the_past(connection, [replace(spec, owner_name=run_id) for spec in specs], now_s)


def end_run(connection: Connection, run_id: str) -> None:
    """Take a run's own ceiling out of force and set its accounts apart; may be repeated."""
    _set_apart(connection, run_id, _specs(connection, EVERYONE, run_id), OVER)
    connection.execute(_FORGET, {"of_owner": owner_word(OwnerKind.RUN, run_id)})


def end_overdue(connection: Connection) -> None:
    """Do so for runs that ended while nobody did: under an older Tutti."""
    for run_id in list(connection.execute(_OVERDUE).scalars()):
        end_run(connection, run_id)


def _specs(connection: Connection, *names: str) -> list[BudgetSpec]:
    """Return the budgets of these runs that never begin anew; those of days and months end by themselves."""
    found = find_specs(connection, [owner_word(OwnerKind.RUN, name) for name in names])
    return [spec for spec in found if spec.window is Window.TOTAL]


def _set_apart(connection: Connection, run_id: str, specs: Iterable[BudgetSpec], key: str) -> None:
    opened = window_at(Window.TOTAL, "UTC", 0.0)
    ids = [
        account_key(ledger, OwnerKind.RUN, run_id, spec=spec, opened=opened).account_id
        for spec in specs
        for ledger in Ledger
    ]
    if ids:
        connection.execute(_SET_APART, {"ids": ids, "key": key})
