"""What a batch of commands works on: accounts with their balances, holds, entries, and the transfers between them.

Values that ``batch`` changes and ``app.storage.ledger`` brings in and writes; and the two questions a balance answers,
whether a hold fits and whether somebody must be told.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from app.domain.books.budgets import BudgetSpec, Ledger
from app.domain.books.entries import Hold, Refusal, SoftAlert, UsageEntry
from app.domain.books.legs import AccountKey
from app.domain.books.sums import Sums

SPARE_PARTS = 4
"""What is taken ahead is at most this part of what is left of every budget."""


class HoldState(StrEnum):
    """A hold leaves ``OPEN`` exactly once."""

    OPEN = "open"
    POSTED = "posted"
    VOIDED = "voided"
    EXPIRED = "expired"


class TransferKind(StrEnum):
    """What a transfer does to the accounts of its legs; what it frees, it takes from where the hold stood."""

    PENDING = "pending"
    POST = "post"
    """Frees the hold, posts what was spent of it."""
    VOID = "void"
    EXPIRE = "expire"
    """Moves the hold to unknown."""
    RESOLVE = "resolve"
    """Frees what was unknown: somebody knows now."""
    SINGLE = "single"
    """Posts what no hold covered."""
    CORRECT = "correct"
    """Posts what an entry turned out to have cost more."""
    REFUND = "refund"
    """Posts back what it turned out to have cost less."""
    OPENING = "opening"
    """Posts what was spent in a window before its budget existed."""


@dataclass(slots=True)
class Account:
    """Balances of one account as the batch goes on."""

    key: AccountKey
    limit: int | None = None
    spec: BudgetSpec | None = None
    """What limits it now."""
    pending: int = 0
    posted: int = 0
    unknown: int = 0
    refunded: int = 0
    alerted: bool = False
    stored: tuple[int, int, int, int] | None = None
    """The four balances as they are in the store; None: not there yet."""
    usd: bool = field(init=False)
    hard_limit: int | None = None
    """What a hold must fit into; None: nothing stops it here."""
    alert_at: float | None = None
    """What must be used for an alert; None: there is none to come."""

    def __post_init__(self) -> None:
        self.usd = self.key.ledger is Ledger.USD

    @property
    def used(self) -> int:
        """Spent, or not known not to be."""
        return self.posted - self.refunded + self.unknown

    @property
    def balances(self) -> tuple[int, int, int, int]:
        """Pending, posted, unknown, refunded."""
        return self.pending, self.posted, self.unknown, self.refunded


@dataclass(slots=True)
class HeldAmount:
    """A hold as the batch goes on."""

    hold: Hold
    leg_set: str
    state: HoldState = HoldState.OPEN
    resolved: bool = False
    ended_s: float | None = None
    stored: tuple[HoldState, bool] | None = None
    """State and ``resolved`` as they are in the store; None: not there yet."""

    @property
    def nano(self) -> int:
        return self.hold.amount_nano or 0

    @property
    def unknown(self) -> bool:
        """Whether nobody knows yet what was bought with it."""
        return self.state is HoldState.EXPIRED and not self.resolved


@dataclass(slots=True)
class BookedEntry:
    """An entry, or a correction of one, as it stands in the books."""

    entry: UsageEntry
    row_id: str
    """The entry's id, or the correction's."""
    sums: Sums
    """What it adds: of a correction, the difference."""
    hold_id: str | None
    leg_set: str
    booked_s: float
    corrects: str | None = None


@dataclass(slots=True)
class Transfer:
    """One movement on all accounts of a leg set. Never changed; not frozen, because freezing makes it slow."""

    kind: TransferKind
    at_s: float
    leg_set: str
    nano: int = 0
    tokens: int = 0
    freed_nano: int = 0
    freed_tokens: int = 0
    hold_id: str | None = None
    entry_id: str | None = None


def move(account: Account, transfer: Transfer) -> None:
    """Change one account's balances by a transfer."""
    if account.usd:
        amount, freed = transfer.nano, transfer.freed_nano
    else:
        amount, freed = transfer.tokens, transfer.freed_tokens
    kind = transfer.kind
    if kind is TransferKind.PENDING:
        account.pending += amount
    elif kind is TransferKind.POST:
        account.pending -= freed
        account.posted += amount
    elif kind is TransferKind.VOID:
        account.pending -= freed
    elif kind is TransferKind.EXPIRE:
        account.pending -= freed
        account.unknown += freed
    elif kind is TransferKind.RESOLVE:
        account.unknown -= freed
    elif kind is TransferKind.REFUND:
        account.refunded += amount
    else:
        account.posted += amount


def refusal_of(account: Account, command: Hold) -> Refusal | None:
    """Return why a hold does not fit into an account; None where it does."""
    limit = account.hard_limit
    if limit is None:
        return None
    asked = command.amount_nano if account.usd else command.tokens
    left = limit - account.used - account.pending
    if asked is not None and (not asked or asked * (SPARE_PARTS if command.spare else 1) <= left):
        return None
    assert account.spec is not None, "a limit is a budget's"
    return Refusal(
        reason="unpriced" if asked is None else "exhausted",
        budget_id=account.spec.budget_id,
        owner_kind=account.key.owner_kind,
        owner_name=account.key.owner_name,
        window=account.key.window,
        ledger=account.key.ledger,
        limit=limit,
        left=max(0, left),
        asked=asked,
        resets_s=account.key.ends_s,
    )


def alert_of(account: Account) -> SoftAlert:
    """Return what people are told of an account whose budget is near its end."""
    assert account.spec is not None, "a limit is a budget's"
    assert account.limit is not None, "and so is what is soft about it"
    return SoftAlert(
        budget_id=account.spec.budget_id,
        owner_kind=account.key.owner_kind,
        owner_name=account.key.owner_name,
        window=account.key.window,
        window_key=account.key.window_key,
        ledger=account.key.ledger,
        limit=account.limit,
        spent=account.used,
    )
