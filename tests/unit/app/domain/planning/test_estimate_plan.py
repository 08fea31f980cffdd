"""Tokens, exact cost and a bound that grows with what it must."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from app.domain.limits import LimitSpec
from app.domain.plan import Criterion, Dependency, ExpectedOutput, Plan, PlannedTask
from app.domain.planning.estimate import estimate_plan, work_calls
from tests.fakes.models import REASONER, STRICT, orchestra

TASK = PlannedTask(
    id="t1", title="a", instruction="Describe it.", criteria=(Criterion(id="c1", statement="Good."),), effort="M"
)
MODELS = {"t1": ("strict",), "t2": ("strict",)}
CHAIN = Plan(goal="g", tasks=(TASK, replace(TASK, id="t2", depends_on=(Dependency(task_id="t1", uses="it"),))))
WIDE = Plan(goal="g", tasks=(TASK, replace(TASK, id="t2")))


def test_cost_is_the_sum_of_all_calls_at_exact_prices() -> None:
    """Decimal text: input and output tokens times the list prices per million."""
    found = estimate_plan(CHAIN, orchestra(STRICT), MODELS)
    expected = Decimal(found.input_tokens) * 1 / 1_000_000 + Decimal(found.output_tokens) * 4 / 1_000_000

    assert Decimal(found.cost_usd or "") == expected
    assert Decimal(found.ceiling_usd or "") > expected


def test_unknown_price_makes_the_cost_unknown() -> None:
    """Unknown is not free."""
    unpriced = replace(STRICT, input_usd_per_mtok=None)

    assert estimate_plan(CHAIN, orchestra(unpriced), MODELS).cost_usd is None


def test_chain_is_bound_by_its_path_and_takes_longer_than_parallel_tasks() -> None:
    """More accounts do not help a chain."""
    chain, wide = (estimate_plan(plan, orchestra(STRICT), MODELS) for plan in (CHAIN, WIDE))

    assert chain.binding == "critical path"
    # The second of two parallel tasks waits a second for the limit of 60 requests a minute, burst of one.
    assert chain.lower_bound_s == pytest.approx(2 * (wide.lower_bound_s - 1.0))
    assert wide.binding == "requests of one strict"


def test_many_tasks_are_bound_by_requests_per_minute() -> None:
    """The bound says which limit to raise."""
    tasks = tuple(replace(TASK, id=f"t{number}") for number in range(200))
    plan = Plan(goal="g", tasks=tasks)
    found = estimate_plan(plan, orchestra(STRICT), {task.id: ("strict",) for task in tasks})

    # 400 calls, 60 a minute, a burst of one.
    assert found.lower_bound_s > 390
    assert found.binding in ("requests of one strict", "concurrency of one strict")


def test_unlimited_account_leaves_only_the_path() -> None:
    """Where one account has no limits no pool binds."""
    base = orchestra(STRICT)
    free = replace(base, accounts=(replace(base.accounts[0], limits=(("strict", LimitSpec()),)),))

    assert estimate_plan(WIDE, free, MODELS).binding == "critical path"


def test_asked_length_and_inputs_enter_the_estimate() -> None:
    """A short text is cheap, and what a task reads counts."""
    short = replace(TASK, expected_output=ExpectedOutput(max_words=50))
    calls = work_calls(Plan(goal="g", tasks=(short, *CHAIN.tasks[1:])), orchestra(STRICT, REASONER), MODELS)

    assert calls["t1"].output_tokens == 80
    assert calls["t2"].input_tokens > calls["t1"].input_tokens
