"""Chooses accounts for waiting calls: list scheduling with virtual reservations (scheduling-and-evaluation.md 4.3).

Pure. Each call, in the order given, takes the account with the earliest estimated finish and reserves there virtually,
so that the calls behind it see the account as it will be. What is bound, and when, is the dispatcher's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from app.domain.load import LoadRow

RESERVED_CALLS_MAX = 512
"""Only so many of the waiting calls are foreseen; those behind them wait for the next event."""
LATE_CALLS_MAX = 32
"""A few behind the first late one are still looked at: a smaller call may fit where a larger one did not."""
PATIENCE_S = 5.0
"""Fall back to the next model of a call only where the earlier ones cannot start within this."""
NEVER_S = 1e9
ERROR_RATE_MAX = 0.9
SHORTEST_S = 0.05
SCALE_MIN, SCALE_MAX = 0.5, 2.0
"""How far the allowed output may scale the expected duration: answers seldom fill what they are allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyCall:
    """A call that wants an account."""

    call_id: str
    models: tuple[str, ...]
    """Best first."""
    input_tokens: int
    output_tokens_max: int
    avoid_accounts: tuple[str, ...] = ()
    only_accounts: frozenset[str] = frozenset()
    """None but these; empty means all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The account that is estimated to finish the call first."""

    account: str
    model: str
    start_in_s: float
    finish_in_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Nobody can take the call; ``start_in_s`` is the earliest recovery, or ``NEVER_S``."""

    start_in_s: float
    reason: str


def place(
    ready: Sequence[ReadyCall], rows: Sequence[LoadRow], now_s: float, *, horizon_s: float = NEVER_S
) -> list[Choice | Wait]:
    """Return a decision per call, in the same order.

    Args:
        ready: Most urgent first.
        rows: Last known load of every account that is being served.
        now_s: Monotonic seconds, on the clock of the rows.
        horizon_s: Starts later than this interest nobody yet: once ``LATE_CALLS_MAX`` calls in a row would start later,
            the rest is not looked at, which bounds the cost of an event while thousands wait.
    """
    by_model: dict[str, list[_Virtual]] = {}
    typical_s = _typical_s(rows)
    pools: dict[tuple[str, str], _Pool] = {}
    for row in rows:
        pool = pools.setdefault((row.scope, row.model), _Pool.of(row, now_s))
        by_model.setdefault(row.model, []).append(
            _Virtual(
                row=row,
                pool=pool,
                age_s=max(0.0, now_s - row.observed_at_s),
                call_s=row.call_s if row.measured else typical_s.get(row.model, row.call_s),
            )
        )
    decisions: list[Choice | Wait] = []
    late = 0
    for call in ready[:RESERVED_CALLS_MAX]:
        decision = _place_one(call, by_model)
        decisions.append(decision)
        late = late + 1 if decision.start_in_s > horizon_s else 0
        if late >= LATE_CALLS_MAX:
            break
    decisions.extend(Wait(start_in_s=horizon_s, reason="behind many others") for _ in ready[len(decisions) :])
    return decisions


@dataclass(slots=True, kw_only=True)
class _Pool:
    """Buckets and slots that the rows of one scope and model share, as foreseen."""

    levels: list[float]
    capacities: list[float]
    rates: list[float]
    kinds: list[str]
    concurrency: int | None
    finishes: list[float] = field(default_factory=list)
    """Foreseen ends of what is in flight, in seconds from now."""

    @classmethod
    def of(cls, row: LoadRow, now_s: float) -> _Pool:
        age_s = max(0.0, now_s - row.observed_at_s)
        typical_s = max(SHORTEST_S, row.call_s)
        return cls(
            levels=[min(bucket.capacity, bucket.level + bucket.rate_per_s * age_s) for bucket in row.buckets],
            capacities=[bucket.capacity for bucket in row.buckets],
            rates=[bucket.rate_per_s for bucket in row.buckets],
            kinds=[bucket.kind for bucket in row.buckets],
            concurrency=row.concurrency,
            # Nothing is known of how far each call is: assume them evenly spread over a typical duration.
            finishes=[typical_s * (index + 1) / (row.in_flight + 1) for index in range(row.in_flight)],
        )

    def start_in_s(self, call: ReadyCall) -> float:
        """Return when the pool can admit the call, in seconds from now."""
        start_s = 0.0
        for index, kind in enumerate(self.kinds):
            needed = min(_charge(call, kind), self.capacities[index])
            if self.levels[index] < needed:
                if self.rates[index] <= 0:
                    return NEVER_S
                start_s = max(start_s, (needed - self.levels[index]) / self.rates[index])
        if self.concurrency is not None and len(self.finishes) >= self.concurrency:
            start_s = max(start_s, sorted(self.finishes)[len(self.finishes) - self.concurrency])
        return start_s

    def reserve(self, call: ReadyCall, finish_s: float) -> None:
        """Take the call's charge and a slot until ``finish_s``."""
        for index, kind in enumerate(self.kinds):
            self.levels[index] -= _charge(call, kind)
        self.finishes.append(finish_s)


def _typical_s(rows: Sequence[LoadRow]) -> dict[str, float]:
    """Return the shortest measured call per model: what to hope of an account that nobody has tried yet."""
    shortest: dict[str, float] = {}
    for row in rows:
        if row.measured:
            shortest[row.model] = min(row.call_s, shortest.get(row.model, row.call_s))
    return shortest


@dataclass(slots=True, kw_only=True)
class _Virtual:
    row: LoadRow
    pool: _Pool
    age_s: float
    call_s: float

    def start_in_s(self, call: ReadyCall) -> float:
        if self.row.state == "dead" or call.input_tokens > self.row.context_tokens:
            return NEVER_S
        return max(self.pool.start_in_s(call), max(self.row.cooldown_s, self.row.closed_s) - self.age_s)

    def duration_s(self, call: ReadyCall) -> float:
        share = call.output_tokens_max / max(1.0, self.row.call_output_tokens)
        typical_s = max(SHORTEST_S, self.call_s) * min(max(share, SCALE_MIN), SCALE_MAX)
        return typical_s / (1.0 - min(self.row.error_rate, ERROR_RATE_MAX))


def _place_one(call: ReadyCall, by_model: dict[str, list[_Virtual]]) -> Choice | Wait:
    best: tuple[float, float, int, str] | None = None
    chosen: _Virtual | None = None
    for model in call.models:
        for candidate in by_model.get(model, ()):
            if call.only_accounts and candidate.row.account not in call.only_accounts:
                continue
            start_s = candidate.start_in_s(call)
            if start_s >= NEVER_S:
                continue
            finish_s = start_s + candidate.duration_s(call)
            # Somewhere else first, where this very work failed before.
            avoided = candidate.row.account in call.avoid_accounts
            key = (
                finish_s + (NEVER_S / 2 if avoided else 0.0),
                start_s,
                len(candidate.pool.finishes),
                candidate.row.account,
            )
            if best is None or key < best:
                best, chosen = key, candidate
        if best is not None and best[1] <= PATIENCE_S:
            break
    if best is None or chosen is None:
        return Wait(start_in_s=NEVER_S, reason=_why_nobody(call, by_model))
    start_s = best[1]
    finish_s = start_s + chosen.duration_s(call)
    chosen.pool.reserve(call, finish_s)
    return Choice(account=chosen.row.account, model=chosen.row.model, start_in_s=start_s, finish_in_s=finish_s)


def _why_nobody(call: ReadyCall, by_model: dict[str, list[_Virtual]]) -> str:
    rows = [candidate.row for model in call.models for candidate in by_model.get(model, ())]
    if not rows:
        return f"no account serves {' or '.join(call.models)}"
    dead = [row.account for row in rows if row.state == "dead"]
    if len(dead) == len(rows):
        return f"the keys of {', '.join(dead)} are refused by their provider"
    return f"the request of about {call.input_tokens} tokens is larger than the context of {' or '.join(call.models)}"


def _charge(call: ReadyCall, kind: str) -> float:
    if kind == "requests":
        return 1.0
    if kind == "input_tokens":
        return float(call.input_tokens)
    if kind == "output_tokens":
        return float(call.output_tokens_max)
    return float(call.input_tokens + call.output_tokens_max)
