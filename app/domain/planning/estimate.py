"""What a plan will need before anything is sent: tokens, money, and time that no schedule can beat.

Outputs and speeds are predicted from effort and tier, so the figures are estimates, and the bound holds for the
predicted durations only; the bound of the result document is computed from what really happened. Prices are exact
decimals; where one is unknown the cost is None, never zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from app.domain.accounts import ModelInfo, Orchestra, Tier
from app.domain.chat import Json
from app.domain.estimate import text_tokens
from app.domain.plan import Plan, PlannedTask
from app.domain.planning.graph import edges_of, upward_ranks
from app.domain.run_bound import TaskCall, bound_of_calls

WORK_PROMPT_TOKENS = 300
"""The worker's envelope without instruction and inputs."""
JUDGE_PROMPT_TOKENS = 350
VERDICT_TOKENS = 90
"""One criterion's quote, reasoning and verdict."""
OUTPUT_TOKENS = {"S": 250, "M": 700, "L": 1_800}
TINY_OUTPUT_TOKENS = 90
TOKENS_PER_WORD = Decimal("1.6")
FIRST_TOKEN_S = {Tier.TINY: 0.3, Tier.CHEAP: 0.5, Tier.STANDARD: 0.8, Tier.STRONG: 2.0}
TOKENS_PER_S = {Tier.TINY: 60.0, Tier.CHEAP: 120.0, Tier.STANDARD: 80.0, Tier.STRONG: 50.0}
PER_TOKENS = Decimal(1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEstimate:
    """One predicted call."""

    model: ModelInfo
    input_tokens: int
    output_tokens: int

    @property
    def seconds(self) -> float:
        """Predicted duration at the tier's usual speed."""
        return FIRST_TOKEN_S[self.model.tier] + self.output_tokens / TOKENS_PER_S[self.model.tier]

    @property
    def cost_usd(self) -> Decimal | None:
        """Predicted cost; None where a price is unknown."""
        if self.model.input_usd_per_mtok is None or self.model.output_usd_per_mtok is None:
            return None
        input_cost = self.input_tokens * Decimal(self.model.input_usd_per_mtok)
        return (input_cost + self.output_tokens * Decimal(self.model.output_usd_per_mtok)) / PER_TOKENS


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanEstimate:
    """What the whole plan will need: work, judging, merge and evaluation, without redone attempts."""

    input_tokens: int
    output_tokens: int
    cost_usd: str | None
    """Decimal text."""
    ceiling_usd: str | None
    """The same with every task redone as often as is allowed."""
    lower_bound_s: float
    binding: str

    def to_json(self) -> dict[str, Json]:
        """Return the figures as the event ``plan.ready`` shows them."""
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cost_usd": self.cost_usd,
            "ceiling_usd": self.ceiling_usd,
            "lower_bound_s": round(self.lower_bound_s, 3),
            "binding": self.binding,
        }


def estimate_plan(plan: Plan, orchestra: Orchestra, models: Mapping[str, Sequence[str]]) -> PlanEstimate:
    """Estimate ``plan``.

    Args:
        plan: Validated.
        orchestra: Accounts, prices and the coordinator's models.
        models: Task id to the public names of the models that may work on it, best first; none empty.
    """
    work = work_calls(plan, orchestra, models)
    judging = {task.id: _judge_call(task, work[task.id], orchestra) for task in plan.tasks}
    artifact_tokens = sum(call.output_tokens for call in work.values())
    coordinator = orchestra.model(orchestra.coordinator.model)
    merge = CallEstimate(model=coordinator, input_tokens=artifact_tokens + 400, output_tokens=artifact_tokens)
    evaluation = CallEstimate(
        model=coordinator, input_tokens=artifact_tokens + 400, output_tokens=VERDICT_TOKENS * len(plan.tasks)
    )
    per_task = [*work.values(), *(call for call in judging.values() if call is not None)]
    every = [*per_task, merge, evaluation]
    redo = orchestra.coordinator.redo_max
    seconds, binding = _lower_bound(plan, work, judging, models, orchestra)
    return PlanEstimate(
        input_tokens=sum(call.input_tokens for call in every),
        output_tokens=sum(call.output_tokens for call in every),
        cost_usd=_summed(every),
        ceiling_usd=_summed(per_task * (redo + 1) + [merge, evaluation]),
        lower_bound_s=seconds,
        binding=binding,
    )


def work_calls(plan: Plan, orchestra: Orchestra, models: Mapping[str, Sequence[str]]) -> dict[str, CallEstimate]:
    """Return the predicted worker's call of every task, by its best model."""
    chosen = {task.id: orchestra.model(models[task.id][0]) for task in plan.tasks}
    output = {task.id: output_tokens(task, chosen[task.id]) for task in plan.tasks}
    return {
        task.id: CallEstimate(
            model=chosen[task.id],
            input_tokens=WORK_PROMPT_TOKENS
            + text_tokens(task.instruction)
            + sum(output[name] for name in task.dependency_ids if name in output),
            output_tokens=output[task.id],
        )
        for task in plan.tasks
    }


def output_tokens(task: PlannedTask, model: ModelInfo) -> int:
    """Return how much a worker will probably write for ``task``."""
    if model.tier is Tier.TINY:
        return TINY_OUTPUT_TOKENS
    words = task.expected_output.max_words
    usual = OUTPUT_TOKENS[task.effort]
    return min(usual, int(words * TOKENS_PER_WORD)) if words else usual


def task_ranks(plan: Plan, seconds: Mapping[str, float]) -> dict[str, float]:
    """Return the upward rank of every task: predicted seconds from its start to the end of the tasks."""
    return upward_ranks(edges_of(plan.tasks), lambda task_id: seconds.get(task_id, 0.0))


def _judge_call(task: PlannedTask, work: CallEstimate, orchestra: Orchestra) -> CallEstimate | None:
    judged = [criterion for criterion in task.criteria if criterion.check == "judge"]
    if not judged:
        return None
    return CallEstimate(
        model=orchestra.model(orchestra.coordinator.judge_model),
        input_tokens=JUDGE_PROMPT_TOKENS + work.output_tokens + text_tokens(task.instruction),
        output_tokens=VERDICT_TOKENS * len(judged),
    )


def _lower_bound(
    plan: Plan,
    work: Mapping[str, CallEstimate],
    judging: Mapping[str, CallEstimate | None],
    models: Mapping[str, Sequence[str]],
    orchestra: Orchestra,
) -> tuple[float, str]:
    """Return the bound over the span of the tasks and what binds it, if the predictions hold."""
    calls = []
    for task in plan.tasks:
        pairs = ((work[task.id], tuple(models[task.id])), (judging[task.id], (orchestra.coordinator.judge_model,)))
        for number, (call, names) in enumerate(pairs):
            if call is not None:
                calls.append(
                    TaskCall(
                        call_id=f"{task.id}/{number}",
                        task_id=task.id,
                        models=names,
                        duration_s=call.seconds,
                        input_tokens=call.input_tokens,
                        output_tokens=call.output_tokens,
                    )
                )
    bound = bound_of_calls(calls, {task.id: task.dependency_ids for task in plan.tasks}, orchestra)
    return bound.seconds, bound.binding


def _summed(calls: Sequence[CallEstimate]) -> str | None:
    costs = [call.cost_usd for call in calls]
    if any(cost is None for cost in costs):
        return None
    total = sum((cost for cost in costs if cost is not None), Decimal(0))
    return format(total.normalize() + 0, "f")
