"""The lower bound is a proof: never above the optimum, and equal to it where the optimum is known."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from app.domain.lower_bound import (
    BoundOption,
    BoundPool,
    BoundRate,
    BoundTask,
    lower_bound,
    with_realised_durations,
)

NEAR = 1e-6


@dataclass
class _Optimum:
    """Exhaustive search: tasks in every order of starts and every pool, each started as early as its pool admits.

    Starting earlier leaves buckets and slots no worse off, so for a given order of starts earliest is best.
    Knows nothing of the code under test: own buckets, own slots, own tails.
    """

    tasks: list[BoundTask]
    pools: dict[str, BoundPool]
    best: float = float("inf")
    tails: dict[str, float] = field(default_factory=dict)

    def find(self) -> float:
        for task in self.tasks:
            self._tail(task)
        state = {name: ([(rate.level, 0.0) for rate in pool.rates], ()) for name, pool in self.pools.items()}
        self._place({}, 0.0, state)  # type: ignore[arg-type]
        return self.best

    def _tail(self, task: BoundTask) -> float:
        if task.id not in self.tails:
            after = [self._tail(other) for other in self.tasks if task.id in other.depends_on]
            self.tails[task.id] = task.shortest_s + max(after, default=0.0)
        return self.tails[task.id]

    def _place(
        self,
        ends: dict[str, float],
        clock: float,
        state: dict[str, tuple[list[tuple[float, float]], tuple[float, ...]]],
    ) -> None:
        if len(ends) == len(self.tasks):
            self.best = min(self.best, max(ends.values()))
            return
        for task in self.tasks:
            if task.id in ends or any(other not in ends for other in task.depends_on):
                continue
            ready = max([clock, *(ends[other] for other in task.depends_on)])
            for option in task.options:
                start, after = self._start(option, ready, state[option.pool])
                end = start + option.duration_s
                if max(end, start + self.tails[task.id], *ends.values(), 0.0) >= self.best - 1e-12:
                    continue
                self._place({**ends, task.id: end}, start, {**state, option.pool: after})

    def _start(
        self, option: BoundOption, ready: float, state: tuple[list[tuple[float, float]], tuple[float, ...]]
    ) -> tuple[float, tuple[list[tuple[float, float]], tuple[float, ...]]]:
        levels, running = state
        pool = self.pools[option.pool]
        start = ready
        if pool.concurrency is not None:
            busy = sorted(end for end in running if end > start)
            if len(busy) >= pool.concurrency:
                start = busy[len(busy) - pool.concurrency]
        for rate, (level, at) in zip(pool.rates, levels, strict=True):
            needed = min(option.charge(rate.limit), rate.capacity)
            start = max(start, at + (needed - level) / rate.rate_per_s)
        after = [
            (
                min(rate.capacity, level + rate.rate_per_s * (start - at)) - option.charge(rate.limit),
                start,
            )
            for rate, (level, at) in zip(pool.rates, levels, strict=True)
        ]
        return start, (after, (*running, start + option.duration_s))


def _random_case(seed: int) -> tuple[list[BoundTask], list[BoundPool]]:
    chance = random.Random(seed)
    pools = []
    for index in range(chance.choice([1, 1, 2, 2, 3])):
        rates = []
        for limit, unit in (("requests", 1.0), ("tokens", 100.0)):
            if chance.random() < 0.7:
                capacity = unit * chance.choice([1.0, 1.0, 1.5, 2.0, 3.0])
                level = capacity * chance.choice([1.0, 1.0, 0.3, 0.0, -1.0])
                rate = unit * chance.uniform(0.05, 1.0)
                rates.append(BoundRate(limit=limit, rate_per_s=rate, capacity=capacity, level=level))
        pools.append(BoundPool(id=f"p{index}", rates=tuple(rates), concurrency=chance.choice([None, 1, 2, 3])))
    count = chance.choice([2, 3, 4, 5, 5, 6])
    if len(pools) == 3:
        count = min(count, 5)
    tasks = []
    for number in range(count):
        eligible = chance.sample(pools, chance.randint(1, len(pools)))
        tokens = chance.uniform(10, 400)
        options = tuple(
            BoundOption(
                pool=pool.id,
                duration_s=chance.uniform(0.5, 6.0),
                charges=(("tokens", tokens * chance.choice([1.0, 1.0, 0.4, 2.5])),),
            )
            for pool in eligible
        )
        needs = tuple(f"t{other}" for other in range(number) if chance.random() < 0.3)
        tasks.append(BoundTask(id=f"t{number}", options=options, depends_on=needs))
    return tasks, pools


def test_bound_is_valid_and_positive_on_300_random_graphs() -> None:
    """Never above the brute-force optimum of up to six tasks with buckets, debts and slots; and seldom far below."""
    ratios = []
    for seed in range(300):
        tasks, pools = _random_case(seed)
        optimum = _Optimum(tasks, {pool.id: pool for pool in pools}).find()
        bound = lower_bound(tasks, pools)
        assert 0 < bound.seconds <= optimum * (1 + NEAR), (seed, bound, optimum)
        ratios.append(bound.seconds / optimum)
    # Not the promise, but a bound that says nothing would pass the lines above.
    assert sum(ratios) / len(ratios) > 0.85


def test_bound_of_a_chain_is_its_length() -> None:
    """Accounts do not help a chain, and the report says so."""
    tasks = [BoundTask(id=str(n), options=(_on("p", 2.5),), depends_on=(str(n - 1),) if n else ()) for n in range(5)]
    bound = lower_bound(tasks, [BoundPool(id="p", concurrency=4)])
    assert bound.seconds == pytest.approx(12.5)
    assert bound.binding == "critical path"


def _on(pool: str, duration_s: float, tokens: float = 0.0) -> BoundOption:
    return BoundOption(pool=pool, duration_s=duration_s, charges=(("tokens", tokens),))


def _rate(limit: str, per_s: float, capacity: float) -> BoundRate:
    return BoundRate(limit=limit, rate_per_s=per_s, capacity=capacity, level=capacity)


@pytest.mark.parametrize(
    ("pools", "binding"),
    [
        ([BoundPool(id="a", concurrency=2)], "concurrency of a"),
        ([BoundPool(id="a", rates=(_rate("requests", 0.2, 1.0),))], "requests of a"),
        ([BoundPool(id="a", rates=(_rate("requests", 0.3, 2.5),), concurrency=3)], "requests of a"),
        ([BoundPool(id="a", rates=(_rate("tokens", 50.0, 80.0),))], "tokens of a"),
        (
            [
                BoundPool(id="a", rates=(_rate("requests", 0.4, 1.5),), concurrency=2),
                BoundPool(id="b", rates=(_rate("tokens", 30.0, 250.0),), concurrency=1),
            ],
            None,
        ),
    ],
)
def test_bound_of_identical_independent_tasks_is_the_optimum(pools: list[BoundPool], binding: str | None) -> None:
    """Whole slots and whole requests are counted, so nothing is lost to rounding."""
    options = tuple(_on(pool.id, 3.0, tokens=100.0) for pool in pools)
    tasks = [BoundTask(id=str(number), options=options) for number in range(5)]
    bound = lower_bound(tasks, pools)
    optimum = _Optimum(tasks, {pool.id: pool for pool in pools}).find()
    assert bound.seconds == pytest.approx(optimum)
    if binding is not None:
        assert bound.binding == binding


def test_bound_names_the_pool_that_binds_among_several() -> None:
    """Ten tasks that only pool a may run, whatever b could do: buy limits on a."""
    pools = [
        BoundPool(id="a", rates=(_rate("tokens", 10.0, 100.0),)),
        BoundPool(id="b", rates=(_rate("tokens", 1_000.0, 1_000.0),)),
    ]
    only_a = [BoundTask(id=f"a{n}", options=(_on("a", 1.0, 100.0),)) for n in range(10)]
    both = [BoundTask(id=f"b{n}", options=(_on("a", 1.0, 100.0), _on("b", 1.0, 100.0))) for n in range(10)]
    bound = lower_bound(only_a + both, pools)
    assert bound.binding == "tokens of a"
    assert bound.seconds == pytest.approx((1_000 - 100) / 10 + 1.0)


def test_bound_does_not_let_one_pool_s_debt_burden_another() -> None:
    """One task, two pools in debt: it runs where the debt is paid first, and need not wait for the other."""
    pools = [
        BoundPool(id="deep", rates=(BoundRate(limit="requests", rate_per_s=0.1, capacity=3.0, level=-30.0),)),
        BoundPool(id="soon", rates=(BoundRate(limit="requests", rate_per_s=1.0, capacity=3.0, level=-1.0),)),
    ]
    task = BoundTask(id="t", options=(_on("deep", 1.0), _on("soon", 1.0)))
    assert lower_bound([task], pools).seconds == pytest.approx(3.0)


def test_bound_after_the_run_uses_what_happened() -> None:
    """Realised durations make the bound exact for this run, whatever was predicted."""
    tasks = [
        BoundTask(id="a", options=(_on("p", 1.0), _on("q", 9.0))),
        BoundTask(id="b", options=(_on("p", 1.0),), depends_on=("a",)),
    ]
    pools = [BoundPool(id="p"), BoundPool(id="q")]
    assert lower_bound(tasks, pools).seconds == pytest.approx(2.0)
    realised = with_realised_durations(tasks, {"a": 4.0, "b": 3.0})
    assert lower_bound(realised, pools).seconds == pytest.approx(7.0)


def test_bound_grows_with_less_of_anything() -> None:
    """A smaller level at the start can only make it later."""
    tasks = [BoundTask(id=str(number), options=(_on("p", 1.0),)) for number in range(4)]
    seconds = [
        lower_bound(
            tasks,
            [BoundPool(id="p", rates=(BoundRate(limit="requests", rate_per_s=1.0, capacity=4.0, level=level),))],
        ).seconds
        for level in (4.0, 2.0, 0.0, -3.0)
    ]
    assert all(more > less for less, more in pairwise(seconds))


def test_bound_of_nothing_is_zero() -> None:
    """An empty plan takes no time."""
    assert lower_bound([], []).seconds == 0.0


def test_bound_refuses_what_is_no_plan() -> None:
    """Unknown pools, no pools, unknown dependencies and cycles are named."""
    pool = [BoundPool(id="p")]
    with pytest.raises(ValueError, match="'x'"):
        lower_bound([BoundTask(id="t", options=(_on("x", 1.0),))], pool)
    with pytest.raises(ValueError, match="'t'"):
        lower_bound([BoundTask(id="t", options=())], pool)
    with pytest.raises(ValueError, match="'nobody'"):
        lower_bound([BoundTask(id="t", options=(_on("p", 1.0),), depends_on=("nobody",))], pool)
    circle = [
        BoundTask(id="t", options=(_on("p", 1.0),), depends_on=("u",)),
        BoundTask(id="u", options=(_on("p", 1.0),), depends_on=("t",)),
    ]
    with pytest.raises(ValueError, match="cycle"):
        lower_bound(circle, pool)


def test_bound_of_many_pools_stays_quick_and_valid() -> None:
    """Twelve pools have 4 095 subsets and 2 000 tasks many thresholds; leaving some out may only weaken the bound."""
    chance = random.Random(1)
    pools = [BoundPool(id=f"p{n}", rates=(_rate("requests", 1.0, 1.0),), concurrency=2) for n in range(12)]
    tasks = []
    for number in range(2_000):
        options = tuple(_on(pool.id, 0.01) for pool in chance.sample(pools, 3))
        needs = (f"t{chance.randrange(number)}",) if number else ()
        tasks.append(BoundTask(id=f"t{number}", options=options, depends_on=needs))
    began_s = time.process_time()
    bound = lower_bound(tasks, pools)
    assert time.process_time() - began_s < 8.0
    # All requests of all pools: a bound that every schedule obeys, and the least that must be found.
    assert bound.seconds >= (2_000 - 12) / 12
