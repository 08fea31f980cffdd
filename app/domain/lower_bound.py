"""How fast a set of tasks could possibly be done on given accounts: a provable bound, and what binds it.

Pure. Reported with every run as ``bound / makespan``. Does not find a schedule; it only says what none can beat. Called
with predicted durations before a run and with realised ones after it (``with_realised_durations``).

Why it is valid: nothing in a set K of tasks starts before the shortest chain in front of it; a bucket admits at most
its level plus its refill plus one charge's debt; after K's last start at least its shortest remaining chain follows.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from app.domain.bound_chains import Chains, chains_of

SUBSETS_MAX = 64
"""Sets of pools looked at. Leaving some out makes the bound weaker, never wrong."""
THRESHOLDS_MAX = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundOption:
    """One pool that may run a task."""

    pool: str
    duration_s: float
    charges: tuple[tuple[str, float], ...] = ()
    """(limit name, units) that a start takes; "requests" counts as 1 where it is missing, others as 0."""

    def charge(self, limit: str) -> float:
        """Return the units that a start takes from that limit."""
        return dict(self.charges).get(limit, 1.0 if limit == "requests" else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundTask:
    """A task with every pool that could run it."""

    id: str
    options: tuple[BoundOption, ...]
    depends_on: tuple[str, ...] = ()

    @property
    def shortest_s(self) -> float:
        """Duration in the fastest pool."""
        return min(option.duration_s for option in self.options)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundRate:
    """One limit of a pool. A sliding window of L a minute counts as capacity L, level L, rate L / 60."""

    limit: str
    """Its name: "requests", "tokens", ..."""
    rate_per_s: float
    capacity: float
    level: float
    """At time 0; at most ``capacity``, negative in debt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundPool:
    """One limit scope. A limit that it lacks is unlimited there."""

    id: str
    rates: tuple[BoundRate, ...] = ()
    concurrency: int | None = None

    def rate(self, limit: str) -> BoundRate | None:
        """Return the limit of that name."""
        return next((rate for rate in self.rates if rate.limit == limit), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """No schedule is shorter than ``seconds``; ``binding`` says why, and of which pools."""

    seconds: float
    binding: str


class _Candidate(NamedTuple):
    seconds: float
    kind: str
    pools: tuple[str, ...]


def lower_bound(tasks: Sequence[BoundTask], pools: Sequence[BoundPool]) -> Bound:
    """Return a makespan that no schedule of ``tasks`` on ``pools`` can beat, counted from the moment of the levels.

    Raises:
        ValueError: a dependency or pool is unknown, a task has no option, or the dependencies form a cycle.
    """
    if not tasks:
        return Bound(seconds=0.0, binding="nothing to do")
    by_id = {pool.id: pool for pool in pools}
    for task in tasks:
        unknown = {option.pool for option in task.options} - by_id.keys()
        if unknown or not task.options:
            raise ValueError(f"task {task.id!r} names {sorted(unknown)!r} as pools; give each task known ones")
    chains = chains_of({task.id: (task.depends_on, task.shortest_s) for task in tasks})
    best = _Candidate(max(chains.head[task.id] + chains.tail[task.id] for task in tasks), "critical path", ())
    for subset in _subsets(tasks):
        inside = [task for task in tasks if all(option.pool in subset for option in task.options)]
        members = [by_id[name] for name in sorted(subset)]
        for candidate in (*_sum_bounds(inside, members, chains), *_count_bounds(inside, members, chains)):
            # A later one must win clearly, so that rounding does not decide what is reported.
            if candidate.seconds > best.seconds * (1 + 1e-9):
                best = candidate
    names = f" of {', '.join(best.pools)}" if best.pools else ""
    return Bound(seconds=best.seconds, binding=best.kind + names)


def with_realised_durations(tasks: Sequence[BoundTask], durations_s: Mapping[str, float]) -> tuple[BoundTask, ...]:
    """Return the tasks as they turned out: each takes its realised duration wherever it runs.

    The bound of these is about what happened; raises KeyError where a duration is missing.
    """
    return tuple(
        replace(
            task,
            options=tuple(replace(option, duration_s=durations_s[task.id]) for option in task.options),
        )
        for task in tasks
    )


def _subsets(tasks: Sequence[BoundTask]) -> list[frozenset[str]]:
    """Return the unions of tasks' eligible pools, small ones first: at most ``SUBSETS_MAX``, that of all among them.

    Any other set of pools holds the same tasks as the largest such union inside it, with more capacity: it binds less.
    """
    kinds = sorted({frozenset(option.pool for option in task.options) for task in tasks}, key=sorted)
    found: dict[frozenset[str], None] = {frozenset[str]().union(*kinds): None}
    for kind in kinds[: SUBSETS_MAX - 1]:
        found.setdefault(kind, None)
    for kind in kinds:
        for other in tuple(found):
            if len(found) < SUBSETS_MAX:
                found.setdefault(kind | other, None)
    return sorted(found, key=lambda pools: (len(pools), sorted(pools)))


@dataclass(slots=True)
class _Sums:
    """What a growing set K of tasks adds up to in a set of pools."""

    pools: Sequence[BoundPool]
    limits: Sequence[str]
    head_s: float = float("inf")
    tail_s: float = float("inf")
    rest_s: float = float("inf")
    area_s: float = 0.0
    work: dict[str, float] = field(default_factory=dict)
    largest: dict[tuple[str, str], float] = field(default_factory=dict)
    """By pool and limit."""

    def add(self, task: BoundTask, charges: Mapping[tuple[str, str], float], chains: Chains) -> None:
        shortest_s = task.shortest_s
        self.head_s = min(self.head_s, chains.head[task.id])
        self.tail_s = min(self.tail_s, chains.tail[task.id])
        self.rest_s = min(self.rest_s, chains.tail[task.id] - shortest_s)
        self.area_s += shortest_s
        for limit in self.limits:
            least = min(charges[option.pool, limit] for option in task.options)
            self.work[limit] = self.work.get(limit, 0.0) + least
        for key, charge in charges.items():
            if charge > self.largest.get(key, 0.0):
                self.largest[key] = charge

    def drain_s(self, limit: str) -> float:
        """Return how long after ``head_s`` the last of K is admitted, at the earliest."""
        supplies: list[tuple[float, float]] = []
        for pool in self.pools:
            rate = pool.rate(limit)
            assert rate is not None, "only limits that all pools have"
            debt = max(0.0, self.largest.get((pool.id, limit), 0.0) - rate.capacity)
            supplies.append((_stock(rate, self.head_s) + debt, rate.rate_per_s))
        return _time_to_supply(self.work[limit], supplies)


def _time_to_supply(work: float, supplies: Sequence[tuple[float, float]]) -> float:
    """Return when pools of (stock, rate) have supplied ``work`` together.

    A pool in debt supplies nothing until the debt is paid; it never takes away from the others, who need not wait.
    """
    stock = refill = moment_s = 0.0
    for opens_s, available, rate in sorted((max(0.0, -stock / rate), stock, rate) for stock, rate in supplies):
        if refill and (work - stock) / refill <= opens_s:
            break
        stock += available
        refill += rate
    if refill:
        moment_s = (work - stock) / refill
    return max(0.0, moment_s)


def _sum_bounds(tasks: Sequence[BoundTask], pools: Sequence[BoundPool], chains: Chains) -> Iterator[_Candidate]:
    """Yield bounds from the total charge and the total duration of the tasks beyond head and tail thresholds."""
    names = tuple(pool.id for pool in pools)
    limits = _common_limits(pools)
    slots = _slots(pools)
    charges = {
        task.id: {(option.pool, limit): option.charge(limit) for option in task.options for limit in limits}
        for task in tasks
    }
    falling = sorted(tasks, key=lambda task: -chains.tail[task.id])
    stops = set(_thresholds([chains.tail[task.id] for task in tasks]))
    for threshold_s in _thresholds([chains.head[task.id] for task in tasks]):
        late = [task for task in falling if chains.head[task.id] >= threshold_s]
        sums = _Sums(pools, limits)
        for index, task in enumerate(late):
            sums.add(task, charges[task.id], chains)
            last_of_tail = index + 1 == len(late) or chains.tail[late[index + 1].id] < sums.tail_s
            if not last_of_tail or (sums.tail_s not in stops and index + 1 < len(late)):
                continue
            for limit in limits:
                yield _Candidate(sums.head_s + sums.drain_s(limit) + sums.tail_s, limit, names)
            if slots is not None:
                yield _Candidate(sums.head_s + sums.area_s / slots + sums.rest_s, "concurrency", names)


def _count_bounds(tasks: Sequence[BoundTask], pools: Sequence[BoundPool], chains: Chains) -> Iterator[_Candidate]:
    """Yield bounds from the number of tasks: exact for identical independent ones, whole slots and requests counted.

    Each pool ends its k-th task no earlier than a computable moment; of all pools' moments the n-th smallest counts.
    """
    head_s = min(chains.head[task.id] for task in tasks)
    rest_s = min(chains.tail[task.id] - task.shortest_s for task in tasks)
    names = tuple(pool.id for pool in pools)
    limits = sorted({rate.limit for pool in pools for rate in pool.rates})
    strongest = _Candidate(0.0, "", names)
    for limit in limits:
        ends_s = _nth_end_s(tasks, pools, (limit,), slots=False, head_s=head_s)
        strongest = max(strongest, _Candidate(ends_s + rest_s, limit, names))
    ends_s = _nth_end_s(tasks, pools, (), slots=True, head_s=head_s)
    strongest = max(strongest, _Candidate(ends_s + rest_s, "concurrency", names))
    yield strongest
    together_s = _nth_end_s(tasks, pools, limits, slots=True, head_s=head_s) + rest_s
    yield strongest._replace(seconds=together_s)


def _nth_end_s(
    tasks: Sequence[BoundTask], pools: Sequence[BoundPool], limits: Sequence[str], *, slots: bool, head_s: float
) -> float:
    ends = heapq.merge(*(_ends(tasks, pool, limits, slots=slots, head_s=head_s) for pool in pools))
    last_s = head_s
    for _task, end_s in zip(tasks, ends, strict=False):
        last_s = end_s
    return last_s


def _ends(
    tasks: Sequence[BoundTask], pool: BoundPool, limits: Sequence[str], *, slots: bool, head_s: float
) -> Iterator[float]:
    """Yield the earliest possible end of the first, second, ... of ``tasks`` in this pool; never falling."""
    options = [option for task in tasks for option in task.options if option.pool == pool.id]
    if not options:
        return
    shortest_s = min(option.duration_s for option in options)
    lanes = pool.concurrency if slots else None
    rates = [rate for rate in pool.rates if rate.limit in limits]
    least = [min(option.charge(rate.limit) for option in options) for rate in rates]
    stock = [_stock(rate, head_s) + _debt(tasks, rate, pool.id) for rate in rates]
    starts: list[float] = []
    for count in range(1, len(options) + 1):
        start_s = head_s
        for rate, charge, available in zip(rates, least, stock, strict=True):
            start_s = max(start_s, head_s + (count * charge - available) / rate.rate_per_s)
        if lanes is not None and count > lanes:
            start_s = max(start_s, starts[count - 1 - lanes] + shortest_s)
        starts.append(start_s)
        yield start_s + shortest_s


def _thresholds(values: Sequence[float]) -> list[float]:
    distinct = sorted(set(values))
    if len(distinct) <= THRESHOLDS_MAX:
        return distinct
    return [distinct[index * (len(distinct) - 1) // (THRESHOLDS_MAX - 1)] for index in range(THRESHOLDS_MAX)]


def _common_limits(pools: Sequence[BoundPool]) -> list[str]:
    """Return the limits that every pool has: one without it makes the sum unlimited."""
    shared = set.intersection(*({rate.limit for rate in pool.rates} for pool in pools))
    return sorted(shared)


def _slots(pools: Sequence[BoundPool]) -> int | None:
    slots = 0
    for pool in pools:
        if pool.concurrency is None:
            return None
        slots += pool.concurrency
    return slots


def _stock(rate: BoundRate, head_s: float) -> float:
    return min(rate.capacity, rate.level + rate.rate_per_s * head_s)


def _debt(tasks: Sequence[BoundTask], rate: BoundRate, pool: str) -> float:
    """Return how far below zero the largest charge may leave the bucket: it is admitted when the bucket is full."""
    charges = (option.charge(rate.limit) for task in tasks for option in task.options if option.pool == pool)
    return max(0.0, max(charges, default=0.0) - rate.capacity)
