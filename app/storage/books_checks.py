"""Adds the books up again and tells what differs; compares them with what a provider says.

``verify`` reads everything, so it is for people, not for the way of a call; ``verify_balances`` reads balances alone.
Changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, and_, case, func, literal, or_, select, union_all

from app.domain.books.balances import Account, HoldState, Transfer, TransferKind, move
from app.domain.books.budgets import Ledger
from app.domain.books.entries import Ending
from app.domain.books.figures import Difference, ExportRow, ReconcileLine
from app.domain.books.sums import DIMENSIONS, HOUR_S, HOURS_PER_DAY, SUMS
from app.storage import books_rows as rows
from app.storage.books_tables import (
    BALANCES,
    hold,
    ledger_account,
    leg,
    price_used,
    transfer,
    usage_day,
    usage_entry,
    usage_hour,
    usage_run,
)

DIFFERENCES_MAX = 1_000
"""Of each check: more say nothing more."""

_KINDS = tuple(TransferKind)
_ENDS = {
    HoldState.POSTED: TransferKind.POST,
    HoldState.VOIDED: TransferKind.VOID,
    HoldState.EXPIRED: TransferKind.EXPIRE,
}
_POSTS = (TransferKind.POST, TransferKind.SINGLE, TransferKind.CORRECT)


def verify(connection: Connection) -> list[Difference]:
    """Return what does not add up; empty where everything does."""
    checks = (_balances, _sides, _holds, _postings, _sums_by_hour, _sums_by_day, _sums_by_run, _owners, _prices)
    return [found for check in checks for found in check(connection)]


def verify_balances(connection: Connection) -> list[Difference]:
    """Return where debits are not credits; reads one row an account of the ledger, and no transfer or entry."""
    return list(_sides(connection))


def reconcile(connection: Connection, export: Sequence[ExportRow]) -> list[ReconcileLine]:
    """Return a provider's export beside the books, line by line, and what the books have that it has not.

    Days are UTC's. Lines are compared by model where the export names models, else by account.
    """
    lines: list[ReconcileLine] = []
    for account, day in sorted({(row.account, row.day) for row in export}):
        theirs = [row for row in export if (row.account, row.day) == (account, day)]
        by_model = any(row.model for row in theirs)
        ours = _ours(connection, account, day, by_model=by_model)
        for model in sorted({row.model for row in theirs} | set(ours)):
            same = [row for row in theirs if row.model == model]
            lines += _lines(account, day, model, same, ours.get(model, (0, 0, 0)))
    return lines


def _balances(connection: Connection) -> Iterator[Difference]:
    """Every balance is what the transfers on its account make of it."""
    stored = list(connection.execute(select(ledger_account).order_by(ledger_account.c.id)))
    accounts = {row.id: Account(key=rows.account_of(row).key) for row in stored if row.owner_kind != rows.COUNTER}
    yield from _add_up(connection, accounts)
    computed = {account_id: _own_side(account) for account_id, account in accounts.items()}
    counters = {one: dict.fromkeys(BALANCES, 0) for one in Ledger}
    for account_id, account in accounts.items():
        counter = counters[account.key.ledger]
        for name, value in computed[account_id].items():
            side, _, balance = name.partition("_")
            counter[f"{'credits' if side == 'debits' else 'debits'}_{balance}"] += value
    for row in stored:
        expected = counters[Ledger(row.ledger)] if row.owner_kind == rows.COUNTER else computed[row.id]
        for name in BALANCES:
            if getattr(row, name) != expected[name]:
                yield Difference(
                    check="balances",
                    subject=f"{row.id} {name}",
                    stored=str(getattr(row, name)),
                    computed=str(expected[name]),
                )


def _add_up(connection: Connection, accounts: dict[str, Account]) -> Iterator[Difference]:
    """Move every account by every transfer on it; yield transfers on what is not there."""
    legs: dict[str, list[str]] = {}
    for row in connection.execute(select(leg)):
        legs.setdefault(row.leg_set, []).append(row.account_id)
    place = (transfer.c.leg_set, transfer.c.kind)
    amounts = (transfer.c.nano, transfer.c.tokens, transfer.c.freed_nano, transfer.c.freed_tokens)
    query = select(*place, *(func.sum(amount) for amount in amounts)).group_by(*place)
    for leg_set, kind, nano, tokens, freed_nano, freed_tokens in connection.execute(query):
        together = Transfer(
            kind=TransferKind(kind),
            at_s=0.0,
            leg_set=leg_set,
            nano=int(nano),
            tokens=int(tokens),
            freed_nano=int(freed_nano),
            freed_tokens=int(freed_tokens),
        )
        if leg_set not in legs:
            yield Difference(check="balances", subject=leg_set, stored="no legs", computed=kind)
        for account_id in legs.get(leg_set, ()):
            if account_id in accounts:
                move(accounts[account_id], together)
            else:
                yield Difference(check="balances", subject=account_id, stored="no account", computed=kind)


def _own_side(account: Account) -> dict[str, int]:
    values = (account.pending, account.posted, account.unknown, 0, account.refunded, 0)
    return dict(zip(BALANCES, values, strict=True))


def _sides(connection: Connection) -> Iterator[Difference]:
    """Debits are credits, in each ledger."""
    names = ("pending", "posted", "unknown")
    query = select(
        ledger_account.c.ledger,
        *(func.sum(ledger_account.c[f"{side}_{name}"]) for name in names for side in ("debits", "credits")),
    ).group_by(ledger_account.c.ledger)
    for ledger, *sums in connection.execute(query):
        for place, name in enumerate(names):
            debits, credits_ = int(sums[2 * place]), int(sums[2 * place + 1])
            if debits != credits_:
                yield Difference(check="sides", subject=f"{ledger} {name}", stored=str(debits), computed=str(credits_))


def _holds(connection: Connection) -> Iterator[Difference]:
    """A hold has one pending transfer and, once it ended, exactly one that ended it, of its own amount."""
    counts = [_sum_if(transfer.c.kind == kind, 1).label(f"n_{kind}") for kind in _KINDS]
    held = [
        _sum_if(transfer.c.kind == TransferKind.PENDING, transfer.c[name]).label(f"held_{name}")
        for name in ("nano", "tokens")
    ]
    freed = [func.sum(transfer.c[f"freed_{name}"]).label(f"freed_{name}") for name in ("nano", "tokens")]
    by_hold = (
        select(transfer.c.hold_id, *counts, *held, *freed)
        .where(transfer.c.hold_id.is_not(None))
        .group_by(transfer.c.hold_id)
        .subquery()
    )
    ended = {kind: by_hold.c[f"n_{kind}"] for kind in _KINDS}
    nano = func.coalesce(hold.c.nano, 0)
    times = case((hold.c.state == HoldState.OPEN, 0), else_=1) + hold.c.resolved
    right = and_(
        ended[TransferKind.PENDING] == 1,
        ended[TransferKind.RESOLVE] == hold.c.resolved,
        *(ended[kind] == case((hold.c.state == state, 1), else_=0) for state, kind in _ENDS.items()),
        by_hold.c.held_nano == nano,
        by_hold.c.held_tokens == hold.c.tokens,
        by_hold.c.freed_nano == nano * times,
        by_hold.c.freed_tokens == hold.c.tokens * times,
    )
    query = (
        select(hold.c.id, hold.c.state, *ended.values())
        .select_from(hold.outerjoin(by_hold, by_hold.c.hold_id == hold.c.id))
        .where(or_(by_hold.c.hold_id.is_(None), ~right))
        .limit(DIFFERENCES_MAX)
    )
    for row in connection.execute(query):
        found = ", ".join(f"{kind} {getattr(row, f'n_{kind}')}" for kind in _KINDS if getattr(row, f"n_{kind}"))
        yield Difference(check="holds", subject=row.id, stored=row.state, computed=found or "no transfer")


def _postings(connection: Connection) -> Iterator[Difference]:
    """What is posted for a hold is the sum of its entries; without a hold, for each set of legs."""
    sign = case((transfer.c.kind.in_(_POSTS), 1), (transfer.c.kind == TransferKind.REFUND, -1), else_=0)
    posted = select(
        transfer.c.hold_id,
        transfer.c.leg_set,
        (sign * transfer.c.nano).label("nano"),
        (sign * transfer.c.tokens).label("tokens"),
    )
    tokens = usage_entry.c.input_tokens + usage_entry.c.output_tokens
    bought = select(
        usage_entry.c.hold_id,
        usage_entry.c.leg_set,
        (-usage_entry.c.cost_nano).label("nano"),
        (-tokens).label("tokens"),
    )
    both = union_all(posted, bought).subquery()
    nano, counted = func.sum(both.c.nano), func.sum(both.c.tokens)
    query = (
        select(both.c.hold_id, both.c.leg_set, nano, counted)
        .group_by(both.c.hold_id, both.c.leg_set)
        .having(or_(nano != 0, counted != 0))
        .limit(DIFFERENCES_MAX)
    )
    for hold_id, leg_set, over_nano, over_tokens in connection.execute(query):
        yield Difference(
            check="postings",
            subject=f"hold {hold_id}" if hold_id else f"without hold, legs {leg_set}",
            stored=f"posted {int(over_nano)} nano-dollars and {int(over_tokens)} tokens more",
            computed="the sum of its entries",
        )


def _sums_by_hour(connection: Connection) -> Iterator[Difference]:
    """Sums by hour are the sums of entries."""
    yield from _sums(connection, usage_hour, ("hour",), select(usage_entry))


def _sums_by_day(connection: Connection) -> Iterator[Difference]:
    """And sums by day are the sums of those."""
    day = usage_hour.c.hour // HOURS_PER_DAY
    names = (*DIMENSIONS, *SUMS)
    hours = select(day.label("day"), *(usage_hour.c[name] for name in names))
    yield from _sums(connection, usage_day, ("day",), hours)


def _sums_by_run(connection: Connection) -> Iterator[Difference]:
    """So are those by run."""
    yield from _sums(connection, usage_run, ("run_id", "hour"), select(usage_entry).where(usage_entry.c.run_id != ""))


def _sums(connection: Connection, table: Table, places: tuple[str, ...], entries: Select[Any]) -> Iterator[Difference]:
    keys = (*places, *DIMENSIONS)
    found = entries.subquery()
    kept = select(*(table.c[name] for name in (*keys, *SUMS)))
    minus = select(*(found.c[name] for name in keys), *((-found.c[name]).label(name) for name in SUMS))
    both = union_all(kept, minus).subquery()
    over = [func.sum(both.c[name]).label(name) for name in SUMS]
    query = (
        select(*(both.c[name] for name in keys), *over)
        .group_by(*(both.c[name] for name in keys))
        .having(or_(*(one != 0 for one in over)))
        .limit(DIFFERENCES_MAX)
    )
    for row in connection.execute(query):
        values = {name: int(value) for name, value in zip(SUMS, row[len(keys) :], strict=True) if value}
        yield Difference(
            check=table.name,
            subject=" ".join(f"{name}={value}" for name, value in zip(keys, row, strict=False) if value != ""),
            stored=", ".join(f"{name} {value:+}" for name, value in values.items()),
            computed="the sum of its entries",
        )


def _owners(connection: Connection) -> Iterator[Difference]:
    """Entries are for whom their hold is; a hold names only owners who have budgets, and others share it."""
    names = ("tenant", "team", "user", "key", "run_id")
    query = (
        select(usage_entry.c.id, usage_entry.c.hold_id)
        .join(hold, hold.c.id == usage_entry.c.hold_id)
        .where(or_(*(and_(hold.c[name] != "", usage_entry.c[name] != hold.c[name]) for name in names)))
        .limit(DIFFERENCES_MAX)
    )
    for entry_id, hold_id in connection.execute(query):
        yield Difference(check="owners", subject=entry_id, stored="other owners", computed=f"those of hold {hold_id}")


def _prices(connection: Connection) -> Iterator[Difference]:
    """Every cost names a price row that is known; what a person settled by hand was made with none."""
    unnamed = and_(
        usage_entry.c.price_id.is_(None),
        usage_entry.c.cost_nano != 0,
        usage_entry.c.corrects.is_(None),
        usage_entry.c.ending != Ending.SETTLED,
    )
    missing = and_(usage_entry.c.price_id.is_not(None), price_used.c.id.is_(None))
    query = (
        select(usage_entry.c.id, usage_entry.c.price_id)
        .select_from(usage_entry.outerjoin(price_used, price_used.c.id == usage_entry.c.price_id))
        .where(or_(unnamed, missing))
        .limit(DIFFERENCES_MAX)
    )
    for entry_id, price_id in connection.execute(query):
        yield Difference(check="prices", subject=entry_id, stored=str(price_id), computed="a known price row")


def _sum_if(condition: ColumnElement[bool], value: ColumnElement[int] | int) -> ColumnElement[int]:
    return func.sum(case((condition, literal(value) if isinstance(value, int) else value), else_=0))


def _ours(connection: Connection, account: str, day: date, *, by_model: bool) -> dict[str, tuple[int, int, int]]:
    start = datetime.combine(day, time(), UTC)
    first, after = (int(at.timestamp()) // HOUR_S for at in (start, start + timedelta(days=1)))
    model = usage_hour.c.model if by_model else literal("")
    table = usage_hour.c
    query = (
        select(
            model.label("of_model"),
            func.sum(table.cost_nano),
            func.sum(table.input_tokens + table.output_tokens),
            func.sum(table.unpriced),
        )
        .where(table.hour >= first, table.hour < after, table.account == account)
        .group_by("of_model")
    )
    return {name: (int(nano), int(tokens), int(unpriced)) for name, nano, tokens, unpriced in connection.execute(query)}


def _lines(
    account: str, day: date, model: str, theirs: Iterable[ExportRow], ours: tuple[int, int, int]
) -> Iterator[ReconcileLine]:
    found = list(theirs)
    costs = [row.cost_nano for row in found if row.cost_nano is not None]
    tokens = [
        row.input_tokens + row.output_tokens
        for row in found
        if row.input_tokens is not None and row.output_tokens is not None
    ]
    for ledger, figures, own in ((Ledger.USD, costs, ours[0]), (Ledger.TOKENS, tokens, ours[1])):
        if not figures and (found or not own):
            continue
        total = sum(figures) if figures else None
        verdict: Any = (
            "not_exported"
            if total is None
            else "equal"
            if own == total
            else "ours_lower"
            if own < total
            else "ours_higher"
        )
        yield ReconcileLine(
            account=account,
            day=day,
            model=model,
            ledger=ledger,
            theirs=total,
            ours=own,
            unpriced_calls=ours[2],
            verdict=verdict,
        )
