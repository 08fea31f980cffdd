"""The rate limits of one limiter as they stand now: configured, lowered by headers, cut by 429s and slowly regained.

Used by ``limiter`` only. Owns one bucket or window per limited rate; does not know reservations.
"""

from __future__ import annotations

from app.domain.buckets import TokenBucket
from app.domain.limiter_state import GaugeState, LimiterState
from app.domain.limits import MINUTE_NS, RATE_NAMES, LimitSpec, RateName
from app.domain.windows import SlidingWindow, StartWindow

FULL_PPM = 1_000_000
CUT_PPM = 700_000
"""A 429 leaves 0.7 of the rate."""
FLOOR_PPM = 50_000
RECOVERY_STEP_PPM = 5_000
RECOVERY_STEP_NS = MINUTE_NS // 10
"""+5 % of the limit a minute, in steps of half a percent."""

Gauge = TokenBucket | SlidingWindow


class Gauges:
    """One gauge per limited rate, each with the limit that holds now.

    Not thread-safe: the owning actor's event loop is the lock.
    """

    def __init__(self, spec: LimitSpec, now_ns: int) -> None:
        self.by_name: dict[RateName, Gauge] = {}
        self.observed: dict[RateName, int] = {}
        """Limits that the provider reported."""
        self.factor_ppm = FULL_PPM
        self._spec = spec
        self._recover_ns = now_ns
        self._fit(now_ns)

    def base(self, name: RateName) -> int | None:
        """Return the lower of the configured and the reported limit; None where there is neither."""
        known = [limit for limit in (self._spec.rate(name), self.observed.get(name)) if limit is not None]
        return min(known, default=None)

    def tick(self, now_ns: int) -> None:
        """Let time pass: windows forget, and a cut rate recovers."""
        for gauge in self.by_name.values():
            if isinstance(gauge, SlidingWindow):
                gauge.forget(now_ns)
        if self.factor_ppm == FULL_PPM:
            return
        steps = (now_ns - self._recover_ns) // RECOVERY_STEP_NS
        if steps > 0:
            self._recover_ns += steps * RECOVERY_STEP_NS
            self.factor_ppm = min(FULL_PPM, self.factor_ppm + steps * RECOVERY_STEP_PPM)
            self._fit(now_ns)

    def on_rate_limited(self, now_ns: int, *, recover_from_ns: int, cut: bool) -> None:
        """Empty the buckets and, if ``cut``, lower every rate; recovery starts at ``recover_from_ns``."""
        if cut:
            self.factor_ppm = max(FLOOR_PPM, self.factor_ppm * CUT_PPM // FULL_PPM)
            self._fit(now_ns)
        self._recover_ns = max(self._recover_ns, recover_from_ns)
        for gauge in self.by_name.values():
            if isinstance(gauge, TokenBucket):
                gauge.cap_level(0, now_ns)

    def observe(self, name: RateName, limit: int, now_ns: int) -> list[tuple[RateName, Gauge]]:
        """Take a limit that the provider reported; returns the gauge that this made, if any, full."""
        if self.observed.get(name) == limit:
            return []
        self.observed[name] = limit
        return self._fit(now_ns)

    def change(self, spec: LimitSpec, now_ns: int) -> list[tuple[RateName, Gauge]]:
        """Apply another configuration; returns the gauges that this made, full."""
        self._spec = spec
        return self._fit(now_ns)

    def snapshot(self, now_ns: int) -> tuple[GaugeState, ...]:
        """Return every gauge as plain data."""
        return tuple(
            GaugeState(name=name, kind="bucket", level_parts=gauge.level_at(now_ns), largest=gauge.largest)
            if isinstance(gauge, TokenBucket)
            else GaugeState(name=name, kind="sliding", entries=gauge.entries(now_ns), largest=gauge.largest)
            for name, gauge in self.by_name.items()
        )

    def restore(self, state: LimiterState, elapsed_ns: int, now_ns: int, *, recover_from_ns: int) -> None:
        """Continue fresh gauges from a snapshot taken ``elapsed_ns`` ago."""
        self.observed = dict(state.observed)
        self.factor_ppm = state.factor_ppm
        self._recover_ns = recover_from_ns
        self._fit(now_ns)
        for saved in state.gauges:
            gauge = self.by_name.get(saved.name)
            if gauge is not None:
                _continue(gauge, saved, elapsed_ns, now_ns)

    def _fit(self, now_ns: int) -> list[tuple[RateName, Gauge]]:
        fresh: list[tuple[RateName, Gauge]] = []
        for name in RATE_NAMES:
            base, gauge = self.base(name), self.by_name.get(name)
            if base is None:
                self.by_name.pop(name, None)
                continue
            limit = max(1, base * self.factor_ppm // FULL_PPM)
            if isinstance(gauge, TokenBucket) and self._spec.window == "bucket":
                gauge.set_limit(limit, burst_ms=self._spec.burst_ms, now_ns=now_ns)
            elif isinstance(gauge, SlidingWindow) and self._spec.window == "sliding":
                gauge.set_limit(limit)
            else:
                self.by_name[name] = self._new(limit, now_ns)
                fresh.append((name, self.by_name[name]))
        return fresh

    def _new(self, limit: int, now_ns: int) -> Gauge:
        if self._spec.window == "bucket":
            return TokenBucket(limit, burst_ms=self._spec.burst_ms, now_ns=now_ns)
        return SlidingWindow(limit) if self._spec.counted_from == "answer" else StartWindow(limit)


def _continue(gauge: Gauge, saved: GaugeState, elapsed_ns: int, now_ns: int) -> None:
    gauge.largest = saved.largest
    if saved.kind != gauge.kind:
        gauge.empty(now_ns)
    elif isinstance(gauge, TokenBucket):
        gauge.level_parts = min(gauge.capacity_parts, saved.level_parts + elapsed_ns * gauge.limit)
    else:
        for leaves_in_ns, amount in saved.entries:
            if leaves_in_ns > elapsed_ns:
                gauge.charge_foreign(amount, now_ns, leaves_in_ns - elapsed_ns)


def level_of(gauge: Gauge, now_ns: int) -> tuple[int, int]:
    """Return what may start at once, now and at best, in requests or tokens."""
    if isinstance(gauge, TokenBucket):
        return gauge.level_at(now_ns) // MINUTE_NS, gauge.capacity_parts // MINUTE_NS
    return gauge.limit - gauge.used(now_ns), gauge.limit
