"""Decides what follows a failed try: another account, the same one after a pause, or the error.

Pure: time and chance are arguments. Does not choose the account, wait, or cool one down (the account's own actor does).
Asked by the gateway for every failed try of a client's request; runs share ``FREE_REFUSALS`` with it and keep budgets
of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from app.domain.errors import CallLostError, GatewayError, Retry, UpstreamError, UpstreamKind

FREE_REFUSALS = frozenset(
    {UpstreamKind.DEAD_KEY, UpstreamKind.MODEL_MISSING, UpstreamKind.MINUTE_LIMIT, UpstreamKind.DAY_LIMIT}
)
"""Failures that bought nothing and that the account's own state keeps from happening again."""
ACCOUNT_BOUND = frozenset({UpstreamKind.DEAD_KEY, UpstreamKind.MODEL_MISSING, UpstreamKind.DAY_LIMIT})
"""Failures that the same account repeats until a person acts or the day is over."""
BASE_S = 0.5
CAP_S = 8.0
ATTEMPTS_MAX = 6
"""Tries of one client request, over all accounts."""
EXPONENT_MAX = 60
NS_PER_S = 1_000_000_000
WINDOW_S = 60


def full_jitter(attempt: int, base_s: float, cap_s: float, random: float) -> float:
    """Return how long to wait before trying again, in seconds.

    Args:
        attempt: Tries that failed so far, from 1.
        base_s: Longest first pause; doubles with every further failure.
        cap_s: Longest pause at all.
        random: From 0 up to 1.

    Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 ("full jitter").
    """
    return random * min(cap_s, base_s * 2.0 ** min(attempt - 1, EXPONENT_MAX))


class RetryBudget:
    """Bounds what is sent twice: in the minute before any retry, ``floor`` + ``ratio`` x the calls of that minute.

    Counted by the second, calls for a little less than a minute and retries for a little more, so the bound is never
    exceeded, and memory does not grow with the load.

    Args:
        ratio: Retries per call. Not negative.
        floor: Retries that are always allowed, so that a quiet pool may retry at all. Not negative.

    Not thread-safe: the owner's event loop is the lock. Process-wide: with several replicas each holds its own.
    """

    def __init__(self, ratio: float, floor: int) -> None:
        if ratio < 0 or floor < 0:
            raise ValueError(f"ratio {ratio!r} and floor {floor!r} must not be negative")
        self._ratio = ratio
        self._floor = floor
        self._calls = _Seconds(WINDOW_S)
        self._retries = _Seconds(WINDOW_S + 1)
        self.refused = 0
        """Retries that were not allowed so far."""

    def on_call(self, now_ns: int) -> None:
        """Count a client's request when it is first sent; its retries are no calls."""
        self._calls.add(now_ns)

    def left(self, now_ns: int) -> int:
        """Return how many retries are allowed at this moment."""
        allowed = self._floor + int(self._ratio * self._calls.sum(now_ns))
        return max(0, allowed - self._retries.sum(now_ns))

    def take(self, now_ns: int) -> bool:
        """Count a retry if it is allowed; return whether it is."""
        if self.left(now_ns) < 1:
            self.refused += 1
            return False
        self._retries.add(now_ns)
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Tries:
    """How far a client's request has come when a try of it fails."""

    attempts: int
    """Tries made, the failed one included; at least 1."""
    tried_accounts: Sequence[str]
    """In order; the last one is the one that failed just now."""
    able_accounts: Sequence[str]
    """Accounts that could serve it now or soon: known, alive, not cooling for longer than the request may wait."""
    left_s: float
    """Until the request's deadline, in seconds."""
    answer_begun: bool = False
    """Whether the client has seen a byte of an answer."""
    attempts_max: int = ATTEMPTS_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """Try another account at once."""

    avoid: Literal["account", "model", "provider"] = "account"
    """What failed, and is to be avoided where there is a choice: this account only, the model on any account (the
    request is too long for it), or everything of this provider (it is in trouble)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SameAccountAfter:
    """Nobody else can: try the same account after a pause."""

    pause_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """Tell the client; ``reason`` is for the logs, the client gets the error itself."""

    reason: str


Step: TypeAlias = Elsewhere | SameAccountAfter | GiveUp


def next_step(error: GatewayError, tries: Tries, budget: RetryBudget, now_ns: int, random: float) -> Step:
    """Return what follows a failed try, and take it from the budget where it may cost something a second time.

    Args:
        error: How the try failed. Only failures of providers are worth another one.
        tries: What was tried, and what could be.
        budget: The pool's. Refusals that cost nothing do not draw on it: what an account refuses for a limit or a dead
            key it keeps refusing by its own state, without being asked. A retry after a pause always does.
        now_ns: Monotonic time, in nanoseconds.
        random: From 0 up to 1; spreads the pauses.
    """
    if not isinstance(error, UpstreamError) or error.retry is not Retry.ELSEWHERE:
        return GiveUp(reason="the same request fails again")
    if tries.answer_begun:
        return GiveUp(reason="the client has part of an answer")
    if tries.attempts >= tries.attempts_max:
        return GiveUp(reason=f"{tries.attempts} tries failed")
    if tries.left_s <= 0:
        return GiveUp(reason="the deadline is over")
    step = _where(error, tries, random)
    free = isinstance(step, Elsewhere) and is_free(error)
    if isinstance(step, GiveUp) or free or budget.take(now_ns):
        return step
    return GiveUp(reason="the pool has used up its retries of this minute")


def is_free(error: UpstreamError) -> bool:
    """Return whether going elsewhere after this failure costs the pool nothing; a loss of our own is not the pool's."""
    return error.kind in FREE_REFUSALS or error.kind is UpstreamKind.TOO_LONG or isinstance(error, CallLostError)


def _where(error: UpstreamError, tries: Tries, random: float) -> Step:
    if any(account not in tries.tried_accounts for account in tries.able_accounts):
        return Elsewhere(avoid=_fault(error))
    if error.kind in ACCOUNT_BOUND or error.kind is UpstreamKind.TOO_LONG:
        return GiveUp(reason="no other account can serve it")
    if tries.tried_accounts[-1] not in tries.able_accounts:
        return GiveUp(reason="no account can serve it in time")
    pause_s = full_jitter(tries.attempts, BASE_S, CAP_S, random)
    if error.retry_after_s is not None:
        # Spread what comes after the provider's word as well: everybody who was refused has heard the same number.
        pause_s += error.retry_after_s
    if pause_s >= tries.left_s:
        return GiveUp(reason="the pause would outlast the deadline")
    return SameAccountAfter(pause_s=pause_s)


def _fault(error: UpstreamError) -> Literal["account", "model", "provider"]:
    if error.kind is UpstreamKind.TOO_LONG:
        return "model"
    return "provider" if error.kind is UpstreamKind.OVERLOADED else "account"


class _Seconds:
    """Counts what happened in the last ``seconds`` seconds, the current one included, in as many numbers."""

    def __init__(self, seconds: int) -> None:
        self._counts = [0] * seconds
        self._latest_s = 0
        self._sum = 0

    def add(self, now_ns: int) -> None:
        self._forget(now_ns)
        self._counts[self._latest_s % len(self._counts)] += 1
        self._sum += 1

    def sum(self, now_ns: int) -> int:
        self._forget(now_ns)
        return self._sum

    def _forget(self, now_ns: int) -> None:
        now_s = now_ns // NS_PER_S
        for second in range(max(self._latest_s + 1, now_s - len(self._counts) + 1), now_s + 1):
            index = second % len(self._counts)
            self._sum -= self._counts[index]
            self._counts[index] = 0
        self._latest_s = max(self._latest_s, now_s)
