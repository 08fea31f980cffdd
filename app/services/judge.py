"""The judge: holds one artifact against its task's criteria.

Code checks what it can; a model, preferably of another family and blind to the author, gives verdicts on the rest, each
with a quote that code then looks for. Where no model can judge, the verdict is ``cannot_tell``: a judge never fails a
run. Called by the task flow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, cast

from app.domain.accounts import Orchestra, Tier
from app.domain.calls import CallAnswer
from app.domain.chat import Json
from app.domain.errors import CancelledError, GatewayError
from app.domain.judging import (
    LANGUAGE_CRITERION,
    advice,
    blocked_reason,
    check_by_code,
    feedback,
    judge_schema,
    language_objection,
    language_verdict,
    numbered_sentences,
    passed,
    tiny_judge_schema,
    unjudged,
    verified,
)
from app.domain.language import language_name
from app.domain.plan import Criterion, CriterionVerdict, Judgement, PlannedTask, ProducedBy
from app.domain.ports import ModelCaller
from app.domain.structured import is_blank
from app.services.ask import Accepted, Ask, Means, Structured, Wanted, ask_structured
from app.services.context import RunContext
from app.services.models import stage_models
from app.services.prompts import Prompts, fitted, material

TOKENS_PER_VERDICT = 220
PROMPT_TOKENS = 1_500
TINY_CRITERIA_MAX = 2
"""More are not put to the embedded model: its verdicts are advice anyway."""
NO_MODEL = "no model could judge this"

Verdict: TypeAlias = Literal["met", "not_met", "cannot_tell"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A judgement, and what a redo is told."""

    judgement: Judgement
    feedback: tuple[str, ...]
    """Failing criteria with evidence and hints; empty where all is well."""
    answers: tuple[CallAnswer, ...] = ()
    notes: tuple[str, ...] = ()
    prompt_version: str = ""

    @property
    def produced_by(self) -> ProducedBy:
        """Who gave the verdicts; ``model`` also where code's checks were all there was to do."""
        return self.judgement.produced_by


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opinion:
    verdicts: Mapping[str, CriterionVerdict]
    produced_by: ProducedBy = "model"
    answers: tuple[CallAnswer, ...] = ()
    notes: tuple[str, ...] = ()
    prompt_version: str = ""


class Judge:
    """Judges artifacts.

    Args:
        caller: The way to the models.
        orchestra: The configuration.
        prompts: The templates.
    """

    def __init__(self, caller: ModelCaller, orchestra: Orchestra, prompts: Prompts) -> None:
        self._means = Means(caller=caller, orchestra=orchestra, prompts=prompts)

    async def judge(
        self, context: RunContext, task: PlannedTask, artifact: str, inputs: Mapping[str, str], attempt: int = 1
    ) -> Judged:
        """Judge ``artifact`` as the work on ``task``; never fails, except that the work is withdrawn."""
        criteria = with_format_check(task)
        by_code = {item.id: check_by_code(item, artifact, inputs.keys()) for item in criteria}
        known = {name: verdict for name, verdict in by_code.items() if verdict is not None}
        open_criteria = [item for item in criteria if item.id not in known]
        reason = blocked_reason(artifact)
        if reason is not None or is_blank(artifact):
            opinion = _nothing_there(open_criteria, reason)
        elif open_criteria:
            opinion = await self._opinion(context, task, open_criteria, artifact, inputs, attempt)
        else:
            opinion = _Opinion(verdicts={})
        verdicts = tuple(known.get(item.id) or opinion.verdicts[item.id] for item in criteria)
        objection = language_objection(task, artifact, request=context.request, language=context.language)
        if objection is not None:
            criteria, verdicts = (*criteria, LANGUAGE_CRITERION), (*verdicts, language_verdict(objection))
        good = passed(criteria, verdicts) and reason is None
        judgement = Judgement(
            task_id=task.id, attempt=attempt, passed=good, verdicts=verdicts, produced_by=opinion.produced_by
        )
        lines = feedback(criteria, verdicts)
        if reason is not None:
            lines = (f"The worker said it was blocked: {reason or 'no reason given'}", *lines)
        return Judged(
            judgement=judgement,
            feedback=lines,
            answers=opinion.answers,
            notes=opinion.notes,
            prompt_version=opinion.prompt_version,
        )

    async def _opinion(
        self,
        context: RunContext,
        task: PlannedTask,
        criteria: Sequence[Criterion],
        artifact: str,
        inputs: Mapping[str, str],
        attempt: int,
    ) -> _Opinion:
        models = stage_models(self._means.orchestra, self._means.orchestra.coordinator.judge_model)
        try:
            if self._means.model(models[0]).tier is Tier.TINY:
                return await self._tiny_opinion(context, task, criteria, artifact, attempt)
            ask = self._ask(context, task, criteria, artifact, inputs)
            ask = replace(ask, models=models, attempt=attempt)
            made = await ask_structured(self._means, context, ask, _wanted(criteria, artifact))
        except CancelledError:
            raise
        except GatewayError as error:
            note = f"{task.id}: no model could judge it: {error.message}"
            return _Opinion(verdicts=_all_unjudged(criteria, NO_MODEL), produced_by="fallback", notes=(note,))
        return _Opinion(
            verdicts=made.value,
            produced_by=made.produced_by,
            answers=made.answers,
            notes=made.notes,
            prompt_version=ask.prompt.version,
        )

    def _ask(
        self,
        context: RunContext,
        task: PlannedTask,
        criteria: Sequence[Criterion],
        artifact: str,
        inputs: Mapping[str, str],
    ) -> Ask:
        models = stage_models(self._means.orchestra, self._means.orchestra.coordinator.judge_model)
        model = self._means.model(models[0])
        room = TOKENS_PER_VERDICT * len(criteria) + 100
        shown = fitted({**inputs, "artifact": artifact}, max(1_000, model.context_tokens - room - PROMPT_TOKENS))
        prompt = self._means.prompts.get("judge", model).fill(
            {
                "task": material("task", f"{task.title}\n{task.instruction}"),
                "criteria": "\n".join(f"- {item.id}: {item.statement}" for item in criteria),
                "inputs": "\n".join(material(name, shown[name]) for name in inputs) or "(none)",
                "artifact": material("artifact", shown["artifact"]),
                "language": language_name(context.language),
            }
        )
        return Ask(purpose="judge", models=models, prompt=prompt, output_tokens=room, task_id=task.id)

    async def _tiny_opinion(
        self, context: RunContext, task: PlannedTask, criteria: Sequence[Criterion], artifact: str, attempt: int
    ) -> _Opinion:
        """Ask the embedded model about one criterion at a time; what it says is advice."""
        models = stage_models(self._means.orchestra, self._means.orchestra.coordinator.judge_model)
        template = self._means.prompts.get("judge", self._means.model(models[0]))
        shown = numbered_sentences(artifact)
        text = "\n".join(f"[s{number}] {sentence}" for number, sentence in enumerate(shown, 1)) or "(nothing)"
        found = _all_unjudged(criteria, "only the first criteria are put to the embedded model")
        made: list[Structured[CriterionVerdict]] = []
        for criterion in criteria[:TINY_CRITERIA_MAX]:
            ask = Ask(
                purpose="judge",
                models=models,
                prompt=template.fill({"artifact": text, "criterion": criterion.statement}),
                output_tokens=60,
                task_id=task.id,
                attempt=attempt,
                part=criterion.id,
                seed=1,
            )
            made.append(await ask_structured(self._means, context, ask, _wanted_advice(criterion, shown)))
            found[criterion.id] = made[-1].value
        return _Opinion(
            verdicts=found,
            produced_by=worst([each.produced_by for each in made]),
            answers=tuple(answer for each in made for answer in each.answers),
            notes=tuple(note for each in made for note in each.notes),
            prompt_version=template.version,
        )


def with_format_check(task: PlannedTask) -> tuple[Criterion, ...]:
    """Return the criteria of ``task``, with one more where its format can be checked and the plan forgot to."""
    if task.expected_output.format != "json" or any(item.check == "json_valid" for item in task.criteria):
        return task.criteria
    return (*task.criteria, Criterion(id="format", statement="The result is valid JSON.", check="json_valid"))


def worst(makers: Sequence[ProducedBy]) -> ProducedBy:
    """Return what is to be said of several together: fallback before repaired before model."""
    order: tuple[ProducedBy, ...] = ("fallback", "repaired", "model")
    return next((each for each in order if each in makers), "model")


def _wanted(criteria: Sequence[Criterion], artifact: str) -> Wanted[dict[str, CriterionVerdict]]:
    def accept(value: Json) -> Accepted[dict[str, CriterionVerdict]]:
        fields = cast("dict[str, Json]", value)
        found = _all_unjudged(criteria, "the judge said nothing about this")
        notes = []
        for item in cast("list[dict[str, Json]]", fields["verdicts"]):
            given = _verdict(item)
            checked = verified(given, artifact)
            if checked.verdict != given.verdict:
                notes.append(f"a verdict on {given.criterion_id} was voided: {checked.reasoning}")
            found[given.criterion_id] = checked
        injected = str(fields["injection_notes"]).strip()
        if injected and injected.casefold() not in ("none", "no", "n/a", "null"):
            notes.append(f"the judge reports that the artifact addresses it: {injected[:200]}")
        return Accepted(value=found, notes=tuple(notes))

    return Wanted(
        name="judgement",
        schema=judge_schema(criteria),
        accept=accept,
        fallback=lambda: _all_unjudged(criteria, "the judge's answer could not be read"),
    )


def _wanted_advice(criterion: Criterion, shown: Sequence[str]) -> Wanted[CriterionVerdict]:
    return Wanted(
        name="verdict",
        schema=tiny_judge_schema(len(shown)),
        accept=lambda value: Accepted(value=advice(criterion, cast("dict[str, Json]", value), shown)),
        fallback=lambda: unjudged(criterion, "the embedded model's answer could not be read"),
    )


def _verdict(item: dict[str, Json]) -> CriterionVerdict:
    return CriterionVerdict(
        criterion_id=str(item["criterion_id"]),
        verdict=cast("Verdict", item["verdict"]),
        evidence=str(item["evidence_quote"]).strip(),
        reasoning=str(item["reasoning"]).strip(),
        fix_hint=str(item["fix_hint"]).strip(),
    )


def _all_unjudged(criteria: Sequence[Criterion], why: str) -> dict[str, CriterionVerdict]:
    return {item.id: unjudged(item, why) for item in criteria}


def _nothing_there(criteria: Sequence[Criterion], blocked: str | None) -> _Opinion:
    why = "the worker said it was blocked" if blocked is not None else "there is no text"
    return _Opinion(
        verdicts={
            item.id: CriterionVerdict(criterion_id=item.id, verdict="not_met", reasoning=why) for item in criteria
        }
    )
