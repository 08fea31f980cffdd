"""How loaded an account is, as its actor last said, with what is needed to foresee when it can take more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from app.domain.accounts import AccountState
from app.domain.values import Value

BucketKind = Literal["requests", "tokens", "input_tokens", "output_tokens"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketLevel(Value):
    """One limit as a bucket: what may be taken now and how fast it refills.

    A sliding window is shown as a bucket too: an approximation that the account corrects when it is asked.
    """

    kind: BucketKind
    level: float
    """Requests or tokens that may start at once; negative while in debt."""
    capacity: float
    rate_per_s: float
    full_s: float | None = None
    """Seconds, at observation, after which a window is full again if nothing more starts; None for a bucket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRow(Value):
    """The load of one (account, model)."""

    account: str
    model: str
    scope: str
    """Rows of one scope and model share their buckets and concurrency."""
    state: AccountState
    in_flight: int
    """Calls admitted and not ended, over the whole scope."""
    concurrency: int | None
    buckets: tuple[BucketLevel, ...]
    cooldown_s: float
    """Seconds, at observation, until it serves again; 0 while it serves."""
    measured: bool = True
    """False where no call was answered yet, or none for long: the times below are a guess."""
    closed_s: float = 0.0
    """Seconds, at observation, before which not even the smallest call may start: a day or a window that is spent."""
    call_s: float
    """EWMA of a whole call's duration."""
    call_output_tokens: float
    """EWMA of what those calls were allowed to generate; a call allowed more is expected to take longer."""
    ttft_s: float | None = None
    """EWMA of the time to the first token; None until a stream was answered."""
    tokens_per_s: float | None = None
    """EWMA of the speed of generating after it (``speed``); None until measured."""
    output_tokens: float = 0.0
    """EWMA of what those calls generated at that speed."""
    error_rate: float
    """EWMA, 0 to 1."""
    context_tokens: int
    observed_at_s: float
    """Monotonic seconds of the machine that observed it; compared only between rows of one account."""


def why_late(account: str, row: LoadRow | None) -> str:
    """Say for people why an account cannot start a call now."""
    if row is None:
        return f"{account} is starting"
    if row.state == "healthy":
        return f"{account} is at its limit"
    if row.state == "dead":
        return f"the key of {account} is refused"
    return f"{account} cools down after a failure"
