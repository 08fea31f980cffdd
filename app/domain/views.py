"""What operators look at: accounts with their limits, live checks, reloads. Values only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitView:
    """One limit of an account x model and how much of it is in use."""

    name: str
    """rpm, tpm, itpm, otpm, rpd or concurrency."""
    limit: int
    used: int
    """Requests or tokens counted against the limit now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountView:
    """One (account, model) as an operator sees it. Never holds a key."""

    account: str
    provider: str
    model: str
    state: str
    """healthy, cooling_minute, cooling_day, dead or half_open; starting or draining while not in service."""
    identity: str | None = None
    quota_group: str | None = None
    limits: tuple[LimitView, ...] = ()
    in_flight: int = 0
    cooldown_s: float = 0.0
    """Seconds until it serves again."""
    last_error: str | None = None
    calls: int = 0
    """Calls finished since the actor started."""
    input_tokens: int = 0
    output_tokens: int = 0
    ttft_s: float | None = None
    """Average time to the first token; None until a stream was answered."""
    tokens_per_s: float | None = None
    """Average speed of generating after it; None until measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCheck:
    """How one tiny real call went."""

    account: str
    provider: str
    model: str
    ok: bool
    seconds: float
    message: str
    """What went wrong and what to do, or what the provider said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadReport:
    """What a reload changed."""

    version: int
    source: str
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    """Account names; removed ones finish what they have begun."""
    notes: tuple[str, ...] = ()
