"""The planner: from a request to a validated plan with its estimate.

A reasoning model writes the plan freely and a model that enforces schemas copies it into JSON (strict formats cost
reasoning); a model that enforces schemas and does not reason does both at once; the embedded model chooses inside a
grammar made from the request. What no ladder can save becomes one task. Called by the conductor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from app.domain.accounts import ModelInfo, Orchestra, StructuredOutput, Tier
from app.domain.calls import CallAnswer
from app.domain.chat import Json
from app.domain.language import UNKNOWN, language_name, words_of
from app.domain.plan import Plan, ProducedBy
from app.domain.planning.estimate import PlanEstimate, estimate_plan
from app.domain.planning.fallback import single_task_plan
from app.domain.planning.hints import Hints, read_hints
from app.domain.planning.schema import plan_of, plan_schema
from app.domain.planning.tiny import grouped, tiny_plan, tiny_plan_schema, tiny_tokens
from app.domain.planning.validate import PlanLimits, validate
from app.domain.ports import ModelCaller
from app.domain.schema_check import Problem
from app.domain.structured import strip_thinking
from app.services.ask import Accepted, Ask, Means, Rejected, Structured, Told, Wanted, ask_structured, tell
from app.services.context import RunContext
from app.services.models import GENERAL, task_types, transcriber, worker_models
from app.services.prompts import Prompts, material

PROSE_TOKENS = 6_000
JSON_TOKENS = 8_000
TINY_TASK_TOKENS = 40
"""Room for one task's braces, names and ids in the embedded model's plan."""
TINY_PLAN_TOKENS_MAX = 1_100
"""A longer plan would not fit the embedded model's context beside its prompt."""
TINY_LANGUAGE_NOTE = (
    "the embedded model writes no usable {language}: the run shows how the parts work together, add a key for an answer"
)
REQUEST_CHARS_MAX = 60_000
COPIED_SHARE_MIN = 0.7
"""Of the words of a transcribed instruction this share must stand in the text it was copied from."""

ABILITIES = {
    "general": "anything that fits no other capability",
    "reasoning": "hard problems that need several steps of thought",
    "writing": "texts for readers",
    "research": "collecting and weighing what is known about a subject",
    "code_generation": "writing and changing programs",
    "data_extraction": "finding and structuring facts in given material",
    "translation": "from one language into another",
    "summarisation": "making given material shorter",
    "financial_analysis": "figures, budgets, valuations",
}
ONE_PASS_FORM = "Return the plan as one JSON object."
TWO_PASS_FORM = (
    "Write the plan as text: one heading per task with its id, then one line per field with the field's name. "
    "Somebody else will put it into JSON."
)
_EXAMPLES = {
    "parts": (
        "Write a short guide about cats. 1) Describe what cats like to eat. 2) Explain how cats sleep. "
        "3) Using the parts above, write a poem.",
        "1) Describe what cats like to eat. 2) Explain how cats sleep. 3) Using the parts above, write a poem.",
    ),
    "whole": ("Write a poem about cats", "Write a poem about cats"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan that can be played, with its estimate."""

    plan: Plan
    estimate: PlanEstimate
    models: Mapping[str, tuple[str, ...]]
    """Task id to the models that may work on it, best first."""
    answers: tuple[CallAnswer, ...]
    notes: tuple[str, ...]

    @property
    def produced_by(self) -> ProducedBy:
        """Who made the plan."""
        return self.plan.produced_by

    def to_json(self) -> dict[str, Json]:
        """Return the payload of the event ``plan.ready``."""
        return {
            "goal": self.plan.goal,
            "produced_by": self.plan.produced_by,
            "reason": self.plan.reason,
            "prompt_version": self.plan.prompt_version,
            "assumptions": list(self.plan.assumptions),
            "tasks": [
                {
                    "id": task.id,
                    "title": task.title,
                    "task_type": task.task_type,
                    "depends_on": list(task.dependency_ids),
                    "models": list(self.models[task.id]),
                }
                for task in self.plan.tasks
            ],
            "estimate": self.estimate.to_json(),
        }


class Planner:
    """Plans runs.

    Args:
        caller: The way to the models.
        orchestra: The configuration.
        prompts: The templates.
    """

    def __init__(self, caller: ModelCaller, orchestra: Orchestra, prompts: Prompts) -> None:
        self._means = Means(caller=caller, orchestra=orchestra, prompts=prompts)
        self._orchestra = orchestra
        coordinator = orchestra.coordinator
        self._limits = PlanLimits(
            tasks_max=coordinator.tasks_max, depth_max=coordinator.depth_max, task_types=task_types(orchestra)
        )

    async def plan(
        self, context: RunContext, answers: Sequence[tuple[str, str]] = (), assumptions: Sequence[str] = ()
    ) -> Planned:
        """Plan the run.

        Args:
            context: The run.
            answers: (question id, answer) pairs from the user.
            assumptions: Defaults taken instead of answers.

        Raises:
            GatewayError: no model could be asked.
        """
        model = self._orchestra.model(self._orchestra.coordinator.model)
        known = _known(context, answers, assumptions)
        if model.tier is Tier.TINY:
            made = await self._plan_tiny(context, model, known)
        elif model.structured is StructuredOutput.SCHEMA and not model.reasoning:
            made = await self._plan_at_once(context, model, known)
        else:
            made = await self._plan_in_two(context, model, known)
        plan = replace(
            made.value,
            produced_by=made.produced_by,
            assumptions=tuple(dict.fromkeys([*assumptions, *made.value.assumptions])),
        )
        models = {task.id: worker_models(self._orchestra, task) for task in plan.tasks}
        return Planned(
            plan=plan,
            estimate=estimate_plan(plan, self._orchestra, models),
            models=models,
            answers=made.answers,
            notes=made.notes,
        )

    async def _plan_at_once(self, context: RunContext, model: ModelInfo, known: str) -> Structured[Plan]:
        ask = self._planner_ask(context, model, known, ONE_PASS_FORM, JSON_TOKENS)
        return await ask_structured(self._means, context, ask, self._wanted(context, ask.prompt.version, None))

    async def _plan_in_two(self, context: RunContext, model: ModelInfo, known: str) -> Structured[Plan]:
        ask = self._planner_ask(context, model, known, TWO_PASS_FORM, PROSE_TOKENS)
        told = await tell(self._means, context, ask)
        prose = strip_thinking(told.text).strip()
        if not prose:
            # Some servers take a missing think tag for an endless thought.
            prose = (told.reasoning or "").strip()
            told.notes.append("took the plan from the reasoning content, the answer was blank")
        if not prose:
            return self._given_up(context, told)
        scribe = transcriber(self._orchestra)
        template = self._means.prompts.get("transcriber", scribe)
        transcription = Ask(
            purpose="transcribe",
            models=(scribe.name,),
            prompt=template.fill({"plan": material("plan", prose), "task_types": ", ".join(self._limits.task_types)}),
            output_tokens=JSON_TOKENS,
        )
        version = f"{ask.prompt.version} {template.version}"
        made = await ask_structured(self._means, context, transcription, self._wanted(context, version, prose))
        return replace(made, answers=(*told.answers, *made.answers), notes=(*told.notes, *made.notes))

    async def _plan_tiny(self, context: RunContext, model: ModelInfo, known: str) -> Structured[Plan]:
        hints, notes = grouped(read_hints(context.request), self._limits.tasks_max)
        if hints.language not in ("en", UNKNOWN):
            notes = (*notes, TINY_LANGUAGE_NOTE.format(language=language_name(hints.language)))
        template = self._means.prompts.get("planner", model)
        schema = tiny_plan_schema(hints)
        example_request, example_parts = _EXAMPLES["parts" if hints.parts else "whole"]
        example = read_hints(example_parts)
        prompt = template.fill(
            {
                "example_request": example_request,
                "example_plan": _compact(_first_choices(example)),
                "request": context.request.strip() + (f"\n{known}" if known else ""),
            }
        )
        longest = _compact(_first_choices(hints))
        room = tiny_tokens(longest) + TINY_TASK_TOKENS * len(hints.pieces)
        asked = sum(tiny_tokens(message.text) for message in prompt.messages)
        if room > TINY_PLAN_TOKENS_MAX or asked + room > model.context_tokens:
            why = "the request is too long for the embedded model to plan; code split it along its own parts"
            plan = replace(tiny_plan(None, hints), prompt_version=template.version, reason=why)
            return Structured(value=plan, produced_by="fallback", answers=(), notes=(*notes, why))

        def accept(value: Json) -> Accepted[Plan] | Rejected:
            plan = replace(tiny_plan(value, hints), prompt_version=template.version)
            return self._validated(plan)

        wanted = Wanted(
            name="plan",
            schema=schema,
            accept=accept,
            fallback=lambda: replace(tiny_plan(None, hints), prompt_version=template.version),
        )
        ask = Ask(purpose="plan", models=(model.name,), prompt=prompt, output_tokens=room, seed=1)
        made = await ask_structured(self._means, context, ask, wanted)
        return replace(made, notes=(*notes, *made.notes))

    def _planner_ask(self, context: RunContext, model: ModelInfo, known: str, form: str, tokens: int) -> Ask:
        limits = self._limits
        prompt = self._means.prompts.get("planner", model).fill(
            {
                "request": material("request", context.request, chars_max=REQUEST_CHARS_MAX),
                "answers": material("answers", known) if known else "(none)",
                "today": context.today,
                "capabilities": "\n".join(self._ability(name) for name in limits.task_types),
                "tasks_max": str(limits.tasks_max),
                "depth_max": str(limits.depth_max),
                "seconds": f"{context.seconds_left():.0f}",
                "language": language_name(context.language),
                "form": form,
            }
        )
        return Ask(purpose="plan", models=(model.name,), prompt=prompt, output_tokens=tokens)

    def _ability(self, name: str) -> str:
        route = next((route for route in self._orchestra.routes if route.task_type == name), None)
        best = next((model for model in self._orchestra.models if route and model.name in route.primary), None)
        tier = f" (models of tier {best.tier.value})" if best else ""
        return f"- {name}: {ABILITIES.get(name, name.replace('_', ' '))}{tier}"

    def _wanted(self, context: RunContext, version: str, source: str | None) -> Wanted[Plan]:
        def accept(value: Json) -> Accepted[Plan] | Rejected:
            if source is not None:
                invented = transcript_problems(value, source)
                if invented:
                    return Rejected(problems=tuple(invented))
            return self._validated(replace(plan_of(value), prompt_version=version))

        return Wanted(
            name="plan",
            schema=plan_schema(self._limits.task_types),
            accept=accept,
            fallback=lambda: self._one_task(context, version),
        )

    def _validated(self, plan: Plan) -> Accepted[Plan] | Rejected:
        checked = validate(plan, self._limits)
        if checked.problems:
            return Rejected(problems=checked.problems)
        cut = any("left out" in note for note in checked.notes)
        plan = replace(checked.plan, assumptions=checked.plan.assumptions + checked.notes) if cut else checked.plan
        return Accepted(value=plan, notes=checked.notes)

    def _one_task(self, context: RunContext, version: str) -> Plan:
        task_type = GENERAL if GENERAL in self._limits.task_types else self._limits.task_types[0]
        plan = single_task_plan(
            context.request, task_type=task_type, reason="No model gave a plan that can be played; this is one task."
        )
        return replace(plan, prompt_version=version)

    def _given_up(self, context: RunContext, told: Told) -> Structured[Plan]:
        return Structured(
            value=self._one_task(context, ""),
            produced_by="fallback",
            answers=tuple(told.answers),
            notes=(*told.notes, "the planner's answer was blank; the request is one task"),
        )


def transcript_problems(value: Json, source: str) -> list[Problem]:
    """Return where a transcribed plan says what ``source`` does not: invented tasks or rewritten instructions."""
    plan = plan_of(value)
    known = set(words_of(source))
    problems = []
    for index, task in enumerate(plan.tasks):
        if task.id.casefold() not in source.casefold():
            problems.append(Problem(path=f"tasks[{index}]", message=f"the text has no task {task.id!r}; leave it out"))
            continue
        for name, text in (("title", task.title), ("instruction", task.instruction)):
            words = words_of(text)
            copied = sum(word in known for word in words)
            if words and copied < COPIED_SHARE_MIN * len(words):
                message = "was not copied from the text; copy what stands there"
                problems.append(Problem(path=f"tasks[{index}].{name}", message=message))
    return problems


def _known(context: RunContext, answers: Sequence[tuple[str, str]], assumptions: Sequence[str]) -> str:
    questions = {question.id: question.question for question in context.questions}
    lines = [f"- {questions.get(name, name)} {answer}" for name, answer in answers]
    return "\n".join([*lines, *(f"- assumed: {assumption}" for assumption in assumptions)])


def _first_choices(hints: Hints) -> Json:
    plan = tiny_plan(None, hints)
    return {
        "tasks": [
            {
                "id": task.id,
                "instruction": task.instruction,
                "depends_on": list(task.dependency_ids),
                "criterion": task.criteria[-1].statement,
            }
            for task in plan.tasks
        ]
    }


def _compact(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
