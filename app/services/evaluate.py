"""The evaluator: the coordinator model's final evaluation of every task, with evidence that code has found.

Scores run from 0 to 1. A quote that is not in the result voids the model's score; the judge's verdicts then give it, as
they do where no model could evaluate. Tasks that did not complete score 0, by code. Called by the conductor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from app.domain.accounts import Orchestra, Tier
from app.domain.calls import CallAnswer
from app.domain.chat import Json
from app.domain.errors import CancelledError, GatewayError
from app.domain.judging import NO_SENTENCE, find_quote, lowered, met_share, numbered_sentences
from app.domain.language import language_name
from app.domain.merging import groups
from app.domain.plan import CriterionVerdict, Judgement, Plan, PlannedTask, ProducedBy, TaskEvaluation
from app.domain.planning.schema import array_of, closed_object, one_of
from app.domain.ports import ModelCaller
from app.domain.schema_check import Problem
from app.services.ask import Accepted, Ask, Means, Rejected, Structured, Wanted, all_or_none, ask_structured
from app.services.context import RunContext
from app.services.judge import worst
from app.services.prompts import Prompts, fitted, material

TASKS_PER_CALL = 12
TINY_TASKS_PER_CALL = 5
TOKENS_PER_TASK = 180
TINY_TOKENS_PER_TASK = 40
TINY_SENTENCES = 3
PROMPT_TOKENS = 1_500
REQUEST_CHARS_MAX = 10_000
SCORE_MAX = 10
TINY_SCORES = {"good": 0.9, "weak": 0.5, "bad": 0.1}
"""The embedded model only says a word: asked for numbers too, it contradicts itself."""
TINY_NOTE = "scores by the embedded model are not reliable: measured, they do not tell good work from bad"

Judgements = Mapping[str, Judgement]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """One evaluation per task of the plan, in its order."""

    evaluations: tuple[TaskEvaluation, ...]
    produced_by: ProducedBy
    """Over the completed tasks; the least of them counts."""
    answers: tuple[CallAnswer, ...] = ()
    notes: tuple[str, ...] = ()
    prompt_version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    context: RunContext
    tasks: tuple[PlannedTask, ...]
    artifacts: Mapping[str, str]
    judgements: Judgements
    part: str = ""


class Evaluator:
    """Evaluates finished runs.

    Args:
        caller: The way to the models.
        orchestra: The configuration.
        prompts: The templates.
    """

    def __init__(self, caller: ModelCaller, orchestra: Orchestra, prompts: Prompts) -> None:
        self._means = Means(caller=caller, orchestra=orchestra, prompts=prompts)
        self._model = orchestra.model(orchestra.coordinator.model)

    async def evaluate(
        self,
        context: RunContext,
        plan: Plan,
        artifacts: Mapping[str, str],
        judgements: Judgements,
        missing: Mapping[str, str],
    ) -> Evaluated:
        """Evaluate every task of ``plan``; never fails, except that the work is withdrawn.

        Args:
            context: The run.
            plan: What was planned.
            artifacts: Accepted artifacts by task id.
            judgements: The last judgement of each task, where there is one.
            missing: Why there is no artifact, by the id of every other task.
        """
        tiny = self._model.tier is Tier.TINY
        present = [task for task in plan.tasks if task.id in artifacts]
        jobs = [
            _Job(
                context=context,
                tasks=tuple(part),
                artifacts=artifacts,
                judgements=judgements,
                part=str(number) if number else "",
            )
            for number, part in enumerate(groups(present, TINY_TASKS_PER_CALL if tiny else TASKS_PER_CALL))
        ]
        made = await all_or_none([self._one_call(job) for job in jobs])
        found = {item.task_id: item for each in made for item in each.value}
        for task in plan.tasks:
            if task.id not in found:
                found[task.id] = _not_done(task, missing.get(task.id, "it has no result"))
        notes = [note for each in made for note in each.notes]
        if tiny and made:
            notes.append(TINY_NOTE)
        return Evaluated(
            evaluations=tuple(found[task.id] for task in plan.tasks),
            produced_by=worst([item.produced_by for each in made for item in each.value]) if made else "fallback",
            answers=tuple(answer for each in made for answer in each.answers),
            notes=tuple(dict.fromkeys(notes)),
            prompt_version=self._means.prompts.get("evaluator", self._model).version,
        )

    async def _one_call(self, job: _Job) -> Structured[tuple[TaskEvaluation, ...]]:
        tiny = self._model.tier is Tier.TINY
        ask, wanted = self._tiny_ask(job) if tiny else self._full_ask(job)
        try:
            made = await ask_structured(self._means, job.context, ask, wanted)
        except CancelledError:
            raise
        except GatewayError as error:
            note = f"no model could evaluate; the scores are the judge's: {error.message}"
            return Structured(value=_by_judgements(job), produced_by="fallback", answers=(), notes=(note,))
        if made.produced_by == "repaired":
            repaired = tuple(_made_by(item, "repaired") for item in made.value)
            return Structured(value=repaired, produced_by="repaired", answers=made.answers, notes=made.notes)
        return made

    def _full_ask(self, job: _Job) -> tuple[Ask, Wanted[tuple[TaskEvaluation, ...]]]:
        room = TOKENS_PER_TASK * len(job.tasks) + 200
        shown = fitted(
            {task.id: job.artifacts[task.id] for task in job.tasks},
            max(1_000, self._model.context_tokens - room - PROMPT_TOKENS - 60 * len(job.tasks)),
        )
        prompt = self._means.prompts.get("evaluator", self._model).fill(
            {
                "request": material("request", job.context.request, chars_max=REQUEST_CHARS_MAX),
                "artifacts": "\n".join(
                    f"[{task.id}] TASK: {material(f'{task.id}.task', task.instruction)}\n"
                    f"RESULT:\n{material(task.id, shown[task.id])}"
                    for task in job.tasks
                ),
                "task_ids": ", ".join(task.id for task in job.tasks),
                "language": language_name(job.context.language),
            }
        )
        ask = Ask(purpose="evaluate", models=(self._model.name,), prompt=prompt, output_tokens=room, part=job.part)
        return ask, _wanted(job)

    def _tiny_ask(self, job: _Job) -> tuple[Ask, Wanted[tuple[TaskEvaluation, ...]]]:
        shown = {task.id: numbered_sentences(job.artifacts[task.id])[:TINY_SENTENCES] for task in job.tasks}
        prompt = self._means.prompts.get("evaluator", self._model).fill(
            {
                "artifacts": "\n".join(
                    f"[{task.id}] {task.instruction[:200]} "
                    + " ".join(f"[s{number}] {text}" for number, text in enumerate(shown[task.id], 1))
                    for task in job.tasks
                )
            }
        )
        ask = Ask(
            purpose="evaluate",
            models=(self._model.name,),
            prompt=prompt,
            output_tokens=TINY_TOKENS_PER_TASK * 2 * len(job.tasks) + 40,
            part=job.part,
            seed=1,
        )
        return ask, _tiny_wanted(job, shown)


def _wanted(job: _Job) -> Wanted[tuple[TaskEvaluation, ...]]:
    text: Json = {"type": "string"}
    item = closed_object(
        {
            "task_id": one_of([task.id for task in job.tasks]),
            "evidence_quote": text,
            "reasoning": text,
            "verdict": text,
            "score": {"type": "integer"},
        }
    )

    def accept(value: Json) -> Accepted[tuple[TaskEvaluation, ...]] | Rejected:
        given = {
            str(each["task_id"]): each
            for each in cast("list[dict[str, Json]]", cast("dict[str, Json]", value)["evaluations"])
        }
        absent = [task.id for task in job.tasks if task.id not in given]
        if absent:
            message = f"there is no evaluation of {', '.join(absent)}"
            return Rejected(problems=(Problem(path="evaluations", message=message),))
        notes: list[str] = []
        found = tuple(_evaluation(task, given[task.id], job, notes) for task in job.tasks)
        injected = str(cast("dict[str, Json]", value)["injection_notes"]).strip()
        if injected and injected.casefold() not in ("none", "no", "n/a", "null"):
            notes.append(f"the evaluator reports that a result addresses it: {injected[:200]}")
        return Accepted(value=found, notes=tuple(notes))

    return Wanted(
        name="evaluation",
        schema=closed_object({"injection_notes": text, "evaluations": array_of(item)}),
        accept=accept,
        fallback=lambda: _by_judgements(job),
    )


def _evaluation(task: PlannedTask, given: dict[str, Json], job: _Job, notes: list[str]) -> TaskEvaluation:
    quote, reasoning = str(given["evidence_quote"]).strip(), str(given["reasoning"]).strip()
    if quote and not find_quote(quote, job.artifacts[task.id]):
        notes.append(
            f"the evaluation of {task.id} quotes what is not in its result; the judge's verdicts gave its score"
        )
        return _by_judgement(task, job)
    score = min(SCORE_MAX, max(0, int(cast("int", given["score"])))) / SCORE_MAX
    return TaskEvaluation(
        task_id=task.id,
        score=lowered(score, _verdicts(task, job)),
        verdict=str(given["verdict"]).strip() or reasoning,
        evidence=quote or reasoning,
    )


def _tiny_wanted(job: _Job, shown: Mapping[str, Sequence[str]]) -> Wanted[tuple[TaskEvaluation, ...]]:
    schema = closed_object(
        {
            task.id: closed_object(
                {
                    "evidence": one_of([f"s{number + 1}" for number in range(len(shown[task.id]))] or [NO_SENTENCE]),
                    "verdict": one_of(tuple(TINY_SCORES)),
                }
            )
            for task in job.tasks
        }
    )

    def accept(value: Json) -> Accepted[tuple[TaskEvaluation, ...]]:
        fields = cast("dict[str, dict[str, Json]]", value)
        found = []
        for task in job.tasks:
            given = fields[task.id]
            pointer = str(given["evidence"])
            sentence = "" if pointer == NO_SENTENCE else shown[task.id][int(pointer[1:]) - 1]
            found.append(
                TaskEvaluation(
                    task_id=task.id,
                    score=lowered(TINY_SCORES[str(given["verdict"])], _verdicts(task, job)),
                    verdict=f"{given['verdict']} (by the embedded model: not reliable)",
                    evidence=sentence,
                )
            )
        return Accepted(value=tuple(found))

    return Wanted(name="evaluation", schema=schema, accept=accept, fallback=lambda: _by_judgements(job))


def _verdicts(task: PlannedTask, job: _Job) -> tuple[CriterionVerdict, ...]:
    judgement = job.judgements.get(task.id)
    return judgement.verdicts if judgement else ()


def _by_judgements(job: _Job) -> tuple[TaskEvaluation, ...]:
    return tuple(_by_judgement(task, job) for task in job.tasks)


def _by_judgement(task: PlannedTask, job: _Job) -> TaskEvaluation:
    verdicts = _verdicts(task, job)
    met = sum(verdict.verdict == "met" for verdict in verdicts)
    quotes = [verdict.evidence for verdict in verdicts if verdict.evidence]
    return TaskEvaluation(
        task_id=task.id,
        score=round(met_share(verdicts), 2),
        verdict=f"{met} of {len(verdicts)} criteria met" if verdicts else "not judged",
        evidence=quotes[0] if quotes else "",
        produced_by="fallback",
    )


def _not_done(task: PlannedTask, reason: str) -> TaskEvaluation:
    return TaskEvaluation(task_id=task.id, score=0.0, verdict="not completed", evidence=reason, produced_by="fallback")


def _made_by(item: TaskEvaluation, maker: ProducedBy) -> TaskEvaluation:
    if item.produced_by == "fallback":
        return item
    return TaskEvaluation(
        task_id=item.task_id, score=item.score, verdict=item.verdict, evidence=item.evidence, produced_by=maker
    )
