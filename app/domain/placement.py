"""Chooses accounts for waiting calls: list scheduling with virtual reservations (scheduling-and-evaluation.md 4.3).

Pure. Each call, in the order given, takes the account with the earliest estimated finish and reserves there virtually,
so that the calls behind it see the account as it will be. What an account is short of has a price, in seconds: a small
call leaves requests to those who have few of them, a large one leaves tokens. Where it is known what the limit is worth
to those who wait (``worth``), that is the price; else it grows as the level falls. What is bound, and when, is the
dispatcher's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from app.domain.load import BucketKind, LoadRow
from app.domain.prospect import SHORTEST_S, Prospect, Usual
from app.domain.worth import Group, Limit, LimitKey, Shop, Worths

RESERVED_CALLS_MAX = 512
"""Only so many of the waiting calls are foreseen; those behind them wait for the next event."""
LATE_CALLS_MAX = 128
"""So many late ones in a row are looked at: one of them may fit an account that the others left alone."""
LATE_CALLS_TOLD = 32
"""And so many where no account can start anything soon, so that those who wait hear what they wait for."""
PATIENCE_S = 5.0
"""Fall back to the next model of a call only where the earlier ones cannot start within this."""
NEVER_S = 1e9
ERROR_RATE_MAX = 0.9
PRICE = 10.0
"""What an empty limit costs: this times the time that it needs to regain the call's charge. A full one costs nothing.
The makespan of the pool benchmark hardly changes from 5 to 30."""
PRICE_POWER = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyCall:
    """A call that wants an account."""

    call_id: str
    models: tuple[str, ...]
    """Best first."""
    input_tokens: int
    output_tokens_max: int
    avoid_accounts: tuple[str, ...] = ()
    only: frozenset[tuple[str, str]] = frozenset()
    """None but these (account, model) pairs; empty means all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The account that is estimated to serve the call best."""

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
        horizon_s: Starts later than this interest nobody yet: once many calls in a row would start later, the rest is
            not looked at, which bounds the cost of an event while thousands wait.
    """
    board = Board(rows, now_s, horizon_s=horizon_s)
    decisions: list[Choice | Wait] = []
    for call in ready[:RESERVED_CALLS_MAX]:
        decisions.append(board.place(call))
        if board.is_full and board.late >= LATE_CALLS_TOLD:
            break
    decisions.extend(Wait(start_in_s=horizon_s, reason="behind many others") for _ in ready[len(decisions) :])
    return decisions


class Board:
    """The accounts as they will be once the calls that were placed so far have started.

    Args:
        rows: Last known load of every account that matters to the calls.
        now_s: Monotonic seconds, on the clock of the rows.
        horizon_s: Starts later than this interest nobody yet.
    """

    def __init__(self, rows: Sequence[LoadRow], now_s: float, *, horizon_s: float = NEVER_S) -> None:
        self._horizon_s = horizon_s
        self.late = 0
        """Calls in a row, up to the latest one, that cannot start within the horizon."""
        self._by_model: dict[str, list[_Virtual]] = {}
        self._rows: dict[str, list[LoadRow]] = {}
        pools: dict[tuple[str, str], _Pool] = {}
        for row in rows:
            pool = pools.get((row.scope, row.model))
            if pool is None:
                pool = pools[row.scope, row.model] = _Pool.of(row, now_s)
            virtual = _Virtual.of(row, pool, now_s)
            pool.opens_s = min(pool.opens_s, virtual.closed_s)
            self._by_model.setdefault(row.model, []).append(virtual)
            self._rows.setdefault(row.model, []).append(row)
        self._usual = {model: Usual.of(own) for model, own in self._rows.items()}
        self._pools = tuple(pools.values())
        self._open = [pool for pool in self._pools if pool.opens_within(horizon_s)]

    def appraise(self, worths: Worths, calls: Sequence[ReadyCall], waiting: int) -> None:
        """Find out what the limits are worth to ``waiting`` calls, of which ``calls`` are some."""
        shops = {pool: pool.shop() for pool in self._pools if pool.opens_s <= PATIENCE_S}
        sizes: dict[tuple[str, frozenset[tuple[str, str]]], list[tuple[float, float]]] = {}
        for call in calls:
            wanted = (call.models[0], call.only)
            sizes.setdefault(wanted, []).append((float(call.input_tokens), float(call.output_tokens_max)))
        groups = []
        for (model, only), own in sizes.items():
            serving = {each.pool: None for each in self._by_model.get(model, ()) if not only or each.pair in only}
            found = tuple(shops[pool] for pool in serving if pool in shops)
            if found:
                groups.append(Group(shops=found, sizes=tuple(own)))
        worths.appraise(groups, waiting)

    def value(self, worths: Worths, waiting: int) -> None:
        """Let what a call takes cost what it is worth to ``waiting`` others.

        If the end of the backlog moves by a second, those who wait do so by half of one in the mean.
        """
        for pool in self._pools:
            for level in pool.levels:
                level.worth = worths.of(level.key) * waiting / 2

    @property
    def all_late(self) -> bool:
        """Whether nothing could start within the horizon."""
        return not self._open

    @property
    def is_full(self) -> bool:
        """Whether further calls are not worth a look: none could start within the horizon, as far as can be seen."""
        return not self._open or self.late >= LATE_CALLS_MAX

    def is_shut(self, call: ReadyCall) -> bool:
        """Tell whether some of the call's models are served, none of them within the horizon."""
        if any(pool.model in call.models for pool in self._open):
            return False
        return any(not each.dead for model in call.models for each in self._by_model.get(model, ()))

    def serves(self, call: ReadyCall) -> bool:
        """Tell whether anybody may ever take the call."""
        return any(each.may_take(call) for model in call.models for each in self._by_model.get(model, ()))

    def place(self, call: ReadyCall) -> Choice | Wait:
        """Decide for the next call, and reserve for it."""
        charge = (1.0, float(call.input_tokens), float(call.output_tokens_max))
        best: tuple[float, float, int, str] | None = None
        chosen: _Virtual | None = None
        for model in call.models:
            prospect = self._prospect(call, model)
            for candidate in self._by_model.get(model, ()):
                if not candidate.may_take(call):
                    continue
                start_s, cost_s = candidate.pool.look(*charge)
                start_s = max(start_s, candidate.closed_s)
                if start_s >= NEVER_S:
                    continue
                key_s = start_s + candidate.duration_s(prospect) + cost_s
                # Somewhere else first, where this very work failed before.
                if candidate.pair[0] in call.avoid_accounts:
                    key_s += NEVER_S / 2
                key = (key_s, start_s, len(candidate.pool.finishes), candidate.pair[0])
                if best is None or key < best:
                    best, chosen = key, candidate
            if best is not None and best[1] <= PATIENCE_S:
                break
        if best is None or chosen is None:
            self.late += 1
            return Wait(start_in_s=NEVER_S, reason=_why_nobody(call, self._by_model))
        start_s = best[1]
        finish_s = start_s + chosen.duration_s(self._prospect(call, chosen.pair[1]))
        self._reserve(chosen.pool, charge, finish_s)
        self.late = self.late + 1 if start_s > self._horizon_s else 0
        return Choice(account=chosen.pair[0], model=chosen.pair[1], start_in_s=start_s, finish_in_s=finish_s)

    def note(self, call: ReadyCall, account: str, model: str) -> None:
        """Reserve for a call that was promised to an account which has not said yet whether it takes it."""
        for candidate in self._by_model.get(model, ()):
            if candidate.pair[0] == account:
                charge = (1.0, float(call.input_tokens), float(call.output_tokens_max))
                start_s, _cost_s = candidate.pool.look(*charge)
                self._reserve(candidate.pool, charge, start_s + candidate.duration_s(self._prospect(call, model)))

    def _prospect(self, call: ReadyCall, model: str) -> Prospect:
        return Prospect(self._rows.get(model, ()), call.output_tokens_max, usual=self._usual.get(model))

    def _reserve(self, pool: _Pool, charge: tuple[float, float, float], finish_s: float) -> None:
        pool.reserve(*charge, finish_s)
        if pool in self._open and not pool.opens_within(self._horizon_s):
            self._open.remove(pool)


@dataclass(slots=True, eq=False)
class _Level:
    """One bucket; what a call takes of it is the sum of its requests, input and output, each times 0 or 1."""

    key: LimitKey
    level: float
    capacity: float
    rate_per_s: float
    of_requests: float
    of_input: float
    of_output: float
    worth: float | None = None
    """What a second of its rate costs, in seconds; None where that is only to be seen by its level."""


_PARTS: dict[BucketKind, tuple[float, float, float]] = {
    "requests": (1.0, 0.0, 0.0),
    "input_tokens": (0.0, 1.0, 0.0),
    "output_tokens": (0.0, 0.0, 1.0),
    "tokens": (0.0, 1.0, 1.0),
}


@dataclass(slots=True, kw_only=True, eq=False)
class _Pool:
    """Buckets and slots that the rows of one scope and model share, as foreseen."""

    model: str
    levels: list[_Level]
    concurrency: int | None
    opens_s: float = NEVER_S
    """When the first of its accounts serves again."""
    finishes: list[float] = field(default_factory=list)
    """Foreseen ends of what is in flight, in seconds from now."""

    @classmethod
    def of(cls, row: LoadRow, now_s: float) -> _Pool:
        age_s = max(0.0, now_s - row.observed_at_s)
        typical_s = max(SHORTEST_S, row.call_s)
        return cls(
            model=row.model,
            levels=[
                _Level(
                    (row.scope, row.model, bucket.kind),
                    min(bucket.capacity, bucket.level + bucket.rate_per_s * age_s),
                    bucket.capacity,
                    bucket.rate_per_s,
                    *_PARTS[bucket.kind],
                )
                for bucket in row.buckets
            ],
            concurrency=row.concurrency,
            # Nothing is known of how far each call is: assume them evenly spread over a typical duration.
            finishes=[typical_s * (index + 1) / (row.in_flight + 1) for index in range(row.in_flight)],
        )

    def look(self, requests: float, input_tokens: float, output_tokens: float) -> tuple[float, float]:
        """Return when the pool can admit such a call, in seconds from now, and what it costs others."""
        start_s = cost_s = 0.0
        for each in self.levels:
            charge = each.of_requests * requests + each.of_input * input_tokens + each.of_output * output_tokens
            level, rate = each.level, each.rate_per_s
            missing = (charge if charge < each.capacity else each.capacity) - level
            if rate <= 0:
                start_s = NEVER_S if missing > 0 else start_s
                continue
            if missing > start_s * rate:
                start_s = missing / rate
            if each.worth is not None:
                cost_s += each.worth * charge / rate
            elif level < each.capacity:
                cost_s += PRICE * (1.0 - level / each.capacity) ** PRICE_POWER * charge / rate
        return max(start_s, self._free_s()), cost_s

    def shop(self) -> Shop:
        """Return it as ``worth`` sees it."""
        return Shop(
            limits=tuple(
                Limit(
                    key=each.key,
                    level=each.level,
                    rate_per_s=each.rate_per_s,
                    of_requests=each.of_requests,
                    of_input=each.of_input,
                    of_output=each.of_output,
                )
                for each in self.levels
                if each.rate_per_s > 0
            )
        )

    def reserve(self, requests: float, input_tokens: float, output_tokens: float, finish_s: float) -> None:
        """Take the call's charge and a slot until ``finish_s``."""
        for each in self.levels:
            each.level -= each.of_requests * requests + each.of_input * input_tokens + each.of_output * output_tokens
        self.finishes.append(finish_s)

    def opens_within(self, horizon_s: float) -> bool:
        """Tell whether even the smallest call could start within the horizon."""
        return max(self.look(1.0, 1.0, 0.0)[0], self.opens_s) <= horizon_s

    def _free_s(self) -> float:
        if self.concurrency is None or len(self.finishes) < self.concurrency:
            return 0.0
        return sorted(self.finishes)[len(self.finishes) - self.concurrency]


@dataclass(slots=True, kw_only=True, eq=False)
class _Virtual:
    row: LoadRow
    pool: _Pool
    pair: tuple[str, str]
    """Account and model."""
    dead: bool
    context_tokens: int
    closed_s: float
    """Seconds until it serves again."""
    served_share: float
    """Of the calls, those that do not fail."""

    @classmethod
    def of(cls, row: LoadRow, pool: _Pool, now_s: float) -> _Virtual:
        age_s = max(0.0, now_s - row.observed_at_s)
        return cls(
            row=row,
            pool=pool,
            pair=(row.account, row.model),
            dead=row.state == "dead",
            context_tokens=row.context_tokens,
            closed_s=NEVER_S if row.state == "dead" else max(0.0, row.cooldown_s - age_s, row.closed_s - age_s),
            served_share=1.0 - min(row.error_rate, ERROR_RATE_MAX),
        )

    def may_take(self, call: ReadyCall) -> bool:
        allowed = not call.only or self.pair in call.only
        return allowed and not self.dead and call.input_tokens <= self.context_tokens

    def duration_s(self, prospect: Prospect) -> float:
        """Return how long the call would take, failures included."""
        return prospect.answer_s(self.row) / self.served_share


def _why_nobody(call: ReadyCall, by_model: dict[str, list[_Virtual]]) -> str:
    rows = [candidate.row for model in call.models for candidate in by_model.get(model, ())]
    if not rows:
        return f"no account serves {' or '.join(call.models)}"
    dead = [row.account for row in rows if row.state == "dead"]
    if len(dead) == len(rows):
        return f"the keys of {', '.join(dead)} are refused by their provider"
    return f"the request of about {call.input_tokens} tokens is larger than the context of {' or '.join(call.models)}"
