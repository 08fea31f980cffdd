"""The clarifier: asks the user for what is missing, rarely, and at most three things at once.

A cheap model lists what is missing; code decides what is worth a question, and whether a request can be planned at all.
Whatever goes wrong here, the run goes on without questions. Called by the conductor, before planning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, cast

from app.domain.accounts import Orchestra, Tier
from app.domain.calls import CallAnswer
from app.domain.chat import Json
from app.domain.clarity import as_assumption, general_question, unclear_sign, worth_asking
from app.domain.errors import CancelledError, GatewayError
from app.domain.language import language_name
from app.domain.plan import ProducedBy, Question
from app.domain.planning.schema import array_of, closed_object, one_of
from app.domain.ports import ModelCaller
from app.services.ask import Accepted, Ask, Means, Structured, Wanted, ask_structured
from app.services.context import RunContext
from app.services.models import stage_models
from app.services.prompts import Prompts, material

QUESTIONS_MAX = 3
OUTPUT_TOKENS = 900
REQUEST_CHARS_MAX = 20_000
TINY_REQUEST_CHARS_MAX = 1_200

Dimension: TypeAlias = Literal["goal", "input", "constraint", "context"]
_TEXT: Json = {"type": "string"}
SCHEMA: dict[str, Json] = closed_object(
    {
        "questions": array_of(
            closed_object(
                {
                    "id": _TEXT,
                    "question": _TEXT,
                    "why": _TEXT,
                    "options": array_of(_TEXT),
                    "default": _TEXT,
                    "dimension": one_of(("goal", "input", "constraint", "context")),
                    "cost_if_wrong": {"type": "integer"},
                    "probability_default_wrong": {"type": "number"},
                    "answerable_from_material": {"type": "boolean"},
                }
            )
        ),
        "plannable": {"type": "boolean"},
    }
)
TINY_SCHEMA: dict[str, Json] = closed_object({"clear": one_of(("yes", "no"))})


@dataclass(frozen=True, slots=True, kw_only=True)
class Clarification:
    """What to ask, and what is assumed instead of asking."""

    questions: tuple[Question, ...]
    assumptions: tuple[str, ...]
    """Defaults of questions that are not worth asking."""
    produced_by: ProducedBy
    answers: tuple[CallAnswer, ...] = ()
    notes: tuple[str, ...] = ()
    prompt_version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    asked: tuple[Question, ...]
    plannable: bool


class Clarifier:
    """Asks before planning.

    Args:
        caller: The way to the models.
        orchestra: The configuration.
        prompts: The templates.
    """

    def __init__(self, caller: ModelCaller, orchestra: Orchestra, prompts: Prompts) -> None:
        self._means = Means(caller=caller, orchestra=orchestra, prompts=prompts)
        self._spec = orchestra.coordinator

    async def clarify(self, context: RunContext) -> Clarification:
        """Return what to ask; never fails, except that the work is withdrawn (CancelledError)."""
        sign = unclear_sign(context.request)
        models = stage_models(self._means.orchestra, self._spec.clarify_model)
        try:
            if self._means.model(models[0]).tier is Tier.TINY:
                return await self._clarify_tiny(context, models, sign)
            return await self._clarify_fully(context, models, sign)
        except CancelledError:
            raise
        except GatewayError as error:
            asked = (general_question(context.language),) if sign == "strong" else ()
            note = f"no model could be asked whether the request is clear: {error.message}"
            return Clarification(questions=asked, assumptions=(), produced_by="fallback", notes=(note,))

    async def _clarify_fully(self, context: RunContext, models: tuple[str, ...], sign: str) -> Clarification:
        prompt = self._means.prompts.get("clarifier", self._means.model(models[0])).fill(
            {
                "request": material("request", context.request, chars_max=REQUEST_CHARS_MAX),
                "today": context.today,
                "language": language_name(context.language),
            }
        )
        ask = Ask(purpose="clarify", models=models, prompt=prompt, output_tokens=OUTPUT_TOKENS)
        wanted = Wanted(
            name="clarification",
            schema=SCHEMA,
            accept=lambda value: Accepted(value=_read(value)),
            fallback=lambda: _Read(asked=(), plannable=True),
        )
        made: Structured[_Read] = await ask_structured(self._means, context, ask, wanted)
        listed = made.value.asked
        worth = [item for item in listed if worth_asking(item, self._spec.clarify_threshold)]
        if sign == "strong" or (sign == "weak" and not made.value.plannable):
            # The model may be sure that it knows what "do it" means; code is not.
            worth = worth or list(listed) or [general_question(context.language)]
        chosen = tuple(replace(item, id=f"q{number}") for number, item in enumerate(_dearest(worth)[:QUESTIONS_MAX], 1))
        texts = {item.question for item in chosen}
        return Clarification(
            questions=chosen,
            assumptions=tuple(as_assumption(item) for item in listed if item.question not in texts and item.default),
            produced_by=made.produced_by,
            answers=made.answers,
            notes=made.notes,
            prompt_version=prompt.version,
        )

    async def _clarify_tiny(self, context: RunContext, models: tuple[str, ...], sign: str) -> Clarification:
        """Ask one fixed question, or none: the embedded model would invent silly ones."""
        general = (general_question(context.language),)
        if sign == "none":
            return Clarification(questions=(), assumptions=(), produced_by="model")
        if sign == "strong":
            return Clarification(questions=general, assumptions=(), produced_by="model")
        prompt = self._means.prompts.get("clarifier", self._means.model(models[0])).fill(
            {"request": context.request[:TINY_REQUEST_CHARS_MAX]}
        )
        ask = Ask(purpose="clarify", models=models, prompt=prompt, output_tokens=24, seed=1)
        wanted = Wanted(
            name="clear",
            schema=TINY_SCHEMA,
            accept=lambda value: Accepted(value=cast("dict[str, Json]", value)["clear"] == "yes"),
            fallback=lambda: True,
        )
        made: Structured[bool] = await ask_structured(self._means, context, ask, wanted)
        return Clarification(
            questions=() if made.value else general,
            assumptions=(),
            produced_by=made.produced_by,
            answers=made.answers,
            notes=made.notes,
            prompt_version=prompt.version,
        )


def _read(value: Json) -> _Read:
    fields = cast("dict[str, Json]", value)
    found = []
    for number, item in enumerate(cast("list[dict[str, Json]]", fields["questions"]), 1):
        text = str(item["question"]).strip()
        if text and item["answerable_from_material"] is not True:
            found.append(_question(item, text, number))
    return _Read(asked=tuple(found), plannable=fields["plannable"] is True)


def _question(item: dict[str, Json], text: str, number: int) -> Question:
    options = tuple(str(option).strip() for option in cast("list[Json]", item["options"]) if str(option).strip())
    return Question(
        id=f"q{number}",
        question=text,
        why=str(item["why"]).strip(),
        options=options[:4],
        default=str(item["default"]).strip() or (options[0] if options else ""),
        dimension=cast("Dimension", item["dimension"]),
        cost_if_wrong=min(5, max(1, int(cast("int", item["cost_if_wrong"])))),
        probability_default_wrong=min(1.0, max(0.0, float(cast("float", item["probability_default_wrong"])))),
    )


def _dearest(questions: Sequence[Question]) -> list[Question]:
    return sorted(questions, key=lambda item: -item.cost_if_wrong * item.probability_default_wrong)
