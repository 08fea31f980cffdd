"""Limits as providers enforce them: token buckets with debt or sliding windows, charged at arrival. Exact integers.

Pure: the time is an argument. Not thread-safe: the server's event loop is the lock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal, Protocol

from app.simulator.config import Limits

LimitKind = Literal["concurrency", "rpd", "rpm", "tpm", "itpm", "otpm"]
MINUTE_NS = 60_000_000_000
DAY_NS = 86_400_000_000_000
MIDNIGHT_PACIFIC_NS = 8 * 3_600_000_000_000
"""Days begin at 08:00 UTC, midnight Pacific standard time."""


class Meter(Protocol):
    """One limit's counter."""

    limit: int

    def wait_ns(self, cost: int, now_ns: int) -> int | None:
        """Return after how long ``cost`` fits: 0 at once, None never."""

    def take(self, cost: int, now_ns: int) -> None:
        """Charge ``cost``, into debt if need be."""

    def remaining(self, now_ns: int) -> int:
        """Return what is left now, at least 0."""

    def reset_ns(self, now_ns: int) -> int:
        """Return after how long everything is available again."""


class Bucket:
    """A bucket that refills steadily; a request larger than it starts when it is full and leaves it in debt.

    Args:
        limit: Tokens (or requests) a minute.
        capacity_ns: Capacity in nanoseconds of the rate; at least one token.
    """

    def __init__(self, limit: int, *, capacity_ns: int) -> None:
        self.limit = limit
        # Levels are in token-minutes over nanoseconds, so that refilling is exact in integers.
        self._capacity = max(limit * capacity_ns, MINUTE_NS)
        self._level = self._capacity
        self._at_ns: int | None = None

    def wait_ns(self, cost: int, now_ns: int) -> int | None:
        """Return after how long ``cost`` fits; a bucket always fills."""
        self._refill(now_ns)
        missing = min(cost * MINUTE_NS, self._capacity) - self._level
        return max(0, -(-missing // self.limit))

    def take(self, cost: int, now_ns: int) -> None:
        """Charge ``cost``."""
        self._refill(now_ns)
        self._level -= cost * MINUTE_NS

    def remaining(self, now_ns: int) -> int:
        """Return the whole tokens left."""
        self._refill(now_ns)
        return max(0, self._level // MINUTE_NS)

    def reset_ns(self, now_ns: int) -> int:
        """Return when the bucket is full."""
        self._refill(now_ns)
        return -(-(self._capacity - self._level) // self.limit)

    def _refill(self, now_ns: int) -> None:
        if self._at_ns is not None and now_ns > self._at_ns:
            self._level = min(self._capacity, self._level + (now_ns - self._at_ns) * self.limit)
        self._at_ns = now_ns if self._at_ns is None else max(now_ns, self._at_ns)


class SlidingWindow:
    """Never more than the limit in any 60 seconds; a request above the limit never fits."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken: deque[tuple[int, int]] = deque()
        self._used = 0

    def wait_ns(self, cost: int, now_ns: int) -> int | None:
        """Return when enough has left the window."""
        self._expire(now_ns)
        if cost > self.limit:
            return None
        excess = self._used + cost - self.limit
        for at_ns, taken in self._taken:
            if excess <= 0:
                break
            excess -= taken
            if excess <= 0:
                return at_ns + MINUTE_NS - now_ns
        return 0

    def take(self, cost: int, now_ns: int) -> None:
        """Charge ``cost``."""
        self._expire(now_ns)
        if cost:
            self._taken.append((now_ns, cost))
            self._used += cost

    def remaining(self, now_ns: int) -> int:
        """Return what the window still holds."""
        self._expire(now_ns)
        return max(0, self.limit - self._used)

    def reset_ns(self, now_ns: int) -> int:
        """Return when the window is empty."""
        self._expire(now_ns)
        return self._taken[-1][0] + MINUTE_NS - now_ns if self._taken else 0

    def _expire(self, now_ns: int) -> None:
        while self._taken and self._taken[0][0] <= now_ns - MINUTE_NS:
            self._used -= self._taken.popleft()[1]


class DayCount:
    """Requests of a calendar day.

    Args:
        limit: Requests a day.
        wall_offset_ns: What to add to ``now_ns`` to get Unix time, in nanoseconds.
    """

    def __init__(self, limit: int, *, wall_offset_ns: int) -> None:
        self.limit = limit
        self._offset_ns = wall_offset_ns - MIDNIGHT_PACIFIC_NS
        self._day = -1
        self._used = 0

    def wait_ns(self, cost: int, now_ns: int) -> int | None:
        """Return when the next day begins, if today is used up."""
        self._turn(now_ns)
        return 0 if self._used + cost <= self.limit else self.reset_ns(now_ns)

    def take(self, cost: int, now_ns: int) -> None:
        """Charge ``cost``."""
        self._turn(now_ns)
        self._used += cost

    def remaining(self, now_ns: int) -> int:
        """Return what is left today."""
        self._turn(now_ns)
        return max(0, self.limit - self._used)

    def reset_ns(self, now_ns: int) -> int:
        """Return when the next day begins."""
        return DAY_NS - (now_ns + self._offset_ns) % DAY_NS

    def _turn(self, now_ns: int) -> None:
        day = (now_ns + self._offset_ns) // DAY_NS
        if day != self._day:
            self._day, self._used = day, 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A request that a limit did not admit."""

    kind: LimitKind
    limit: int
    used: int
    requested: int
    retry_after_ns: int | None
    """None: it never fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """One limit as the rate-limit headers report it."""

    limit: int
    remaining: int
    reset_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a request asks of the limits when it arrives."""

    input_tokens: int
    uncached_input_tokens: int
    """The part of ``input_tokens`` that was not read from the cache: what counts to ``itpm``."""
    output_tokens: int
    """The largest output it may have; counted at arrival only where the provider charges ``max_tokens``."""


class Quota:
    """All limits of one key or group for one model. In debt or full, it admits nothing and charges nothing."""

    def __init__(self, limits: Limits, *, wall_offset_ns: int) -> None:
        self._wall_offset_ns = wall_offset_ns
        self.in_flight = 0
        self.relimit(limits)

    def relimit(self, limits: Limits) -> None:
        """Put other limits in force: their counters start full, requests in flight stay counted."""
        self.limits = limits
        self._meters: dict[LimitKind, Meter] = {}
        if limits.rpd is not None:
            self._meters["rpd"] = DayCount(limits.rpd, wall_offset_ns=self._wall_offset_ns)
        rates: dict[LimitKind, int | None] = {
            "rpm": limits.rpm,
            "tpm": limits.tpm,
            "itpm": limits.itpm,
            "otpm": limits.otpm,
        }
        self._meters |= {kind: self._meter(limit) for kind, limit in rates.items() if limit is not None}

    def admit(self, demand: Demand, now_ns: int) -> Rejection | None:
        """Charge a request that fits every limit, or say which one it does not fit; then nothing is charged."""
        ceiling = self.limits.concurrency
        if ceiling is not None and self.in_flight >= ceiling:
            return Rejection(
                kind="concurrency", limit=ceiling, used=self.in_flight, requested=1, retry_after_ns=1_000_000_000
            )
        costs = self._costs(demand)
        waits = {kind: meter.wait_ns(costs[kind], now_ns) for kind, meter in self._meters.items()}
        over = [kind for kind, wait in waits.items() if wait != 0]
        if over:
            kind = over[0]
            meter = self._meters[kind]
            known = [wait for wait in waits.values() if wait is not None]
            return Rejection(
                kind=kind,
                limit=meter.limit,
                used=max(0, meter.limit - meter.remaining(now_ns)),
                requested=costs[kind],
                retry_after_ns=max(known) if len(known) == len(waits) else None,
            )
        for kind, meter in self._meters.items():
            meter.take(costs[kind], now_ns)
        self.in_flight += 1
        return None

    def settle(self, output_tokens: int, now_ns: int) -> None:
        """End an admitted request; output counts now where the provider charges what was used. Never refunds."""
        self.in_flight -= 1
        if self.limits.charge == "used":
            for kind, meter in self._meters.items():
                if kind in ("tpm", "otpm"):
                    meter.take(output_tokens, now_ns)

    def gauge(self, kind: LimitKind, now_ns: int) -> Gauge | None:
        """Return one limit's state; None where it is unlimited."""
        meter = self._meters.get(kind)
        if meter is None:
            return None
        return Gauge(limit=meter.limit, remaining=meter.remaining(now_ns), reset_ns=meter.reset_ns(now_ns))

    def _meter(self, limit: int) -> Meter:
        if self.limits.window == "sliding":
            return SlidingWindow(limit)
        return Bucket(limit, capacity_ns=round(self.limits.burst_s * 1_000_000_000))

    def _costs(self, demand: Demand) -> dict[LimitKind, int]:
        output = demand.output_tokens if self.limits.charge == "max_tokens" else 0
        return {
            "rpd": 1,
            "rpm": 1,
            "tpm": demand.input_tokens + output,
            "itpm": demand.uncached_input_tokens,
            "otpm": output,
        }
