"""Budgets in force and what is left of them; the price rows that costs were made with.

Called with an open connection inside the caller's transaction, as ``ledger`` is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import TypeAdapter
from sqlalchemy import Connection, bindparam, select

from app.domain.books.balances import Account
from app.domain.books.budgets import (
    EVERYONE,
    QUARTER_S,
    BudgetSpec,
    Ledger,
    OwnerKind,
    Window,
    window_at,
)
from app.domain.books.figures import BudgetFigures, exhausted_at, forecast
from app.domain.books.legs import AccountKey, account_key, spec_of
from app.domain.books.prices import PriceRow, with_tiers
from app.domain.books.usage import Dimension, UsageQuery
from app.domain.errors import ConflictError
from app.domain.run import RunStatus
from app.storage import books_rows as rows
from app.storage import codec, ledger
from app.storage.books_tables import ledger_account, price_used
from app.storage.budget_rows import list_specs, put_specs, retire
from app.storage.prepared import Prepared
from app.storage.tables import run
from app.storage.upsert import ignoring
from app.storage.usage_queries import usage

PRICE_ROW = TypeAdapter(PriceRow)

_PUT_PRICE = Prepared(ignoring(price_used), ("id", "body"))
_PRICES = select(price_used).where(price_used.c.id.in_(bindparam("ids", expanding=True)))
_IN_WINDOW = select(ledger_account).where(
    ledger_account.c.window_kind == bindparam("of_window"), ledger_account.c.window_key == bindparam("of_key")
)
_RUNS_UNDER_WAY = select(run.c.id).where(run.c.status.in_([one.value for one in RunStatus if not one.ended]))


def sync_budgets(connection: Connection, specs: Sequence[BudgetSpec], now_s: float) -> None:
    """Put the configuration's budgets in force and take those out that it no longer names.

    A new budget counts what was spent in the window that is open, as far as it is booked: holds that were open when it
    came are not its. Budgets of single runs (``run_budgets``) stay as they are.
    """
    before = {spec.budget_id: configured for spec, configured in list_specs(connection)}
    named = {spec.budget_id for spec in specs}
    retire(connection, [one for one, configured in before.items() if configured and one not in named])
    put_specs(connection, specs, configured=True)
    count_the_past(connection, [spec for spec in specs if spec.budget_id not in before], now_s)


def budgets(connection: Connection, now_s: float) -> list[BudgetFigures]:
    """Return every budget of an owner in the window that is open: what was spent, held, and is left of it.

    A budget for everyone is shown for each owner who used it in this window.
    """
    now_s = max(now_s, ledger.now_quarter(connection) * QUARTER_S)
    specs = [spec for spec, _configured in list_specs(connection)]
    found: dict[str, BudgetFigures] = {}
    for window, time_zone in sorted({(spec.window, spec.time_zone) for spec in specs}):
        opened = window_at(window, time_zone, now_s)
        for row in connection.execute(_IN_WINDOW, {"of_window": window.value, "of_key": opened.key}):
            if row.owner_kind != rows.COUNTER and row.time_zone == time_zone:
                account = rows.account_of(row)
                spec = spec_of(account.key, specs)
                if spec is not None:
                    found[row.id] = _figures(account, spec, now_s)
    for spec in specs:
        if spec.owner_name != EVERYONE:
            for key in _accounts_of(spec, spec.owner_name, now_s):
                found.setdefault(key.account_id, _figures(Account(key=key), spec, now_s))
    return [found[account_id] for account_id in sorted(found)]


def record_prices(connection: Connection, price_rows: Iterable[PriceRow]) -> None:
    """Keep the text of price rows and of their tiers', so that a cost can name its own; the same again is a no-op.

    Raises:
        ConflictError: an id is known with other figures.
    """
    bodies = {row.price_id: codec.dump(PRICE_ROW, row) for row in with_tiers(price_rows)}
    known = {row.id: row.body for row in ledger.select_in(connection, _PRICES, bodies)}
    for price_id, body in bodies.items():
        if known.get(price_id, body) != body:
            raise ConflictError(
                f"the price row {price_id!r} is known with other figures",
                param="prices",
                remedy="give changed figures another id",
            )
    _PUT_PRICE.run(connection, [(one, body) for one, body in bodies.items() if one not in known])


def find_prices(connection: Connection, price_ids: Iterable[str]) -> dict[str, PriceRow]:
    """Return the price rows of these ids, as far as they are known."""
    found = ledger.select_in(connection, _PRICES, price_ids)
    return {row.id: codec.load(PRICE_ROW, row.body) for row in found}


def count_the_past(connection: Connection, specs: Sequence[BudgetSpec], now_s: float) -> None:
    """Have new budgets know what was spent in their open windows; of runs, of those that have not ended."""
    spent: list[tuple[AccountKey, int]] = []
    for spec in specs:
        opened = window_at(spec.window, spec.time_zone, now_s)
        if now_s <= opened.starts_s:
            continue
        dimension = Dimension(spec.owner_kind.value)
        names: tuple[str, ...] = (spec.owner_name,) if spec.owner_name != EVERYONE else ()
        if spec.owner_kind is OwnerKind.RUN and not names:
            # However many there have ever been.
            names = tuple(connection.execute(_RUNS_UNDER_WAY).scalars())
            if not names:
                continue
        query = UsageQuery(
            from_s=opened.starts_s,
            to_s=now_s,
            group_by=(dimension,),
            filters=((dimension, names),) if names else (),
        )
        for row in usage(connection, query):
            for key in _accounts_of(spec, row.group[0], now_s) if row.group[0] else ():
                usd = key.ledger is Ledger.USD
                spent.append((key, row.cost_nano if usd else row.input_tokens + row.output_tokens))
    ledger.open_accounts(connection, spent, now_s)


def _accounts_of(spec: BudgetSpec, owner_name: str, now_s: float) -> list[AccountKey]:
    opened = window_at(spec.window, spec.time_zone, now_s)
    return [
        account_key(one, spec.owner_kind, owner_name, spec=spec, opened=opened)
        for one in Ledger
        if spec.limit_in(one) is not None
    ]


def _figures(account: Account, spec: BudgetSpec, now_s: float) -> BudgetFigures:
    key = account.key
    limit = spec.limit_in(key.ledger)
    assert limit is not None, "spec_of finds budgets that limit the account's ledger"
    return BudgetFigures(
        budget_id=spec.budget_id,
        owner_kind=OwnerKind(key.owner_kind),
        owner_name=key.owner_name,
        window=Window(key.window),
        window_key=key.window_key,
        starts_s=key.starts_s,
        ends_s=key.ends_s,
        ledger=key.ledger,
        limit=limit,
        hard=spec.hard,
        soft_share=spec.soft_share,
        spent=account.posted - account.refunded,
        held=account.pending,
        unknown=account.unknown,
        forecast=forecast(account.used, starts_s=key.starts_s, ends_s=key.ends_s, now_s=now_s),
        exhausted_s=exhausted_at(account.used, limit, starts_s=key.starts_s, ends_s=key.ends_s, now_s=now_s),
    )
