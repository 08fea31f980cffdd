"""A token bucket without rounding: admits a bounded burst, then a steady rate, in integers only.

Used by ``limiter``, which owns it and decides when to charge. Knows nothing of requests or models; time is an argument.
The provider-side sliding window is in ``windows``.

One unit (a request or a token) is kept as ``MINUTE_NS`` parts, so that a limit of L per minute refills L parts a
nanosecond.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from app.domain.limits import MINUTE_NS

PEAKS_MAX = 2_048
"""Bound of the refund history; beyond it the two oldest peaks are merged, which can only make refunds smaller."""


@dataclass(slots=True)
class Hold:
    """A charge that is not settled yet."""

    amount: int
    """Units still open."""
    at_ns: int
    sequence: int
    """Order of the charge within its bucket or window."""


class TokenBucket:
    """Admits at most ``capacity + rate x w`` in any interval w, plus the debt of one charge above the capacity.

    The level is that at ``clock_ns``, which runs ahead of the caller's time when a charge was promised for the future:
    charges are taken in order, a later one never starts before an earlier one.

    Args:
        limit: Units per minute. Positive.
        burst_ms: Capacity as milliseconds of the steady rate; at least one unit is held.
        now_ns: Monotonic time in nanoseconds. The bucket starts full.

    Not thread-safe: the owning actor's event loop is the lock.

    Source: ITU-T I.371, generic cell rate algorithm, virtual scheduling form.
    """

    kind = "bucket"

    def __init__(self, limit: int, *, burst_ms: int, now_ns: int) -> None:
        self.limit = limit
        self.burst_ms = burst_ms
        self.capacity_parts = _capacity_parts(limit, burst_ms)
        self.level_parts = self.capacity_parts
        self.clock_ns = now_ns
        self.largest = 0
        """Largest single charge so far, in units: how deep the debt can be."""
        self._sequence = 0
        self._parked: deque[tuple[int, int]] = deque()
        """(until_ns, parts) of charges that may be used later than they were taken, earliest first."""
        self._parked_parts = 0
        self._peaks: list[tuple[int, int]] = []
        """(sequence, level just before that charge): the suffix maxima, levels strictly falling. A refund may not lift
        the level of any moment since its charge above the capacity, or unused credit would be hoarded."""

    def fits(self, amount: int) -> bool:
        """Return whether ``amount`` can ever be admitted: always, at worst as debt."""
        return amount >= 0

    def earliest_ns(self, amount: int, from_ns: int, headroom_ppm: int = 0) -> int:
        """Return when ``amount`` units may start, from ``from_ns`` on: at that level, or when the bucket is full.

        ``headroom_ppm`` millionths of the capacity must be there beside them.
        """
        start_ns = max(self.clock_ns, from_ns)
        wanted = amount * MINUTE_NS + self.capacity_parts * headroom_ppm // 1_000_000
        wanted = min(wanted, self.capacity_parts)
        level, clock_ns, room = self.level_parts, self.clock_ns, self.capacity_parts - self._parked_parts
        for until_ns, parts in self._parked:
            reached_ns = clock_ns - (min(0, level - wanted) // self.limit)
            if wanted <= room and reached_ns <= until_ns:
                return max(start_ns, reached_ns)
            level, clock_ns = min(room, level + max(0, until_ns - clock_ns) * self.limit), max(clock_ns, until_ns)
            room += parts
        return max(start_ns, clock_ns - (min(0, level - wanted) // self.limit))

    def take(self, amount: int, at_ns: int) -> Hold:
        """Charge ``amount`` units at ``at_ns``, not before ``earliest_ns``; the level may become negative (debt)."""
        self._advance(at_ns)
        self.largest = max(self.largest, amount)
        return Hold(amount=amount, at_ns=self.clock_ns, sequence=self._charge(amount * MINUTE_NS))

    def park(self, amount: int, until_ns: int) -> None:
        """Note that ``amount`` units just taken may be used at any moment until ``until_ns``.

        Until then the level stays that much below the capacity, or what was charged early and used late would come on
        top of a full bucket.

        Args:
            amount: Units, taken a moment ago.
            until_ns: Counts as that of an earlier call where it lies before it.
        """
        parts = amount * MINUTE_NS
        if parts:
            latest_ns = self._parked[-1][0] if self._parked else until_ns
            self._parked.append((max(until_ns, latest_ns), parts))
            self._parked_parts += parts

    def spend(self, hold: Hold, amount: int, now_ns: int) -> None:
        """Turn ``amount`` units of ``hold`` into use; what exceeds it is charged now, as debt if need be."""
        kept = min(amount, hold.amount)
        hold.amount -= kept
        if amount > kept:
            self._advance(now_ns)
            self._charge((amount - kept) * MINUTE_NS)

    def give_back(self, hold: Hold, amount: int, now_ns: int) -> None:
        """Refund ``amount`` units of ``hold`` as if they had never been charged.

        Exact: no interval since the charge gets more than its allowance, so credit that would have overflowed a full
        bucket in the meantime stays lost.
        """
        self._advance(now_ns)
        hold.amount -= amount
        first = _first_after(self._peaks, hold.sequence)
        peak = max(self.level_parts, self._peaks[first][1] if first < len(self._peaks) else self.level_parts)
        refund = min(amount * MINUTE_NS, self.capacity_parts - self._parked_parts - peak)
        if refund <= 0:
            return
        lifted = [(sequence, level + refund) for sequence, level in self._peaks[first:]]
        self.level_parts += refund
        highest = lifted[0][1] if lifted else self.level_parts
        while first and self._peaks[first - 1][1] <= highest:
            first -= 1
        self._peaks[first:] = lifted

    def charge_foreign(self, amount: int, now_ns: int) -> None:
        """Lower the level by use that nobody reserved, to a debt of a minute's limit at most."""
        self._advance(now_ns)
        floor = -self.limit * MINUTE_NS
        self._charge(max(0, min(amount * MINUTE_NS, self.level_parts - floor)))

    def cap_level(self, units: int, now_ns: int) -> None:
        """Lower the level to at most ``units``; never raises it."""
        self._advance(now_ns)
        excess = self.level_parts - units * MINUTE_NS
        if excess > 0:
            self._charge(excess)

    def empty(self, now_ns: int) -> None:
        """Forget all credit, as after a crash: level 0, or the debt that the largest charge may have left."""
        self._advance(now_ns)
        lowest = min(0, self.capacity_parts - self.largest * MINUTE_NS)
        if self.level_parts > lowest:
            self._charge(self.level_parts - lowest)

    def set_limit(self, limit: int, *, burst_ms: int, now_ns: int) -> None:
        """Change rate and capacity from now on; the level stays, cut to the new capacity."""
        self._advance(now_ns)
        self.limit, self.burst_ms = limit, burst_ms
        self.capacity_parts = _capacity_parts(limit, burst_ms)
        self.level_parts = min(self.level_parts, self.capacity_parts - self._parked_parts)
        self._peaks = [(sequence, min(level, self.capacity_parts)) for sequence, level in self._peaks]

    def level_at(self, now_ns: int) -> int:
        """Return the level in parts at ``now_ns``, charges promised for later included."""
        level, clock_ns, room = self.level_parts, self.clock_ns, self.capacity_parts - self._parked_parts
        for until_ns, parts in self._parked:
            if until_ns > now_ns:
                break
            level, clock_ns = min(room, level + max(0, until_ns - clock_ns) * self.limit), max(clock_ns, until_ns)
            room += parts
        return min(room, level + (now_ns - clock_ns) * self.limit)

    def used(self, now_ns: int) -> int:
        """Return how many units are missing to a full bucket, rounded up; above the capacity in debt."""
        return -((self.level_at(now_ns) - self.capacity_parts) // MINUTE_NS)

    def _advance(self, to_ns: int) -> None:
        if to_ns > self.clock_ns:
            self.level_parts = self.level_at(to_ns)
            self.clock_ns = to_ns
            while self._parked and self._parked[0][0] <= to_ns:
                self._parked_parts -= self._parked.popleft()[1]

    def _charge(self, parts: int) -> int:
        level = self.level_parts
        while self._peaks and self._peaks[-1][1] <= level:
            self._peaks.pop()
        self._sequence += 1
        self._peaks.append((self._sequence, level))
        if len(self._peaks) > PEAKS_MAX:
            self._peaks[:2] = [(self._peaks[1][0], self._peaks[0][1])]
        self.level_parts = level - parts
        return self._sequence


def _capacity_parts(limit: int, burst_ms: int) -> int:
    return max(MINUTE_NS, limit * burst_ms * 1_000_000)


def _first_after(peaks: list[tuple[int, int]], sequence: int) -> int:
    low, high = 0, len(peaks)
    while low < high:
        middle = (low + high) // 2
        if peaks[middle][0] <= sequence:
            low = middle + 1
        else:
            high = middle
    return low
