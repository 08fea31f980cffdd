"""The evaluator with scripted models: every task gets a score, evidence is found by code, failure degrades."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.domain.errors import CancelledError, UpstreamError, UpstreamKind
from app.domain.plan import CriterionVerdict, Judgement, Plan, PlannedTask
from app.services.evaluate import Evaluated, Evaluator
from app.services.prompts import Prompts
from tests.fakes.models import STRICT, TINY, ScriptedCaller, context, orchestra

PROMPTS = Prompts.load()
PLAN = Plan(
    goal="g", tasks=tuple(PlannedTask(id=f"t{n}", title=f"T{n}", instruction=f"Do part {n}.") for n in (1, 2, 3))
)
ARTIFACTS = {"t1": "Cups fill the bins.", "t2": "Order less milk."}


def judgement(name: str, *verdicts: str) -> Judgement:
    """Return a judgement with these verdicts."""
    found = tuple(
        CriterionVerdict(criterion_id=f"c{n}", verdict=verdict, evidence="Cups")  # type: ignore[arg-type]
        for n, verdict in enumerate(verdicts)
    )
    return Judgement(task_id=name, attempt=1, passed=True, verdicts=found)


JUDGEMENTS = {"t1": judgement("t1", "met", "met"), "t2": judgement("t2", "met", "cannot_tell")}


def answer(*items: tuple[str, str, int]) -> str:
    """Return an evaluator's answer: (task, quote, score) each."""
    return json.dumps(
        {
            "injection_notes": "",
            "evaluations": [
                {"task_id": name, "evidence_quote": quote, "reasoning": "why", "verdict": "fine", "score": score}
                for name, quote, score in items
            ],
        }
    )


async def evaluated(caller: ScriptedCaller, *, model: Any = STRICT) -> Evaluated:
    """Evaluate the usual run, whose third task failed."""
    evaluator = Evaluator(caller, orchestra(model), PROMPTS)
    return await evaluator.evaluate(context("Write a guide"), PLAN, ARTIFACTS, JUDGEMENTS, {"t3": "timed out"})


async def test_every_task_is_evaluated_in_order() -> None:
    """Scores from 0 to 1; what nobody could judge lowers them; what did not complete is 0."""
    caller = ScriptedCaller([answer(("t2", "less milk", 8), ("t1", "Cups fill", 10))])
    made = await evaluated(caller)

    assert [(item.task_id, item.score, item.produced_by) for item in made.evaluations] == [
        ("t1", 1.0, "model"),
        ("t2", 0.7, "model"),  # 0.8, less an eighth: one of two criteria could not be told
        ("t3", 0.0, "fallback"),
    ]
    assert made.evaluations[2].evidence == "timed out"
    assert made.produced_by == "model"
    assert caller.prompt(0).startswith("ROLE: evaluator v1\n")


async def test_invented_quote_voids_the_score() -> None:
    """The judge's verdicts give the score then."""
    made = await evaluated(ScriptedCaller([answer(("t1", "Cups are gold", 10), ("t2", "", 8))]))

    assert made.evaluations[0].produced_by == "fallback"
    assert made.evaluations[0].verdict == "2 of 2 criteria met"
    assert made.evaluations[1].evidence == "why"


async def test_evaluation_that_forgets_a_task_is_repaired() -> None:
    """Every task must be evaluated."""
    short, full = answer(("t1", "Cups", 9)), answer(("t1", "Cups", 9), ("t2", "milk", 9))
    caller = ScriptedCaller([short, full])
    made = await evaluated(caller)

    assert made.produced_by == "repaired"
    assert "there is no evaluation of t2" in caller.prompt(1)
    assert {item.produced_by for item in made.evaluations[:2]} == {"repaired"}


@pytest.mark.parametrize(
    "script",
    [["prose", "more prose"], [UpstreamError("down", kind=UpstreamKind.OVERLOADED)]],
    ids=["prose", "no model"],
)
async def test_evaluator_that_fails_degrades_to_the_judges_verdicts(script: list[Any]) -> None:
    """An evaluation never fails a run."""
    made = await evaluated(ScriptedCaller(script))

    assert made.produced_by == "fallback"
    assert [item.score for item in made.evaluations] == [1.0, 0.75, 0.0]
    assert made.notes


async def test_withdrawn_work_is_not_swallowed() -> None:
    """A cancelled run must not go on."""
    with pytest.raises(CancelledError):
        await evaluated(ScriptedCaller([CancelledError("withdrawn")]))


async def test_embedded_models_scores_say_that_they_are_not_reliable() -> None:
    """Presenting noise as an evaluation would mislead."""
    caller = ScriptedCaller(['{"t1":{"evidence":"s1","verdict":"good"},"t2":{"evidence":"s1","verdict":"bad"}}'])
    made = await evaluated(caller, model=TINY)

    assert made.produced_by == "model"
    assert made.evaluations[0].evidence == "Cups fill the bins."
    assert "not reliable" in made.evaluations[0].verdict
    assert any("not reliable" in note for note in made.notes)
