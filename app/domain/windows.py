"""Sliding windows: never more than the limit in any 60 seconds, by the clock of whoever counts.

Used by ``limiter`` for limits with ``window: sliding``. Where a provider counts, a request reaches it at some moment
between its start and its answer; it may therefore count until 60 seconds after the answer, and an unanswered one counts
without end (``SlidingWindow``). Where we count ourselves, as for callers, its start is all that matters
(``StartWindow``).
"""

from __future__ import annotations

from collections import deque

from app.domain.buckets import Hold
from app.domain.limits import MINUTE_NS

SLACK_NS = 1_000_000_000
"""A spare permit is used up to so long after it was granted."""
STEP_NS = 100_000_000
"""What leaves a window within one step leaves it at its end, so that its size does not grow with the rate."""


class SlidingWindow:
    """Admits at most ``limit`` units in any 60 seconds of the provider's time. No burst, no debt.

    Args:
        limit: Units per minute. Positive. A single charge above it is refused for good (``fits`` says so).

    Not thread-safe: the owning actor's event loop is the lock.
    """

    kind = "sliding"
    span_ns = MINUTE_NS
    """How long what was used counts."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.largest = 0
        """Largest single charge so far, in units."""
        self._open = 0
        self._settled = 0
        self._leaving: deque[list[int]] = deque()
        """[leaves_ns, amount], earliest first; the sum of amounts is ``_settled``."""

    def fits(self, amount: int) -> bool:
        """Return whether ``amount`` can ever be admitted."""
        return amount <= self.limit

    def earliest_ns(self, amount: int, from_ns: int, headroom_ppm: int = 0) -> int | None:
        """Return when ``amount`` may start, from ``from_ns`` on; None where that depends on unanswered calls.

        ``headroom_ppm`` millionths of the limit must be free beside it.
        """
        wanted = min(amount + self.limit * headroom_ppm // 1_000_000, max(amount, self.limit))
        excess = self._open + self._settled + wanted - self.limit
        if excess <= 0:
            return from_ns
        for leaves_ns, left in self._leaving:
            excess -= left
            if excess <= 0:
                return max(from_ns, leaves_ns)
        return None

    def take(self, amount: int, at_ns: int) -> Hold:
        """Count ``amount`` units from now until 60 seconds after they are settled."""
        self.largest = max(self.largest, amount)
        self._open += amount
        return Hold(amount=amount, at_ns=at_ns, sequence=0)

    def spend(self, hold: Hold, amount: int, now_ns: int) -> None:
        """Turn ``amount`` units of ``hold`` into use seen at ``now_ns``; what exceeds it counts as well."""
        kept = min(amount, hold.amount)
        hold.amount -= kept
        self._open -= kept
        self._add(amount, now_ns + self.span_ns)

    def give_back(self, hold: Hold, amount: int, now_ns: int) -> None:
        """Forget ``amount`` units of ``hold``: they never reached the provider, or it does not count them."""
        self.forget(now_ns)
        hold.amount -= amount
        self._open -= amount

    def charge_foreign(self, amount: int, now_ns: int, leave_in_ns: int = MINUTE_NS) -> None:
        """Count use that nobody reserved, for a minute or until the provider's reset if that comes earlier."""
        self._add(min(amount, self.limit), now_ns + min(leave_in_ns, self.span_ns))

    def cap_level(self, units: int, now_ns: int) -> None:
        """Leave room for at most ``units`` more."""
        self.forget(now_ns)
        self._add(max(0, self.limit - self._open - self._settled - units), now_ns + self.span_ns)

    def empty(self, now_ns: int) -> None:
        """Leave no room for a minute, as after a crash."""
        self.cap_level(0, now_ns)

    def set_limit(self, limit: int) -> None:
        """Change the limit; everything counted stays counted."""
        self.limit = limit

    def used(self, now_ns: int) -> int:
        """Return how many units count at ``now_ns``."""
        self.forget(now_ns)
        return self._open + self._settled

    def entries(self, now_ns: int) -> tuple[tuple[int, int], ...]:
        """Return (leaves_in_ns, amount) of everything that counts, unanswered calls as if answered now.

        Gathered in steps of half a second, rounded up, so that a saved state stays small.
        """
        self.forget(now_ns)
        step_ns = 500_000_000
        sums: dict[int, int] = {}
        for leaves_ns, amount in (*self._leaving, (now_ns + self.span_ns, self._open)):
            leaves_in_ns = -(-(leaves_ns - now_ns) // step_ns) * step_ns
            sums[leaves_in_ns] = sums.get(leaves_in_ns, 0) + amount
        return tuple((leaves_in_ns, amount) for leaves_in_ns, amount in sorted(sums.items()) if amount)

    def _add(self, amount: int, leaves_ns: int) -> None:
        if not amount:
            return
        self._settled += amount
        if not self._leaving or leaves_ns >= self._leaving[-1][0]:
            self._leaving.append([leaves_ns, amount])
            return
        self._leaving = deque(sorted((*self._leaving, [leaves_ns, amount])))

    def forget(self, now_ns: int) -> None:
        """Drop what has left the window; results do not depend on it, only memory does."""
        while self._leaving and self._leaving[0][0] <= now_ns:
            self._settled -= self._leaving.popleft()[1]


class StartWindow(SlidingWindow):
    """Admits at most ``limit`` units in any 60 seconds, counting what each call used at the moment of its start.

    Longer than a minute by ``SLACK_NS`` and up to ``STEP_NS``, because a spare permit starts later than it was granted;
    so at least 98 % of the limit can be used, however long calls take. What exceeds its reservation counts from when it
    was known.

    Args:
        limit: Units per minute. Positive.

    Not thread-safe: the owning actor's event loop is the lock.
    """

    span_ns = MINUTE_NS + SLACK_NS

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._steps: dict[int, list[int]] = {}
        """The entries of ``_leaving`` by when they leave."""

    def take(self, amount: int, at_ns: int) -> Hold:
        """Count ``amount`` units from now until a minute after ``at_ns``."""
        self.largest = max(self.largest, amount)
        return Hold(amount=amount, at_ns=at_ns, sequence=self._count(amount, at_ns + self.span_ns))

    def spend(self, hold: Hold, amount: int, now_ns: int) -> None:
        """Turn ``amount`` units of ``hold`` into use, counted where they are; what exceeds it counts from now."""
        kept = min(amount, hold.amount)
        hold.amount -= kept
        self._add(amount - kept, now_ns + self.span_ns)

    def give_back(self, hold: Hold, amount: int, now_ns: int) -> None:
        """Forget ``amount`` units of ``hold``, unless they have left already."""
        self.forget(now_ns)
        hold.amount -= amount
        entry = self._steps.get(hold.sequence)
        if entry is not None:
            entry[1] -= amount
            self._settled -= amount

    def forget(self, now_ns: int) -> None:
        """Drop what has left the window; results do not depend on it, only memory does."""
        while self._leaving and self._leaving[0][0] <= now_ns:
            leaves_ns, amount = self._leaving.popleft()
            self._settled -= amount
            del self._steps[leaves_ns]

    def _add(self, amount: int, leaves_ns: int) -> None:
        if amount:
            self._count(amount, leaves_ns)

    def _count(self, amount: int, leaves_ns: int) -> int:
        leaves_ns = -(-leaves_ns // STEP_NS) * STEP_NS
        entry = self._steps.get(leaves_ns)
        self._settled += amount
        if entry is not None:
            entry[1] += amount
            return leaves_ns
        entry = self._steps[leaves_ns] = [leaves_ns, amount]
        if not self._leaving or leaves_ns > self._leaving[-1][0]:
            self._leaving.append(entry)
        else:
            self._leaving = deque(sorted((*self._leaving, entry)))
        return leaves_ns
