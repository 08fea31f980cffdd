"""The lower bound of a run's tasks: every call of a task is a node, chained behind the one before it.

Ex post, with realised durations, it says what the best schedule could have made of exactly these calls on these
accounts; before a run, with predicted ones, what none can beat if the prediction holds. Buckets count as full at the
first dispatch, which can only lower the bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.domain.accounts import Orchestra
from app.domain.limits import LimitSpec, RateName
from app.domain.lower_bound import Bound, BoundOption, BoundPool, BoundRate, BoundTask, lower_bound

_LIMITS: tuple[tuple[str, RateName], ...] = (
    ("requests", "rpm"),
    ("tokens", "tpm"),
    ("input_tokens", "itpm"),
    ("output_tokens", "otpm"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCall:
    """One call of a task, as it went or is predicted to go."""

    call_id: str
    task_id: str
    models: tuple[str, ...]
    """Public names that could have served it."""
    duration_s: float
    input_tokens: int
    output_tokens: int


def bound_of_calls(calls: Sequence[TaskCall], dependencies: Mapping[str, Sequence[str]], orchestra: Orchestra) -> Bound:
    """Return the bound of ``calls`` over the accounts of ``orchestra``.

    Args:
        calls: Those of one task in the order in which they follow each other.
        dependencies: Task id to the ids of the tasks whose results it took.
        orchestra: The accounts that could have served.
    """
    served = {model for account in orchestra.accounts for model, _limits in account.limits}
    known = [call for call in calls if any(model in served for model in call.models)]
    chains: dict[str, list[TaskCall]] = {}
    for call in known:
        chains.setdefault(call.task_id, []).append(call)
    pools = {
        (account.scope, model): _pool(_pool_name(account.scope, model), limits)
        for account in orchestra.accounts
        for model, limits in account.limits
    }
    tasks = []
    for task_id, chain in chains.items():
        before = [chains[name][-1].call_id for name in dependencies.get(task_id, ()) if name in chains]
        for call in chain:
            options = tuple(
                _option(call, pools[account.scope, model].id)
                for account in orchestra.accounts
                for model, limits in account.limits
                if model in call.models
            )
            tasks.append(BoundTask(id=call.call_id, options=_distinct(options), depends_on=tuple(before)))
            before = [call.call_id]
    return lower_bound(tasks, list(pools.values()))


def _option(call: TaskCall, pool: str) -> BoundOption:
    return BoundOption(
        pool=pool,
        duration_s=max(0.0, call.duration_s),
        charges=(
            ("tokens", float(call.input_tokens + call.output_tokens)),
            ("input_tokens", float(call.input_tokens)),
            ("output_tokens", float(call.output_tokens)),
        ),
    )


def _distinct(options: tuple[BoundOption, ...]) -> tuple[BoundOption, ...]:
    return tuple({option.pool: option for option in options}.values())


def _pool(name: str, limits: LimitSpec) -> BoundPool:
    rates = []
    for limit, rate_name in _LIMITS:
        per_minute = limits.rate(rate_name)
        if per_minute is None:
            continue
        window_s = 60.0 if limits.window == "sliding" else limits.burst_ms / 1_000
        capacity = max(1.0, per_minute / 60.0 * window_s)
        rates.append(BoundRate(limit=limit, rate_per_s=per_minute / 60.0, capacity=capacity, level=capacity))
    return BoundPool(id=name, rates=tuple(rates), concurrency=limits.concurrency)


def _pool_name(scope: str, model: str) -> str:
    kind, _, name = scope.partition(":")
    return f"{name} {model}" if kind == "account" else f"quota group {name} {model}"
