"""What the books are told and what they answer: holds, settlements, corrections, and one entry per attempt.

Plain values made by whoever buys, carried to the store and applied there. Every command has an id that its client made,
so that saying it twice is saying it once. ``at_s`` of a command is the store's own time, which decides windows and
expiry; that of an entry is its maker's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias

from app.domain.books.budgets import Ledger, OwnerKind, Owners, Window
from app.domain.chat import Usage
from app.domain.values import Value


class Ending(StrEnum):
    """How an attempt ended."""

    ANSWERED = "answered"
    FAILED = "failed"
    CANCELLED = "cancelled"
    CACHE_HIT = "cache_hit"
    """Answered out of our own cache: nothing was bought, ``savings_nano`` says what was not paid."""
    HEDGE = "hedge"
    """The slower of two attempts at one call, paid and not used."""
    UNKNOWN = "unknown"
    """Whether it was answered and billed nobody knows yet."""
    SETTLED = "settled"
    """Nobody knew, and a person settled the hold by hand; ``error_kind`` has who, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageEntry(Value):
    """One attempt: who bought what where, what it consumed and cost."""

    entry_id: str
    """Made by the client, unique for ever: the same id again is the same entry."""
    at_s: float
    """When the attempt ended, in seconds since 1970: the hour and day it counts in."""
    owners: Owners
    task_id: str = ""
    task_type: str = ""
    account: str = ""
    provider: str = ""
    model: str = ""
    ending: Ending = Ending.ANSWERED
    usage: Usage
    """Of a cache hit it is not counted: nothing was bought."""
    batch: bool = False
    """Bought through the provider's batch interface, at its rate."""
    cost_nano: int | None = None
    """Nano-dollars; None: the price is unknown. Zero: it was free."""
    price_id: str | None = None
    """The price row that made the cost."""
    savings_nano: int = 0
    """What a cache saved."""
    duration_s: float = 0.0
    ttft_s: float | None = None
    """Until the first token."""
    request_id: str = ""
    trace_id: str = ""
    error_kind: str = ""
    """What went wrong, by kind; of ``SETTLED``, who said so and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold(Value):
    """Sets money and tokens aside before anything is bought, on every budget that applies, or on none."""

    hold_id: str
    owners: Owners
    amount_nano: int | None
    """The true ceiling of all calls it covers, in nano-dollars; None: the price is unknown."""
    tokens: int
    """The most tokens that these calls may consume, in and out."""
    at_s: float
    """Now, in seconds since 1970."""
    expires_s: float
    """From then on its holder is taken for dead."""
    holder: str = ""
    """The process that will settle it."""
    calls: int = 1
    spare: bool = False
    """Taken ahead of calls to come: refused unless several times as much is left to everybody else."""
    covers: tuple[str, ...] = ()
    """Ids of the entries it is meant for, where they are known ahead; a block of calls to come names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle(Value):
    """Books what was bought and gives back what is left of the hold."""

    hold_id: str | None
    """None: bought without a hold (a cache hit, a call that nobody foresaw)."""
    entries: tuple[UsageEntry, ...]
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Void(Value):
    """Gives a hold back whole: certainly nothing was bought."""

    hold_id: str
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Expire:
    """Takes holders of overdue holds for dead: what they held is unknown, and counts as spent until somebody knows."""

    at_s: float
    holder: str | None = None
    """Only this one's holds, overdue or not: it is known to be dead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Correct:
    """Replaces what an entry says was consumed and paid; the entry stays, the difference becomes a row of its own."""

    correction_id: str
    entry_id: str
    usage: Usage
    cost_nano: int | None
    price_id: str | None
    at_s: float
    note: str = ""
    """Who corrects by hand, and why; stands as ``error_kind`` in the correction's row."""


Command: TypeAlias = Hold | Settle | Void | Expire | Correct


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Which budget has no room for a hold."""

    reason: Literal["exhausted", "unpriced"]
    """``unpriced``: money is limited, and what the call costs is unknown."""
    budget_id: str
    owner_kind: OwnerKind
    owner_name: str
    """By name, also where the budget is for everyone."""
    window: Window
    ledger: Ledger
    limit: int
    """Nano-dollars or tokens, as everything here."""
    left: int
    """Never negative."""
    asked: int | None
    resets_s: float | None
    """When the window ends, in seconds since 1970; None: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftAlert:
    """A budget reached the share of its limit from which people want to hear of it; said once a window."""

    budget_id: str
    owner_kind: OwnerKind
    owner_name: str
    window: Window
    window_key: str
    ledger: Ledger
    limit: int
    spent: int
    """With what is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction(Value):
    """What a correction made of an entry, for whoever keeps sums of what is booked."""

    correction_id: str
    entry: UsageEntry
    """As it stands now."""
    differences: tuple[int, ...]
    """What the correction adds to every sum, in the order of ``sums.SUMS``; negative where less was bought."""


Outcome: TypeAlias = Literal["done", "replayed", "refused", "conflict", "missing"]
"""
- done: it is in the books now.
- replayed: it was already; nothing changed.
- refused: a budget has no room; nothing changed.
- conflict: the id belongs to something else, or the hold ended another way; nothing changed.
- missing: what it speaks of is not in the books; nothing changed.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Value):
    """What became of one command."""

    outcome: Outcome
    refusal: Refusal | None = None
    """Of a refused hold."""
    alerts: tuple[SoftAlert, ...] = ()
    count: int = 0
    """Entries booked or holds expired by it."""
    repeated: tuple[str, ...] = ()
    """Ids of a settlement's entries that were in the books before it."""
    corrections: tuple[Correction, ...] = ()
    """Of entries that it corrected: what a person settled a hold with gives way to who knows."""

    @property
    def accepted(self) -> bool:
        """Whether the books are as the command wants them, by this or an earlier saying."""
        return self.outcome in ("done", "replayed")
