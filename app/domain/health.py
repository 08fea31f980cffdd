"""Whether one (account, model) may be asked: healthy, cooling, probing, or dead until a person acts.

Pure: outcomes and times go in, a state comes out. Does not call, wait or count limits (``limiter`` does). Asked by the
books of an account host. A dead key concerns the whole account: the books tell every model of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.accounts import AccountState

BACKOFF_NS = 1_000_000_000
BACKOFF_MAX_NS = 60_000_000_000
"""Pause after a failure of the provider: doubles from one second to one minute while nothing succeeds."""
LIMITED_MAX_NS = 15_000_000_000
"""Longest pause between tries of an account whose limit refuses at each end of its own cooldown."""
ERROR_WEIGHT = 0.2
BREAKER_ERROR_RATE = 0.5
"""From here on the breaker opens: four failures in a row after a clean record."""
PROBE_TIMEOUT_NS = 600_000_000_000
"""A probe that never ended (its caller died) makes room for another one after this."""
PROBE_LOOK_NS = 1_000_000_000
"""While a probe is under way nobody knows when it ends: whoever waits for it looks again after this."""


@dataclass(slots=True)
class Health:
    """State of one (account, model).

    A cooldown only ever gets longer. Trouble at the provider costs a short pause; where it is frequent the breaker
    opens and, when the pause is over, exactly one call is let through (half open): its success closes the breaker, its
    failure pauses for twice as long. A limit's cooldown ends without a probe, for the provider has said when it is
    over; where that was not true the breaker opens as well, or all who wait would be refused at each of its ends.

    Outcomes carry no call id. One of a call that was sent before the breaker opened is ignored until a probe is under
    way, and taken for the probe's afterwards.

    Not thread-safe: the owning actor's event loop is the lock.
    """

    error_rate: float = 0.0
    """EWMA of failures that are the provider's: 0 to 1. Limits and refused requests do not count."""
    _dead: bool = False
    _minute_until_ns: int | None = None
    _day_until_ns: int | None = None
    _pause_until_ns: int | None = None
    """End of the back-off after trouble at the provider."""
    _backoff_ns: int = BACKOFF_NS
    """Length of the next one."""
    _open: bool = False
    """Breaker: when the pause is over, one probe and nothing else."""
    _probe_ns: int | None = None
    """When the probe under way started."""
    _limited: bool = False
    """Whether a limit refused the last call that ended."""

    def state(self, now_ns: int) -> AccountState:
        """Return the state as operators see it; a pause after trouble reads as cooling for less than a day."""
        if self._dead:
            return "dead"
        if self._day_until_ns is not None and now_ns < self._day_until_ns:
            return "cooling_day"
        if now_ns < _latest(now_ns, self._minute_until_ns, self._pause_until_ns):
            return "cooling_minute"
        return "half_open" if self._open else "healthy"

    def ready_at_ns(self, now_ns: int) -> int | None:
        """Return when a call may be made: ``now_ns`` if now, None where only a person can help.

        While a probe is under way it is a moment to look again.
        """
        if self._dead:
            return None
        probing = self._probe_ns is not None and now_ns < self._probe_ns + PROBE_TIMEOUT_NS
        return _latest(self.cooling_until_ns(now_ns), now_ns + PROBE_LOOK_NS if probing else None)

    def cooling_until_ns(self, now_ns: int) -> int:
        """Return when the cooldown or pause in force ends, ``now_ns`` where there is none; a probe is no cooldown."""
        return _latest(now_ns, self._day_until_ns, self._minute_until_ns, self._pause_until_ns)

    def on_start(self, now_ns: int) -> None:
        """Note a call that was admitted; while half open it is the one probe."""
        if self._open:
            self._probe_ns = now_ns

    def on_success(self, now_ns: int) -> None:
        """Note an answer: the provider works. Closes the breaker if it was the probe's."""
        self.error_rate *= 1.0 - ERROR_WEIGHT
        if now_ns < _latest(now_ns, self._pause_until_ns) or (self._open and self._probe_ns is None):
            return
        if self._open:
            # What the breaker saw is over; the old rate would reopen it at the next stray failure.
            self.error_rate = min(self.error_rate, BREAKER_ERROR_RATE / 2)
        self._open, self._probe_ns, self._backoff_ns = False, None, BACKOFF_NS
        if now_ns >= _latest(0, self._minute_until_ns):
            self._limited = False

    def on_minute_limit(self, now_ns: int, until_ns: int) -> None:
        """Cool until ``until_ns``; an earlier end than the one in force changes nothing.

        The calls that were under way are refused together; one that is refused after its cooldown opens the breaker,
        and each further one doubles a pause.
        """
        if now_ns >= _latest(0, self._minute_until_ns):
            if self._limited:
                self._open = True
                until_ns = max(until_ns, now_ns + min(self._backoff_ns, LIMITED_MAX_NS))
                self._backoff_ns = min(BACKOFF_MAX_NS, self._backoff_ns * 2)
            self._limited = True
        self._minute_until_ns = _latest(until_ns, self._minute_until_ns)
        self._probe_ns = None

    def on_day_limit(self, now_ns: int, until_ns: int) -> None:
        """Cool until the day's reset; never shortens."""
        self._day_until_ns = _latest(until_ns, self._day_until_ns)
        self._probe_ns = None

    def on_dead_key(self, now_ns: int) -> None:
        """Park for good: only a new key, which makes a new ``Health``, helps."""
        self._dead = True
        self._probe_ns = None

    def on_trouble(self, now_ns: int, retry_after_ns: int | None = None) -> None:
        """Note a failure that is the provider's: overloaded, timeout, broken connection, cut or garbage.

        The calls that were under way fail together: while a pause lasts, further failures do not double it.

        Args:
            now_ns: Monotonic time.
            retry_after_ns: What the provider asks for; always honoured.
        """
        self.error_rate += ERROR_WEIGHT * (1.0 - self.error_rate)
        asked_ns = now_ns + (retry_after_ns or 0)
        paused = now_ns < _latest(now_ns, self._pause_until_ns)
        if not paused:
            asked_ns = max(asked_ns, now_ns + self._backoff_ns)
            self._backoff_ns = min(BACKOFF_MAX_NS, self._backoff_ns * 2)
        self._pause_until_ns = _latest(asked_ns, self._pause_until_ns)
        self._open = self._open or self.error_rate >= BREAKER_ERROR_RATE
        self._probe_ns = None

    def on_refused_request(self, now_ns: int) -> None:
        """Note an answer that refused the request itself: the provider works, the request was wrong."""
        self.on_success(now_ns)

    def on_withdrawn(self, now_ns: int) -> None:
        """Note a call that ended without telling anything; a probe makes room for the next one."""
        self._probe_ns = None


def _latest(from_ns: int, *moments_ns: int | None) -> int:
    return max([from_ns, *(moment_ns for moment_ns in moments_ns if moment_ns is not None)])
