"""Placement, limiter and lower bound together: a deterministic day at the pool, without clock, network or chance.

Eight accounts with unequal limits and a mixed graph: some chains, some wide parts, outputs of very different sizes.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from app.domain.bound_chains import chains_of
from app.domain.limiter import Charge, Limiter, LimitSpec, Reservation
from app.domain.limits import MINUTE_NS
from app.domain.load import BucketLevel, LoadRow
from app.domain.lower_bound import BoundOption, BoundPool, BoundRate, BoundTask, lower_bound
from app.domain.placement import Choice, ReadyCall, place

S = 1_000_000_000
HORIZON_NS = S // 2
TOKENS_PER_S = 100
TTFT_S = 0.4


@dataclass(frozen=True)
class _Job:
    id: str
    needs: tuple[str, ...]
    input_tokens: int
    output_tokens: int

    @property
    def seconds(self) -> float:
        return TTFT_S + self.output_tokens / TOKENS_PER_S

    @property
    def charge(self) -> Charge:
        return Charge(requests=1, input_tokens=self.input_tokens, output_tokens_max=self.output_tokens)


def _accounts() -> dict[str, LimitSpec]:
    sizes = [1, 1, 2, 2, 3, 4, 6, 8]
    return {
        f"a{n}": LimitSpec(rpm=10 * size, tpm=9_000 * size, concurrency=1 + size, burst_ms=6_000)
        for n, size in enumerate(sizes)
    }


def _mixed_graph(seed: int) -> list[_Job]:
    chance = random.Random(seed)
    jobs: list[_Job] = []
    for number in range(160):
        # A third in chains on one another, a third fans out of a few early ones, the rest independent.
        needs: tuple[str, ...] = ()
        if number >= 8 and number % 3 == 0:
            needs = (f"j{number - 3}",) if number % 2 else (f"j{chance.randrange(8)}",)
        elif number >= 8 and number % 3 == 1:
            needs = tuple({f"j{chance.randrange(8)}", f"j{chance.randrange(8)}"})
        output = min(1_500, int(chance.lognormvariate(5.3, 0.7)))
        jobs.append(_Job(f"j{number}", needs, chance.randrange(100, 900), output))
    return jobs


@dataclass
class _Pool:
    """Plays the dispatcher: places ready jobs by real limiters, late, in the order that ``key`` gives."""

    jobs: list[_Job]
    specs: dict[str, LimitSpec]
    key: Callable[[_Job], float]
    now: int = 0
    starts: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """By account: (start, tokens) of every call."""

    def __post_init__(self) -> None:
        self.limiters = {name: Limiter(spec, 0) for name, spec in self.specs.items()}

    def run(self) -> float:
        """Return the makespan in seconds."""
        ends: list[tuple[int, str, str]] = []
        left = {job.id: len(job.needs) for job in self.jobs}
        ready = [job for job in self.jobs if not job.needs]
        waiting_for = {job.id: [other for other in self.jobs if job.id in other.needs] for job in self.jobs}
        by_id = {job.id: job for job in self.jobs}
        while ready or ends:
            wake = self._dispatch(ready, ends)
            moments = [at for at in (wake, ends[0][0] if ends else None) if at is not None]
            self.now = max(self.now + 1, min(moments)) if ready else ends[0][0]
            while ends and ends[0][0] <= self.now:
                end_ns, job_id, account = heapq.heappop(ends)
                assert self.limiters[account].settle(job_id, by_id[job_id].charge, end_ns)
                for other in waiting_for[job_id]:
                    left[other.id] -= 1
                    if not left[other.id]:
                        ready.append(other)
        return self.now / S

    def _dispatch(self, ready: list[_Job], ends: list[tuple[int, str, str]]) -> int | None:
        """Bind what may start soon; return when something else could, unless a call's end comes first."""
        ready.sort(key=self.key)
        calls = [
            ReadyCall(call_id=job.id, models=("m",), input_tokens=job.input_tokens, output_tokens_max=job.output_tokens)
            for job in ready
        ]
        wake: int | None = None
        for job, choice in zip(list(ready), place(calls, self._rows(), self.now / S), strict=True):
            if not isinstance(choice, Choice):
                continue
            at_ns = self.now + int(choice.start_in_s * S) - HORIZON_NS
            if at_ns <= self.now:
                limiter = self.limiters[choice.account]
                answer = limiter.reserve(job.id, job.charge, self.now, horizon_ns=HORIZON_NS)
                if isinstance(answer, Reservation):
                    ready.remove(job)
                    end_ns = answer.start_ns + int(job.seconds * S)
                    heapq.heappush(ends, (end_ns, job.id, choice.account))
                    tokens = job.input_tokens + job.output_tokens
                    self.starts.setdefault(choice.account, []).append((answer.start_ns, tokens))
                    continue
                at_ns = self.now + S // 20 if answer.retry_at_ns is None else answer.retry_at_ns - HORIZON_NS
            wake = at_ns if wake is None else min(wake, at_ns)
        return wake

    def _rows(self) -> list[LoadRow]:
        rows = []
        for name, limiter in self.limiters.items():
            load = limiter.load(self.now)
            rates = {"rpm": "requests", "tpm": "tokens"}
            buckets = tuple(
                BucketLevel(
                    kind="requests" if limit.name == "rpm" else "tokens",
                    level=float(limit.level),
                    capacity=float(limit.capacity),
                    rate_per_s=limit.limit / 60,
                )
                for limit in load.limits
                if limit.name in rates
            )
            rows.append(
                LoadRow(
                    account=name,
                    model="m",
                    scope=name,
                    state="healthy",
                    in_flight=load.in_flight,
                    concurrency=load.concurrency,
                    buckets=buckets,
                    cooldown_s=0.0,
                    call_s=TTFT_S + 2.5,
                    call_output_tokens=250.0,
                    error_rate=0.0,
                    context_tokens=100_000,
                    observed_at_s=self.now / S,
                )
            )
        return rows


def _bound_s(jobs: Sequence[_Job], specs: dict[str, LimitSpec]) -> float:
    pools = [
        BoundPool(
            id=name,
            rates=tuple(
                BoundRate(
                    limit=limit,
                    rate_per_s=per_min / 60,
                    capacity=max(1.0, per_min * spec.burst_ms / 60_000),
                    level=max(1.0, per_min * spec.burst_ms / 60_000),
                )
                for limit, per_min in (("requests", spec.rpm), ("tokens", spec.tpm))
                if per_min is not None
            ),
            concurrency=spec.concurrency,
        )
        for name, spec in specs.items()
    ]
    tasks = [
        BoundTask(
            id=job.id,
            depends_on=job.needs,
            options=tuple(
                BoundOption(
                    pool=name,
                    duration_s=job.seconds,
                    charges=(("tokens", float(job.input_tokens + job.output_tokens)),),
                )
                for name in specs
            ),
        )
        for job in jobs
    ]
    return lower_bound(tasks, pools).seconds


def _worst_excess(starts: Sequence[tuple[int, int]], limit: int, burst_ms: int) -> int:
    capacity = max(MINUTE_NS, limit * burst_ms * 1_000_000)
    worst = 0
    for first, (from_ns, _amount) in enumerate(starts):
        total = 0
        for at_ns, amount in starts[first:]:
            total += amount * MINUTE_NS
            worst = max(worst, total - capacity - limit * (at_ns - from_ns) - max(0, amount * MINUTE_NS - capacity))
    return worst


def _by_rank(jobs: Sequence[_Job]) -> Callable[[_Job], float]:
    tail = chains_of({job.id: (job.needs, job.seconds) for job in jobs}).tail
    return lambda job: -tail[job.id]


@pytest.mark.parametrize("seed", [2])
def test_schedule_of_a_mixed_graph_stays_near_the_bound_and_within_every_bucket(seed: int) -> None:
    """Critical path first, earliest finish, bound late: at most a tenth above what is provably possible."""
    jobs, specs = _mixed_graph(seed), _accounts()
    pool = _Pool(jobs, specs, _by_rank(jobs))
    makespan_s = pool.run()
    bound_s = _bound_s(jobs, specs)
    assert bound_s <= makespan_s <= 1.1 * bound_s
    assert sum(len(starts) for starts in pool.starts.values()) == len(jobs)
    for name, starts in pool.starts.items():
        spec = specs[name]
        assert spec.rpm is not None
        assert spec.tpm is not None
        assert _worst_excess([(at, 1) for at, _tokens in sorted(starts)], spec.rpm, spec.burst_ms) <= 0
        assert _worst_excess(sorted(starts), spec.tpm, spec.burst_ms) <= 0
