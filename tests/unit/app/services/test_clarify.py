"""The clarifier with scripted models: what is worth a question, and what can be planned at all."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.domain.errors import UpstreamError, UpstreamKind
from app.services.clarify import Clarification, Clarifier
from app.services.prompts import Prompts
from tests.fakes.models import STRICT, TINY, ScriptedCaller, context, orchestra

PROMPTS = Prompts.load()


def question(name: str, cost: int, probability: float, *, answerable: bool = False) -> dict[str, Any]:
    """Return a question as a model lists it."""
    return {
        "id": name,
        "question": f"Which {name}?",
        "why": "it matters",
        "options": ["a", "b"],
        "default": "a",
        "dimension": "goal",
        "cost_if_wrong": cost,
        "probability_default_wrong": probability,
        "answerable_from_material": answerable,
    }


def answer(*questions: dict[str, Any], plannable: bool = True) -> str:
    """Return a clarifier's answer."""
    return json.dumps({"questions": list(questions), "plannable": plannable})


async def clarified(caller: ScriptedCaller, request: str = "Plan a trip to Rome", model: Any = STRICT) -> Clarification:
    """Clarify ``request``."""
    return await Clarifier(caller, orchestra(model), PROMPTS).clarify(context(request))


async def test_only_what_is_worth_a_question_is_asked() -> None:
    """Cost times probability decides; the rest becomes recorded assumptions."""
    listed = (question("city", 5, 0.5), question("colour", 1, 0.5), question("date", 4, 0.9, answerable=True))
    made = await clarified(ScriptedCaller([answer(*listed)]))

    assert [item.question for item in made.questions] == ["Which city?"]
    assert made.questions[0].id == "q1"
    assert made.assumptions == ("Which colour? a",)


async def test_at_most_three_questions_the_dearest_first() -> None:
    """One short batch before planning, or none."""
    listed = [question(f"thing{number}", number, 0.9) for number in (2, 5, 3, 4)]
    made = await clarified(ScriptedCaller([answer(*listed)]))

    assert [item.question for item in made.questions] == ["Which thing5?", "Which thing4?", "Which thing3?"]
    assert [item.id for item in made.questions] == ["q1", "q2", "q3"]


async def test_unplannable_request_is_asked_about_though_the_model_is_sure() -> None:
    """The model decides, code verifies: nobody knows what "do it" means."""
    made = await clarified(ScriptedCaller([answer()]), request="Please do it")

    assert len(made.questions) == 1
    assert made.questions[0].default


async def test_clear_request_is_not_held_up_by_a_model_that_calls_it_unplannable() -> None:
    """Without any sign in the request itself a verdict alone is not enough."""
    made = await clarified(ScriptedCaller([answer(plannable=False)]))

    assert made.questions == ()


@pytest.mark.parametrize(
    ("request_text", "words"), [("làm đi", "Chính xác"), ("帮我做一下", "具体要做什么"), ("do this", "What exactly")]
)
async def test_question_comes_in_the_language_of_the_request(request_text: str, words: str) -> None:
    """Also where code asks."""
    made = await clarified(ScriptedCaller([]), request=request_text, model=TINY)

    assert words in made.questions[0].question


async def test_clarifier_that_cannot_be_read_asks_nothing() -> None:
    """Rung 6: no questions."""
    made = await clarified(ScriptedCaller(["well", "hm"]))

    assert made.questions == ()
    assert made.produced_by == "fallback"


async def test_clarifier_without_any_model_lets_the_run_go_on() -> None:
    """Nor does a silent provider hold up a clear request."""
    made = await clarified(ScriptedCaller([UpstreamError("down", kind=UpstreamKind.OVERLOADED)]))

    assert made.questions == ()
    assert made.produced_by == "fallback"


async def test_embedded_model_is_not_asked_about_clear_requests() -> None:
    """It would invent silly questions; without a sign there is nothing it could change."""
    caller = ScriptedCaller([])
    made = await clarified(caller, model=TINY)

    assert made.questions == ()
    assert caller.calls == []


@pytest.mark.parametrize(("verdict", "asked"), [("yes", 0), ("no", 1)])
async def test_embedded_model_and_a_sign_must_agree(verdict: str, asked: int) -> None:
    """A placeholder alone is no reason to ask, nor is the model's word alone."""
    caller = ScriptedCaller([json.dumps({"clear": verdict})])
    made = await clarified(caller, request="Write about [topic]", model=TINY)

    assert len(made.questions) == asked
    assert len(caller.calls) == 1
