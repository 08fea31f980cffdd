"""Which accounts of the ledger a movement touches: the tenant's own, and those of every budget that applies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from app.domain.books.budgets import (
    BudgetSpec,
    Ledger,
    OpenWindow,
    OwnerKind,
    Owners,
    Window,
    budgets_for,
    owner_word,
    window_at,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountKey:
    """One account: an owner's money or tokens in one window."""

    account_id: str
    ledger: Ledger
    owner_kind: OwnerKind
    owner_name: str
    window: Window
    time_zone: str
    window_key: str
    starts_s: float
    ends_s: float | None


def account_key(
    ledger: Ledger, owner_kind: OwnerKind, owner_name: str, *, spec: BudgetSpec, opened: OpenWindow
) -> AccountKey:
    """Return the account of an owner under ``spec`` in that window; the same whatever the limit."""
    return AccountKey(
        account_id=f"{ledger}/{owner_word(owner_kind, owner_name)}/{spec.window}/{spec.time_zone}/{opened.key}",
        ledger=ledger,
        owner_kind=owner_kind,
        owner_name=owner_name,
        window=spec.window,
        time_zone=spec.time_zone,
        window_key=opened.key,
        starts_s=opened.starts_s,
        ends_s=opened.ends_s,
    )


def legs_for(owners: Owners, specs: Iterable[BudgetSpec], at_s: float) -> tuple[AccountKey, ...]:
    """Return the accounts in order of their ids; the tenant's accounts of all time are always among them."""
    tenant = BudgetSpec(owner_kind=OwnerKind.TENANT, owner_name=owners.tenant, window=Window.TOTAL)
    found = {}
    for spec in (tenant, *budgets_for(owners, specs)):
        opened = window_at(spec.window, spec.time_zone, at_s)
        for ledger in Ledger:
            if spec is tenant or spec.limit_in(ledger) is not None:
                key = account_key(ledger, spec.owner_kind, owners.name_of(spec.owner_kind), spec=spec, opened=opened)
                found[key.account_id] = key
    return tuple(found[account_id] for account_id in sorted(found))


def leg_set_of(account_ids: Iterable[str]) -> str:
    """Return the name of a set of accounts: the same set has the same name everywhere."""
    return sha256("\n".join(sorted(account_ids)).encode()).hexdigest()[:20]


def spec_of(key: AccountKey, specs: Iterable[BudgetSpec]) -> BudgetSpec | None:
    """Return the budget that limits the account now; None where none does."""
    owners = Owners(**{key.owner_kind.value: key.owner_name})
    for spec in budgets_for(owners, specs):
        if spec.window is key.window and spec.time_zone == key.time_zone and spec.limit_in(key.ledger) is not None:
            return spec
    return None
