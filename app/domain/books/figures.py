"""What the books say when asked: burn-down of budgets, differences, comparison with a provider's export."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal

from app.domain.books.budgets import Ledger, OwnerKind, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetFigures:
    """One owner's budget in the window that is open; amounts in nano-dollars or tokens."""

    budget_id: str
    owner_kind: OwnerKind
    owner_name: str
    window: Window
    window_key: str
    starts_s: float
    ends_s: float | None
    ledger: Ledger
    limit: int
    hard: bool
    soft_share: float
    spent: int
    held: int
    """Set aside for calls that have not ended."""
    unknown: int
    """Held by processes that died; counts as spent."""
    forecast: int | None
    """Spent at the window's end if it goes on as since the window's start; None where the window has no end."""
    exhausted_s: float | None
    """When nothing will be left at that rate; None: not in this window, or nothing is spent yet."""

    @property
    def left(self) -> int:
        """What a hold may still take; never negative."""
        return max(0, self.limit - self.spent - self.held - self.unknown)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Something in the books that does not add up."""

    check: str
    """Which rule is broken."""
    subject: str
    """Of what: an account, a hold, an entry, a row of sums."""
    stored: str
    computed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRow:
    """One line of a provider's own export of usage or cost, already parsed."""

    account: str
    """Ours, by which the export was fetched."""
    day: date
    """In UTC, as providers export."""
    model: str = ""
    """Ours; empty: all models together."""
    input_tokens: int | None = None
    """None: the export does not say."""
    output_tokens: int | None = None
    cost_nano: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileLine:
    """An export's line beside what the books have for the same account, day and model."""

    account: str
    day: date
    model: str
    ledger: Ledger
    theirs: int | None
    """None: the provider's export has no such line or figure."""
    ours: int
    unpriced_calls: int
    """Of ours, calls whose cost is unknown: the books are too low by them."""
    verdict: Literal["equal", "ours_lower", "ours_higher", "not_exported"]

    @property
    def drift_share(self) -> float | None:
        """How far ours is from theirs, as a share of theirs; None where that says nothing."""
        return None if not self.theirs else (self.ours - self.theirs) / self.theirs


def forecast(spent: int, *, starts_s: float, ends_s: float | None, now_s: float) -> int | None:
    """Return what will be spent at the window's end at the rate since its start; None for a window without end."""
    if ends_s is None:
        return None
    elapsed_s = now_s - starts_s
    if elapsed_s <= 0:
        return spent
    return max(spent, round(spent * ((ends_s - starts_s) / elapsed_s)))


def exhausted_at(spent: int, limit: int, *, starts_s: float, ends_s: float | None, now_s: float) -> float | None:
    """Return when ``limit`` is reached at the rate since the window's start; None: not in this window."""
    elapsed_s = now_s - starts_s
    if ends_s is None or spent <= 0 or elapsed_s <= 0:
        return None
    if spent >= limit:
        return now_s
    when_s = starts_s + limit * (elapsed_s / spent)
    return when_s if when_s < ends_s else None
