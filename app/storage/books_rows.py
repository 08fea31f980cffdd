"""Turns what the books decide into rows of their tables, and rows back."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

import orjson
from sqlalchemy import Row, Select

from app.domain.books.balances import Account, BookedEntry, HeldAmount, HoldState, Transfer
from app.domain.books.budgets import Ledger, OwnerKind, Owners, Window
from app.domain.books.entries import Ending, Hold, UsageEntry
from app.domain.books.legs import AccountKey
from app.domain.books.sums import DIMENSIONS, SUMS, Sums, hour_of
from app.domain.chat import Usage
from app.storage.books_tables import BALANCES
from app.storage.prepared import Cell

Found: TypeAlias = Row[Any]
Query: TypeAlias = Select[Any]
Place = TypeVar("Place")

ACCOUNT_COLUMNS = (
    *("id", "ledger", "owner_kind", "owner_name", "window_kind", "time_zone", "window_key", "starts_s", "ends_s"),
    *("alerted", *BALANCES),
)
HOLD_COLUMNS = (
    *("id", "state", "resolved", "tenant", "team", "user", "key", "run_id", "nano", "tokens", "calls", "covers"),
    *("holder", "at_s", "expires_s", "ended_s", "leg_set"),
)
TRANSFER_COLUMNS = (
    *("kind", "at_s", "hold_id", "entry_id", "leg_set", "nano", "tokens", "freed_nano", "freed_tokens"),
)
ENTRY_COLUMNS = (
    *("id", "corrects", "hold_id", "leg_set", "at_s", "hour", "booked_s", "run_id", "task_id", *DIMENSIONS, *SUMS),
    *("batch", "price_id", "usage_source", "ttft_ms", "request_id", "trace_id", "error_kind"),
)

NOTHING = "[]"
COUNTER = "counter"
"""As an owner's kind: the other side of everybody's."""


def account_row(account: Account, balances: tuple[int, ...]) -> tuple[Cell, ...]:
    """Return the row of a new account; ``balances`` in the order of ``BALANCES``."""
    key = account.key
    return (
        *(key.account_id, key.ledger.value, key.owner_kind.value, key.owner_name),
        *(key.window.value, key.time_zone, key.window_key, key.starts_s, key.ends_s),
        *(int(account.alerted), *balances),
    )


def counter_row(account_id: str, ledger: Ledger, balances: tuple[int, ...]) -> tuple[Cell, ...]:
    """Return the row of a new counter account."""
    return (account_id, ledger.value, COUNTER, "", Window.TOTAL.value, "UTC", "", 0.0, None, 0, *balances)


def account_of(row: Found) -> Account:
    """Return the account with its balances; a counter's are not brought in, only that it is there."""
    account = Account(
        key=_key(
            *(row.id, row.ledger, row.owner_kind, row.owner_name),
            *(row.window_kind, row.time_zone, row.window_key, row.starts_s, row.ends_s),
        ),
        pending=row.debits_pending,
        posted=row.debits_posted,
        unknown=row.debits_unknown,
        refunded=row.credits_posted,
        alerted=bool(row.alerted),
    )
    account.stored = account.balances
    return account


@lru_cache(maxsize=65_536)
def _key(  # noqa: PLR0913  a row's cells, hashable as they are
    account_id: str,
    ledger: str,
    owner_kind: str,
    owner_name: str,
    window_kind: str,
    time_zone: str,
    window_key: str,
    starts_s: float,
    ends_s: float | None,
) -> AccountKey:
    counter = owner_kind == COUNTER
    return AccountKey(
        account_id=account_id,
        ledger=Ledger(ledger),
        owner_kind=OwnerKind.TENANT if counter else OwnerKind(owner_kind),
        owner_name="" if counter else owner_name,
        window=Window(window_kind),
        time_zone=time_zone,
        window_key=window_key,
        starts_s=starts_s,
        ends_s=ends_s,
    )


@lru_cache(maxsize=65_536)
def _owners(tenant: str, team: str, user: str, key: str, run: str) -> Owners:
    return Owners(tenant=tenant, team=team, user=user, key=key, run=run)


def hold_row(held: HeldAmount) -> tuple[Cell, ...]:
    """Return the row of a new hold."""
    one, owners = held.hold, held.hold.owners
    return (
        *(one.hold_id, held.state.value, int(held.resolved)),
        *(owners.tenant, owners.team, owners.user, owners.key, owners.run),
        *(one.amount_nano, one.tokens, one.calls, orjson.dumps(one.covers).decode() if one.covers else NOTHING),
        *(one.holder, one.at_s, one.expires_s, held.ended_s, held.leg_set),
    )


def held_of(row: Found) -> HeldAmount:
    """Return a hold as stored."""
    state, resolved = HoldState(row.state), bool(row.resolved)
    return HeldAmount(
        hold=Hold(
            hold_id=row.id,
            owners=owners_of(row),
            amount_nano=row.nano,
            tokens=row.tokens,
            at_s=row.at_s,
            expires_s=row.expires_s,
            holder=row.holder,
            calls=row.calls,
            covers=() if row.covers == NOTHING else tuple(orjson.loads(row.covers)),
        ),
        leg_set=row.leg_set,
        state=state,
        resolved=resolved,
        ended_s=row.ended_s,
        stored=(state, resolved),
    )


def owners_of(row: Found) -> Owners:
    """Return on whose behalf a hold or an entry is."""
    return _owners(row.tenant, row.team, row.user, row.key, row.run_id)


def transfer_row(one: Transfer) -> tuple[Cell, ...]:
    """Return the row of a transfer."""
    return (
        *(one.kind.value, one.at_s, one.hold_id, one.entry_id, one.leg_set),
        *(one.nano, one.tokens, one.freed_nano, one.freed_tokens),
    )


def entry_row(booked: BookedEntry, dimensions: tuple[str, ...]) -> tuple[Cell, ...]:
    """Return the row of an entry or a correction."""
    entry = booked.entry
    return (
        *(booked.row_id, booked.corrects, booked.hold_id, booked.leg_set, entry.at_s, hour_of(entry.at_s)),
        *(booked.booked_s, entry.owners.run, entry.task_id),
        *dimensions,
        *booked.sums,
        *(int(entry.batch), entry.price_id, entry.usage.source),
        None if entry.ttft_s is None else round(entry.ttft_s * 1_000),
        *(entry.request_id, entry.trace_id, entry.error_kind),
    )


def sums_in(row: Found) -> Sums:
    """Return what the row adds up."""
    return tuple(int(getattr(row, name)) for name in SUMS)


def booked_of(row: Found) -> BookedEntry:
    """Return an entry as stored."""
    return BookedEntry(
        entry=entry_of(row),
        row_id=row.id,
        sums=sums_in(row),
        hold_id=row.hold_id,
        leg_set=row.leg_set,
        booked_s=row.booked_s,
        corrects=row.corrects,
    )


def entry_of(row: Found) -> UsageEntry:
    """Return the entry that the row holds; of a correction, its differences."""
    return UsageEntry(
        entry_id=row.id,
        at_s=row.at_s,
        owners=owners_of(row),
        task_id=row.task_id,
        task_type=row.task_type,
        account=row.account,
        provider=row.provider,
        model=row.model,
        ending=Ending(row.ending),
        usage=Usage(
            input_tokens=row.input_tokens,
            output_tokens=row.output_tokens,
            cache_read_tokens=row.cache_read_tokens,
            cache_write_tokens=row.cache_write_tokens,
            cache_write_1h_tokens=row.cache_write_1h_tokens,
            reasoning_tokens=row.reasoning_tokens,
            source=row.usage_source,
        ),
        batch=bool(row.batch),
        cost_nano=None if row.unpriced > 0 else row.cost_nano,
        price_id=row.price_id,
        savings_nano=row.savings_nano,
        duration_s=row.duration_ms / 1_000,
        ttft_s=None if row.ttft_ms is None else row.ttft_ms / 1_000,
        request_id=row.request_id,
        trace_id=row.trace_id,
        error_kind=row.error_kind,
    )
