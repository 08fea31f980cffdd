"""Ceilings of money or tokens for a tenant, team, user, key or run, in a window: which apply, and when a window ends.

Decides from what it is given: specifications and an instant. Balances are the ledger's, and so is what to do about a
clock that jumped back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfo

from app.domain.values import Value

EVERYONE = "*"
"""As an owner's name in a budget: each of that kind has one of their own."""


class OwnerKind(StrEnum):
    """Whose budget it may be, the widest first."""

    TENANT = "tenant"
    TEAM = "team"
    USER = "user"
    KEY = "key"
    RUN = "run"


class Window(StrEnum):
    """After which time a budget begins anew."""

    DAY = "day"
    MONTH = "month"
    TOTAL = "total"
    """Never."""


class Ledger(StrEnum):
    """What is counted; each has its own accounts, and nothing moves between them."""

    USD = "usd"
    """In nano-dollars."""
    TOKENS = "tokens"
    """Input and output together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owners(Value):
    """On whose behalf something is bought; an empty name means nobody of that kind."""

    tenant: str = ""
    team: str = ""
    user: str = ""
    key: str = ""
    run: str = ""

    def name_of(self, kind: OwnerKind) -> str:
        """Return the owner of that kind; empty where there is none."""
        return str(getattr(self, kind.value))


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSpec:
    """One ceiling as configured; money and tokens may be limited together."""

    owner_kind: OwnerKind
    owner_name: str
    """A name, or ``*``: each of the kind for themselves, unless a budget of the same window names them."""
    window: Window
    time_zone: str = "UTC"
    """IANA name; days and months begin there."""
    limit_nano: int | None = None
    """Nano-dollars; None: money is not limited."""
    limit_tokens: int | None = None
    soft_share: float = 0.8
    """Of the limit: from there on people are told, nobody is stopped."""
    hard: bool = True
    """Whether a hold that does not fit is refused; else it is only counted."""

    @property
    def budget_id(self) -> str:
        """The same for the same owner and window, whatever the limit: a raised limit keeps what was spent."""
        return f"{self.owner_kind}:{self.owner_name}:{self.window}:{self.time_zone}"

    @property
    def owner(self) -> str:
        """Kind and name in one word."""
        return owner_word(self.owner_kind, self.owner_name)

    def limit_in(self, ledger: Ledger) -> int | None:
        """Return the limit in that ledger's unit."""
        return self.limit_nano if ledger is Ledger.USD else self.limit_tokens

    def applies_to(self, owners: Owners) -> bool:
        """Return whether ``owners`` has somebody of this kind whom it means."""
        name = owners.name_of(self.owner_kind)
        return bool(name) and self.owner_name in (name, EVERYONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenWindow:
    """The stretch of time in which a budget counts together."""

    key: str
    """2026-11-21, 2026-11, or empty for a window without end."""
    starts_s: float
    ends_s: float | None
    """First second after it; None: never."""


def owner_word(kind: OwnerKind, name: str) -> str:
    """Return kind and name in one word, the form in which budgets are looked up."""
    return f"{kind}:{name}"


def owner_words(owners: Owners) -> tuple[str, ...]:
    """Return the words under which budgets that may apply are found: every owner by name and as one of all."""
    return tuple(
        owner_word(kind, name)
        for kind in OwnerKind
        if owners.name_of(kind)
        for name in (owners.name_of(kind), EVERYONE)
    )


def budgets_for(owners: Owners, specs: Iterable[BudgetSpec]) -> tuple[BudgetSpec, ...]:
    """Return the budgets that apply, in order of their ids: one that names its owner replaces the one for everyone."""
    found: dict[tuple[OwnerKind, Window], dict[bool, list[BudgetSpec]]] = {}
    for spec in specs:
        if spec.applies_to(owners):
            same = found.setdefault((spec.owner_kind, spec.window), {})
            same.setdefault(spec.owner_name != EVERYONE, []).append(spec)
    chosen = [spec for same in found.values() for spec in same.get(True) or same[False]]
    return tuple(sorted(chosen, key=lambda spec: spec.budget_id))


@lru_cache(maxsize=1_024)
def _window_on(window: Window, time_zone: str, quarter: int) -> OpenWindow:
    zone = ZoneInfo(time_zone)
    local = datetime.fromtimestamp(quarter * QUARTER_S, zone)
    first = local.date() if window is Window.DAY else local.date().replace(day=1)
    after = first + timedelta(days=1) if window is Window.DAY else (first + timedelta(days=31)).replace(day=1)
    starts, ends = (
        datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC).timestamp() for day in (first, after)
    )
    key = first.isoformat() if window is Window.DAY else first.isoformat()[:7]
    return OpenWindow(key=key, starts_s=starts, ends_s=ends)


QUARTER_S = 900
"""Days begin on a quarter of an hour of UTC in every time zone in use, so a quarter lies in one window."""

_ENDLESS = OpenWindow(key="", starts_s=0.0, ends_s=None)


def window_at(window: Window, time_zone: str, at_s: float) -> OpenWindow:
    """Return the window that is open at ``at_s``, in seconds since 1970."""
    if window is Window.TOTAL:
        return _ENDLESS
    return _window_on(window, time_zone, int(at_s // QUARTER_S))
