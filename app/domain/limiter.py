"""All limits of one scope (an account or quota group, for one model): reserve before a call, settle after it.

Decides when a call may start and never sends one. No clock: time is an argument, monotonic integer nanoseconds, and
never goes back (an earlier ``now_ns`` counts as the latest one seen). Owned by the account actor; its event loop is the
lock. The rates are in ``gauges``, their arithmetic in ``buckets`` and ``windows``, what headers mean in ``observed``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from app.domain.buckets import Hold, TokenBucket
from app.domain.gauges import FULL_PPM, Gauge, Gauges, level_of
from app.domain.limiter_state import LimiterState
from app.domain.limits import (
    MINUTE_NS,
    RATE_NAMES,
    Charge,
    LimiterLoad,
    LimitLoad,
    LimitName,
    LimitSpec,
    RateName,
)
from app.domain.observed import Mark, Observation, UseLedger
from app.domain.windows import SlidingWindow

__all__ = [
    "Binding",
    "Charge",
    "LimitLoad",
    "LimitSpec",
    "Limiter",
    "LimiterLoad",
    "LimiterState",
    "Observation",
    "Refusal",
    "Reservation",
]

DEFAULT_RETRY_NS = 1_000_000_000
SPARE_MAX = 1_000_000
FAR_FACTOR = 8
"""What is held back for a while is at most this part of what a bucket holds."""
SMALLEST = Charge(requests=1)

Binding = LimitName | Literal["cooldown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Admitted: the call may be sent at ``start_ns``, not before."""

    start_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Not admitted, and nothing was charged."""

    retry_at_ns: int | None
    """When it may be, if nobody else comes first; None where that depends on calls in flight."""
    binding: Binding
    forever: bool = False
    """The charge exceeds the limit itself and can never be admitted."""


@dataclass(slots=True)
class _Open:
    start_ns: int
    charge: Charge
    """What is still open."""
    amounts: dict[RateName, int]
    """The same by limit; differs where input exceeded its estimate and output did not."""
    holds: list[tuple[RateName, Gauge, Hold]]
    marks: dict[RateName, Mark]
    day_index: int


class Limiter:
    """Requests and tokens a minute, requests a day, concurrency and cooldown of one scope.

    Starts are promised in order (first come, first served), at most the caller's horizon ahead. A limit that headers
    report lowers the configured one and may rise back to it, never above; where none is configured the reported one
    holds.

    Args:
        spec: Configured limits.
        now_ns: Monotonic time. Everything starts full; ``restore`` continues a saved state.

    Not thread-safe: the owning actor's event loop is the lock.
    """

    def __init__(self, spec: LimitSpec, now_ns: int) -> None:
        self.spec = spec
        self._now_ns = now_ns
        self._frontier_ns = now_ns
        self._frontier_binding: Binding = "rpm"
        self._gauges = Gauges(spec, now_ns)
        self._ledgers = {name: UseLedger(name) for name in RATE_NAMES}
        self._open: dict[str, _Open] = {}
        self._in_flight = 0
        self._cooldown_ns = now_ns
        self._cut_ns: int | None = None
        self._day_index = 0
        self._day_requests = 0
        self._day_limit = spec.rpd
        self._day_ends_ns: int | None = None

    def earliest_start_ns(self, charge: Charge, now_ns: int) -> int | None:
        """Return when ``charge`` could start; None where that depends on calls in flight, or never."""
        start = self._earliest(charge, self._tick(now_ns))
        return start.start_ns if isinstance(start, Reservation) else start.retry_at_ns

    def reserve(
        self,
        reservation_id: str,
        charge: Charge,
        now_ns: int,
        *,
        horizon_ns: int = 0,
        headroom_ppm: int = 0,
        usable_ns: int = 0,
    ) -> Reservation | Refusal:
        """Charge every limit, or none.

        Args:
            reservation_id: Unique among open reservations.
            charge: One call, or a lease of several (``requests`` > 1), which takes one slot a request.
            now_ns: Monotonic time.
            horizon_ns: Admit only what may start within this; 0 admits only what may start now.
            headroom_ppm: Millionths of every limit that must stay free beside the charge; what is full counts as free.
            usable_ns: How long after its start the reservation may still be sent; the caller never sends it later.

        Raises:
            ValueError: the id is already open, or the charge has no request.
        """
        if reservation_id in self._open:
            raise ValueError(f"reservation {reservation_id!r} is already open; use a new id")
        if charge.requests < 1:
            raise ValueError("a reservation needs at least one request")
        now_ns = self._tick(now_ns)
        found = self._earliest(charge, now_ns, headroom_ppm)
        if isinstance(found, Refusal):
            return found
        binding = self._binding(charge, found.start_ns, now_ns)
        if found.start_ns > now_ns + horizon_ns:
            return Refusal(retry_at_ns=found.start_ns, binding=binding)
        self._frontier_ns, self._frontier_binding = found.start_ns, binding
        marks = {name: ledger.start(charge.of(name)) for name, ledger in self._ledgers.items()}
        holds = [
            (name, gauge, gauge.take(charge.of(name), found.start_ns)) for name, gauge in self._gauges.by_name.items()
        ]
        if usable_ns:
            self._park(charge, found.start_ns + usable_ns)
        amounts = {name: charge.of(name) for name in RATE_NAMES}
        self._open[reservation_id] = _Open(found.start_ns, charge, amounts, holds, marks, self._day_index)
        self._in_flight += charge.requests
        self._day_requests += charge.requests
        return found

    def may_send(self, reservation_id: str, now_ns: int) -> bool:
        """Return whether an open reservation may be sent now: its start has come and no cooldown came in between.

        Where it has not come, wait; where a cooldown is in force, release the reservation and reserve again.
        """
        found = self._open.get(reservation_id)
        now_ns = self._tick(now_ns)
        return found is not None and max(found.start_ns, self._cooldown_ns) <= now_ns

    def settle(self, reservation_id: str, used: Charge, now_ns: int, *, final: bool = True) -> bool:
        """Replace the reservation by what was used; the answer is there, so the provider has certainly counted it.

        With ``charge: used`` unused output is refunded. With ``charge: max_tokens`` the provider keeps what was
        reserved for the output, and only the input is corrected. Use above the reservation is charged now, as debt if
        need be.

        Args:
            reservation_id: From ``reserve``.
            used: What the provider counted. Requests of a lease that are not in it were never sent.
            now_ns: Monotonic time.
            final: False books ``used`` against a lease and leaves its rest open (there, for ``charge: max_tokens``,
                ``used`` states the output reserved upstream).

        Returns:
            Whether the reservation was open. A second settle, or one after a restart, changes nothing.
        """
        found = self._open.get(reservation_id)
        if found is None:
            return False
        now_ns = self._tick(now_ns)
        if final and self.spec.charge == "max_tokens" and used.requests >= found.charge.requests:
            used = replace(used, output_tokens_max=max(used.output_tokens_max, found.charge.output_tokens_max))
        self._book(found, used, now_ns)
        if final:
            self._refund_rest(reservation_id, found, now_ns)
        return True

    def release(self, reservation_id: str, now_ns: int) -> bool:
        """Give back what is still open of a reservation that was never sent; False if it is not open."""
        found = self._open.get(reservation_id)
        if found is None:
            return False
        self._refund_rest(reservation_id, found, self._tick(now_ns))
        return True

    def cooldown_until(self, until_ns: int) -> int:
        """Start nothing before ``until_ns``; a cooldown is only ever lengthened. Returns its end."""
        self._cooldown_ns = max(self._cooldown_ns, until_ns)
        return self._cooldown_ns

    def on_rate_limited(
        self, now_ns: int, retry_after_ns: int | None = None, *, reservation_id: str | None = None
    ) -> int:
        """React to a 429: cool down, empty the buckets, and use 0.7 of the rates, regained by 5 % a minute.

        Answers to requests sent before the last cut tell nothing new and cut no further. The concurrency limit is cut
        where no rate is known.

        Args:
            now_ns: Monotonic time.
            retry_after_ns: What the provider asks for; one second if it is silent.
            reservation_id: The refused request, still open.

        Returns:
            The end of the cooldown.
        """
        now_ns = self._tick(now_ns)
        refused = self._open.get(reservation_id) if reservation_id is not None else None
        if self._cut_ns is None:
            fresh = True
        elif refused is not None:
            fresh = refused.start_ns > self._cut_ns
        else:
            fresh = now_ns >= self._cooldown_ns
        until_ns = self.cooldown_until(now_ns + (DEFAULT_RETRY_NS if retry_after_ns is None else retry_after_ns))
        if fresh:
            self._cut_ns = now_ns
        self._gauges.on_rate_limited(now_ns, recover_from_ns=until_ns, cut=fresh)
        return until_ns

    def correct_from_headers(self, reservation_id: str, observations: Iterable[Observation], now_ns: int) -> None:
        """Take over what the headers of an answer say; call it before settling that reservation.

        A reported limit below the configured one holds until a higher one is reported. ``remaining`` lowers the level
        where the provider has less for us than we thought, and where others used some since the last answer.
        """
        now_ns = self._tick(now_ns)
        found = self._open.get(reservation_id)
        for observation in observations:
            if observation.name == "rpd":
                self._correct_day(observation)
                continue
            if observation.limit is not None and observation.limit > 0:
                fresh = self._gauges.observe(observation.name, observation.limit, now_ns)
                self._hold_open_in(fresh)
                if fresh and observation.remaining is not None:
                    fresh[0][1].cap_level(observation.remaining, now_ns)
            gauge = self._gauges.by_name.get(observation.name)
            if gauge is not None and found is not None and observation.remaining is not None:
                self._correct_level(observation.name, gauge, found, observation)

    def change_limits(self, spec: LimitSpec, now_ns: int) -> None:
        """Apply another configuration; levels, reservations and cooldown stay.

        A limit that did not exist before starts empty, because what was sent lately was not counted against it.
        """
        now_ns = self._tick(now_ns)
        self.spec = spec
        self._day_limit = spec.rpd
        fresh = self._gauges.change(spec, now_ns)
        self._hold_open_in(fresh)
        for _name, gauge in fresh:
            gauge.empty(now_ns)

    def start_day(self, day_index: int, ends_ns: int | None = None) -> None:
        """Begin a day of ``rpd``; the caller knows the provider's reset time. An earlier day is ignored.

        Requests in flight count for the new day as well: nobody knows on which side of the reset they arrived.

        Args:
            day_index: Grows by one a day.
            ends_ns: Monotonic time of the next reset, told to those who are refused.
        """
        if day_index < self._day_index:
            return
        if day_index > self._day_index:
            self._day_index = day_index
            self._day_requests = self._in_flight
            for found in self._open.values():
                found.day_index = day_index
        self._day_ends_ns = ends_ns

    @property
    def in_flight(self) -> int:
        """Requests reserved and not ended."""
        return self._in_flight

    @property
    def cooldown_until_ns(self) -> int:
        """End of the latest cooldown; may lie in the past."""
        return self._cooldown_ns

    def load(self, now_ns: int) -> LimiterLoad:
        """Return what load tables show."""
        now_ns = self._tick(now_ns)
        limits: list[LimitLoad] = []
        for name, gauge in self._gauges.by_name.items():
            level, capacity = level_of(gauge, now_ns)
            limits.append(
                LimitLoad(name=name, limit=gauge.limit, used=gauge.used(now_ns), level=level, capacity=capacity)
            )
        for counted, limit, used in self._counters():
            limits.append(LimitLoad(name=counted, limit=limit, used=used, level=limit - used, capacity=limit))
        return LimiterLoad(
            in_flight=self._in_flight,
            concurrency=self._slots(),
            opens_ns=self.earliest_start_ns(SMALLEST, now_ns),
            cooldown_until_ns=self._cooldown_ns,
            limits=tuple(limits),
        )

    def spare(self, charge: Charge, now_ns: int) -> int:
        """Return how many such charges may come one after another, each with half of every minute's limit left."""
        now_ns = self._tick(now_ns)
        slots = self._slots()
        count = SPARE_MAX if slots is None else slots // 2 - self._in_flight + 1
        for name, gauge in self._gauges.by_name.items():
            amount, (level, capacity) = charge.of(name), level_of(gauge, now_ns)
            if level * 2 < capacity:
                return 0
            if amount:
                count = min(count, (level * 2 - capacity) // (amount * 2) + 1)
        return max(0, count)

    def is_far(self, charge: Charge, count: int) -> bool:
        """Tell whether ``count`` such charges are little beside what every bucket holds.

        Never so where slots are limited, which are held meanwhile, or a window slides: it counts from the grant on.
        """
        gauges = self._gauges.by_name.items()
        return self._slots() is None and all(
            isinstance(gauge, TokenBucket) and charge.of(name) * count * FAR_FACTOR * MINUTE_NS <= gauge.capacity_parts
            for name, gauge in gauges
        )

    def snapshot(self, now_ns: int, wall_ns: int) -> LimiterState:
        """Return what must survive a restart; what is unsettled counts as used."""
        now_ns = self._tick(now_ns)
        return LimiterState(
            wall_ns=wall_ns,
            gauges=self._gauges.snapshot(now_ns),
            observed=tuple(self._gauges.observed.items()),
            factor_ppm=self._gauges.factor_ppm,
            cooldown_ns=max(0, self._cooldown_ns - now_ns),
            day_index=self._day_index,
            day_requests=self._day_requests,
        )

    @classmethod
    def restore(cls, spec: LimitSpec, state: LimiterState | None, *, lost: bool, now_ns: int, wall_ns: int) -> Limiter:
        """Continue after a restart: full without a saved state, from it if there is one, empty where it was lost.

        Args:
            spec: Configured limits.
            state: The last snapshot, if any.
            lost: Calls were admitted after the snapshot (or before any) and died unrecorded. Rates start empty, in debt
                of the largest charge the snapshot knew; requests of the day count as if sent at full rate since.
            now_ns: Monotonic time of the new process.
            wall_ns: Wall clock now; a clock that went back gives no credit.
        """
        limiter = cls(spec, now_ns)
        elapsed_ns = max(0, wall_ns - state.wall_ns) if state is not None else 0
        if state is not None:
            limiter._continue(state, elapsed_ns)
        if lost:
            limiter._empty(elapsed_ns if state is not None and wall_ns >= state.wall_ns else None)
        return limiter

    def _tick(self, now_ns: int) -> int:
        self._now_ns = max(self._now_ns, now_ns)
        self._gauges.tick(self._now_ns)
        return self._now_ns

    def _earliest(self, charge: Charge, now_ns: int, headroom_ppm: int = 0) -> Reservation | Refusal:
        for counted, limit, used in self._counters():
            if used + charge.requests + limit * headroom_ppm // FULL_PPM > limit:
                retry_ns = self._day_ends_ns if counted == "rpd" else None
                forever = charge.requests > limit
                return Refusal(retry_at_ns=None if forever else retry_ns, binding=counted, forever=forever)
        start_ns = max(now_ns, self._frontier_ns, self._cooldown_ns)
        for name, gauge in self._gauges.by_name.items():
            amount = charge.of(name)
            if not gauge.fits(amount):
                return Refusal(retry_at_ns=None, binding=name, forever=True)
            at_ns = gauge.earliest_ns(amount, start_ns, headroom_ppm) if amount else start_ns
            if at_ns is None:
                return Refusal(retry_at_ns=None, binding=name)
            start_ns = max(start_ns, at_ns)
        return Reservation(start_ns=start_ns)

    def _park(self, charge: Charge, until_ns: int) -> None:
        # A sliding window counts until a minute after the answer, whenever the call was sent.
        for name, gauge in self._gauges.by_name.items():
            if isinstance(gauge, TokenBucket):
                gauge.park(charge.of(name), until_ns)

    def _binding(self, charge: Charge, start_ns: int, now_ns: int) -> Binding:
        for name, gauge in self._gauges.by_name.items():
            if charge.of(name) and start_ns > now_ns and gauge.earliest_ns(charge.of(name), now_ns) == start_ns:
                return name
        return "cooldown" if start_ns == self._cooldown_ns else self._frontier_binding

    def _counters(self) -> list[tuple[Literal["rpd", "concurrency"], int, int]]:
        counters: list[tuple[Literal["rpd", "concurrency"], int, int]] = []
        if self._day_limit is not None:
            counters.append(("rpd", self._day_limit, self._day_requests))
        slots = self._slots()
        if slots is not None:
            counters.append(("concurrency", slots, self._in_flight))
        return counters

    def _slots(self) -> int | None:
        slots = self.spec.concurrency
        if slots is None or self._gauges.by_name:
            return slots
        return max(1, slots * self._gauges.factor_ppm // FULL_PPM)

    def _book(self, found: _Open, used: Charge, now_ns: int) -> None:
        for name, gauge, hold in found.holds:
            gauge.spend(hold, used.of(name), now_ns)
        for name, ledger in self._ledgers.items():
            kept = min(used.of(name), found.amounts[name])
            found.amounts[name] -= kept
            ledger.start(used.of(name) - kept)
            ledger.end(used.of(name))
        requests = min(used.requests, found.charge.requests)
        self._in_flight -= requests
        found.charge = Charge(
            requests=found.charge.requests - requests,
            input_tokens=max(0, found.charge.input_tokens - used.input_tokens),
            output_tokens_max=max(0, found.charge.output_tokens_max - used.output_tokens_max),
        )

    def _refund_rest(self, reservation_id: str, found: _Open, now_ns: int) -> None:
        del self._open[reservation_id]
        for _name, gauge, hold in found.holds:
            gauge.give_back(hold, hold.amount, now_ns)
        for name, ledger in self._ledgers.items():
            ledger.end(found.amounts[name])
        self._in_flight -= found.charge.requests
        if found.day_index == self._day_index:
            self._day_requests -= found.charge.requests

    def _hold_open_in(self, fresh: list[tuple[RateName, Gauge]]) -> None:
        # A window must count what is under way; a bucket counts at the start, which is past.
        for name, gauge in fresh:
            for found in self._open.values():
                if isinstance(gauge, SlidingWindow):
                    found.holds.append((name, gauge, gauge.take(found.amounts[name], found.start_ns)))

    def _correct_level(self, name: RateName, gauge: Gauge, found: _Open, observation: Observation) -> None:
        ledger, mark = self._ledgers[name], found.marks[name]
        foreign = ledger.foreign_use(observation, mark, start_ns=found.start_ns, now_ns=self._now_ns)
        if isinstance(gauge, SlidingWindow):
            leave_in_ns = MINUTE_NS if observation.reset_ns is None else max(0, observation.reset_ns)
            gauge.charge_foreign(foreign, self._now_ns, leave_in_ns)
            return
        if foreign:
            gauge.charge_foreign(foreign, self._now_ns)
        refilled = gauge.limit * max(0, self._now_ns - found.start_ns) // MINUTE_NS
        sent_since = ledger.started - mark.started
        gauge.cap_level((observation.remaining or 0) + max(0, refilled - sent_since), self._now_ns)

    def _correct_day(self, observation: Observation) -> None:
        if observation.limit is not None and observation.limit > 0:
            self._day_limit = min(observation.limit, self.spec.rpd or observation.limit)
        if observation.remaining is not None and self._day_limit is not None:
            self._day_requests = max(self._day_requests, self._day_limit - observation.remaining)

    def _continue(self, state: LimiterState, elapsed_ns: int) -> None:
        self._cooldown_ns = self._now_ns + max(0, state.cooldown_ns - elapsed_ns)
        self._day_index, self._day_requests = state.day_index, state.day_requests
        self._gauges.restore(state, elapsed_ns, self._now_ns, recover_from_ns=self._cooldown_ns)

    def _empty(self, elapsed_ns: int | None) -> None:
        for gauge in self._gauges.by_name.values():
            gauge.empty(self._now_ns)
        if self._day_limit is None:
            return
        base = self._gauges.base("rpm")
        if base is None or elapsed_ns is None:
            self._day_requests = self._day_limit
        else:
            sent = base * (elapsed_ns + self.spec.burst_ms * 1_000_000) // MINUTE_NS + 1
            self._day_requests = min(self._day_limit, self._day_requests + sent)
