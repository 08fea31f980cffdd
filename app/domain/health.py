"""Health of one (account, model): whether it may be called now, and since what it has been trouble.

    healthy ──minute limit──▶ cooling_minute ──time──▶ half_open ──success──▶ healthy
       │  ──day limit─────▶ cooling_day ────time──▶ half_open       └─failure─▶ cooling_minute, longer
       │  ──trouble ×3────▶ cooling_minute (backoff doubling)
       └──dead key────────▶ dead, until a person changes the account

A limit cools by the limiter's own cooldown; this adds the state that people see, the breaker for provider trouble, and
the single probe after it. Pure: time is an argument, monotonic nanoseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.accounts import AccountState

SECOND_NS = 1_000_000_000
BREAKER_FAILURES = 3
"""Consecutive provider failures that open the breaker; single ones are the weather."""
BACKOFF_NS = SECOND_NS
BACKOFF_NS_MAX = 60 * SECOND_NS
ERROR_WEIGHT = 0.1


@dataclass(slots=True)
class Health:
    """The breaker of one (account, model).

    Not thread-safe: the owning actor's event loop is the lock.
    """

    error_rate: float = 0.0
    """EWMA of provider failures, 0 to 1; requests that the provider refuses as such do not count."""
    _dead: bool = False
    _until_ns: int = 0
    _cooling: AccountState = "cooling_minute"
    _probing: bool = False
    """A probe is under way: nothing else is admitted."""
    _suspect: bool = False
    """The next call after a cooldown is a probe."""
    _failures: int = 0
    _openings: int = 0

    def state(self, now_ns: int) -> AccountState:
        """Return what people see."""
        if self._dead:
            return "dead"
        if now_ns < self._until_ns:
            return self._cooling
        return "half_open" if self._suspect else "healthy"

    def ready_at_ns(self, now_ns: int) -> int | None:
        """Return the earliest moment of the next call; None while the key is dead."""
        if self._dead:
            return None
        if self._probing:
            return max(self._until_ns, now_ns + SECOND_NS // 4)
        return max(self._until_ns, now_ns)

    def on_start(self, now_ns: int) -> None:
        """A call was admitted; after trouble it is the probe."""
        if self._suspect and now_ns >= self._until_ns:
            self._probing = True

    def on_withdrawn(self, now_ns: int) -> None:
        """A call ended without telling anything about the provider."""
        self._probing = False

    def on_refused_request(self, now_ns: int) -> None:
        """The provider answered, but refuses this request: it is alive."""
        self._recover()

    def on_success(self, now_ns: int) -> None:
        """The provider answered."""
        self._recover()
        self.error_rate *= 1.0 - ERROR_WEIGHT

    def on_minute_limit(self, now_ns: int, until_ns: int) -> None:
        """A 429; a later one may lengthen the cooldown, never shorten it."""
        self._cool("cooling_minute", until_ns)

    def on_day_limit(self, now_ns: int, until_ns: int) -> None:
        """The day's quota is used up."""
        self._cool("cooling_day", until_ns)

    def on_dead_key(self, now_ns: int) -> None:
        """The key is refused or out of money: never called again until the account is configured anew."""
        self._dead = True
        self._probing = False

    def on_trouble(self, now_ns: int, retry_after_ns: int | None) -> None:
        """The provider failed, not the key: back off, doubling, once it failed several times in a row."""
        self.error_rate += ERROR_WEIGHT * (1.0 - self.error_rate)
        self._failures += 1
        probe_failed, self._probing = self._probing, False
        if self._failures < BREAKER_FAILURES and not probe_failed and retry_after_ns is None:
            return
        pause_ns = min(BACKOFF_NS << min(self._openings, 6), BACKOFF_NS_MAX)
        self._openings += 1
        self._suspect = True
        self._cool("cooling_minute", now_ns + max(pause_ns, retry_after_ns or 0))

    def _cool(self, state: AccountState, until_ns: int) -> None:
        self._probing = False
        if until_ns > self._until_ns:
            self._until_ns = until_ns
            self._cooling = state

    def _recover(self) -> None:
        self._failures = 0
        self._openings = 0
        self._suspect = False
        self._probing = False
