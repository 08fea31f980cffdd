"""The merger: one answer from the accepted artifacts, every paragraph with references [tN] to what it rests on.

Artifacts that do not fit together are merged in groups first. Code checks references and numbers, appends what is
missing, and concatenates where no model could merge: there is always an answer. Called by the conductor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from app.domain.accounts import Orchestra, Tier
from app.domain.calls import CallAnswer
from app.domain.chat import Json
from app.domain.errors import CancelledError, GatewayError
from app.domain.estimate import text_tokens
from app.domain.language import language_name, language_problem, names_a_language
from app.domain.merging import (
    FAN_IN,
    answer_of_picks,
    concatenated,
    groups,
    merge_problems,
    merge_schema,
    missing_section,
    names_missing,
    numbers_from_nowhere,
    pick_schema,
    pickable,
)
from app.domain.plan import Plan, ProducedBy
from app.domain.ports import ModelCaller
from app.domain.prose import without_repeats
from app.services.ask import Accepted, Ask, Means, Rejected, Structured, Wanted, all_or_none, ask_structured
from app.services.context import RunContext
from app.services.judge import worst
from app.services.prompts import Prompts, fitted, material, shortened

PROMPT_TOKENS = 2_000
ANSWER_TOKENS_MIN = 1_500
ANSWER_TOKENS_MAX = 12_000
REQUEST_CHARS_MAX = 10_000
TINY_PROMPT_TOKENS_MAX = 700
"""Results put to the embedded model in one call; its answer repeats up to two sentences of each."""
TINY_ANSWER_TOKENS_MAX = 700


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """The answer and how it came about."""

    answer: str
    produced_by: ProducedBy
    conflicts: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()
    answers: tuple[CallAnswer, ...] = ()
    notes: tuple[str, ...] = ()
    prompt_version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Text:
    answer: str
    conflicts: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """A text that goes into a merge: an artifact, or the answer of a group."""

    text: str
    owed: tuple[str, ...]
    """Ids of the artifacts that are in it and must be referred to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One merge of the tree."""

    context: RunContext
    plan: Plan
    shown: Mapping[str, _Shown]
    missing: Mapping[str, str] = field(default_factory=dict)
    part: str = ""

    @property
    def owed(self) -> tuple[str, ...]:
        return tuple(name for each in self.shown.values() for name in each.owed)


class Merger:
    """Merges artifacts.

    Args:
        caller: The way to the models.
        orchestra: The configuration.
        prompts: The templates.
    """

    def __init__(self, caller: ModelCaller, orchestra: Orchestra, prompts: Prompts) -> None:
        self._means = Means(caller=caller, orchestra=orchestra, prompts=prompts)
        self._model = orchestra.model(orchestra.coordinator.model)

    async def merge(
        self, context: RunContext, plan: Plan, artifacts: Mapping[str, str], missing: Mapping[str, str]
    ) -> Merged:
        """Return the answer to the run's request.

        Args:
            context: The run.
            plan: What was planned.
            artifacts: Accepted artifacts by task id.
            missing: Why there is none, by the id of every other task.
        """
        ordered = {task.id: artifacts[task.id] for task in plan.tasks if task.id in artifacts}
        try:
            merged = await self._merged(context, plan, ordered, missing)
        except CancelledError:
            raise
        except GatewayError as error:
            answer = concatenated(plan, ordered, missing, context.language)
            note = f"no model could merge the results, they stand one after the other: {error.message}"
            return Merged(answer=answer, produced_by="fallback", notes=(note,))
        return _with_missing(merged, context, plan, missing)

    async def _merged(
        self, context: RunContext, plan: Plan, artifacts: Mapping[str, str], missing: Mapping[str, str]
    ) -> Merged:
        if len(plan.tasks) == 1 and artifacts:
            # Nothing to merge: the one result is the answer, as the model wrote it.
            return Merged(answer=next(iter(artifacts.values())), produced_by="model")
        if plan.merge.strategy == "code":
            joined = _joined_json(artifacts)
            if joined is not None:
                return Merged(
                    answer=joined, produced_by="model", notes=("the results were joined by code, as planned",)
                )
        if plan.merge.strategy == "concat":
            answer = concatenated(plan, artifacts, {}, context.language)
            return Merged(answer=answer, produced_by="model", notes=("the results were put together as planned",))
        if self._model.tier is Tier.TINY:
            return await self._picked(context, plan, artifacts)
        return await self._synthesised(context, plan, artifacts, missing)

    async def _synthesised(
        self, context: RunContext, plan: Plan, artifacts: Mapping[str, str], missing: Mapping[str, str]
    ) -> Merged:
        """Merge in one call where all fits, else in groups of at most eight, then their answers, level by level."""
        shown = {name: _Shown(text=text, owed=(name,)) for name, text in artifacts.items()}
        done: list[Merged] = []
        while (fan_in := self._fan_in(shown)) is not None:
            parts = groups(list(shown), fan_in)
            jobs = [
                _Job(context=context, plan=plan, shown={name: shown[name] for name in part}, part=f"{len(done)}.{at}")
                for at, part in enumerate(parts)
            ]
            merged = await all_or_none([self._one_merge(job, artifacts) for job in jobs])
            shown = {
                f"group{len(done) + at}": _Shown(text=each.answer, owed=job.owed)
                for at, (job, each) in enumerate(zip(jobs, merged, strict=True))
            }
            done.extend(merged)
        final = await self._one_merge(_Job(context=context, plan=plan, shown=shown, missing=missing), artifacts)
        return replace(
            final,
            produced_by=worst([final.produced_by, *(each.produced_by for each in done)]),
            answers=tuple(answer for each in (*done, final) for answer in each.answers),
            notes=tuple(note for each in (*done, final) for note in each.notes),
            conflicts=tuple(item for each in (*done, final) for item in each.conflicts),
        )

    def _fan_in(self, shown: Mapping[str, _Shown]) -> int | None:
        """Return how many texts one call can join, or None where one call can join them all (shortened if need be)."""
        total = sum(text_tokens(each.text) for each in shown.values())
        tokens_max = self._model.context_tokens // 2 - PROMPT_TOKENS
        if total <= tokens_max:
            return None
        fan_in = max(2, min(FAN_IN, tokens_max * len(shown) // total))
        return fan_in if len(shown) > fan_in else None

    async def _one_merge(self, job: _Job, artifacts: Mapping[str, str]) -> Merged:
        context = job.context
        owed = {name: artifacts[name] for name in job.owed}
        ask = self._ask(job)
        wanted = _wanted(job.plan, owed, [*artifacts.values(), context.request], context.language)
        made = await ask_structured(self._means, context, ask, wanted)
        problem = None
        if not names_a_language(context.request, job.plan.merge.instruction):
            problem = language_problem(made.value.answer, context.language)
        if problem is not None and made.produced_by != "fallback":
            made = await self._in_right_language(context, ask, wanted, made, problem)
        return Merged(
            answer=made.value.answer.strip(),
            produced_by=made.produced_by,
            conflicts=made.value.conflicts,
            gaps=made.value.gaps,
            answers=made.answers,
            notes=made.notes,
            prompt_version=ask.prompt.version,
        )

    async def _in_right_language(
        self, context: RunContext, ask: Ask, wanted: Wanted[_Text], first: Structured[_Text], problem: str
    ) -> Structured[_Text]:
        last = ask.prompt.messages[-1]
        line = f"\n\nAn earlier answer was refused: {problem}. Write all of it in {language_name(context.language)}."
        prompt = replace(ask.prompt, messages=(*ask.prompt.messages[:-1], replace(last, text=last.text + line)))
        again = replace(ask, prompt=prompt, part=f"{ask.part}language")
        try:
            second = await ask_structured(self._means, context, again, wanted)
        except CancelledError:
            raise
        except GatewayError as error:
            return replace(first, notes=(*first.notes, f"{problem}; a second try failed: {error.message}"))
        answers = (*first.answers, *second.answers)
        if second.produced_by == "fallback":
            return replace(first, answers=answers, notes=(*first.notes, f"{problem}; a second try was no better"))
        left = language_problem(second.value.answer, context.language)
        notes = [*second.notes, f"the answer was asked for again, because {problem}"]
        if left is not None:
            notes.append(f"{left}, also after a second try")
        return replace(second, answers=answers, notes=tuple(notes))

    def _ask(self, job: _Job) -> Ask:
        texts = {name: each.text for name, each in job.shown.items()}
        total = sum(map(text_tokens, texts.values()))
        room = min(ANSWER_TOKENS_MAX, max(ANSWER_TOKENS_MIN, total + total // 2))
        texts = fitted(texts, max(1_000, self._model.context_tokens - room - PROMPT_TOKENS))
        titles = {task.id: task.title for task in job.plan.tasks}
        absent = [f"[{name}] {titles.get(name, '')}: {why}" for name, why in job.missing.items()]
        results = [
            f"[{name}] {titles.get(name, 'merged from several results, keep its references')}\n{material(name, text)}"
            for name, text in texts.items()
        ]
        prompt = self._means.prompts.get("merger", self._model).fill(
            {
                "request": material("request", job.context.request, chars_max=REQUEST_CHARS_MAX),
                "instruction": job.plan.merge.instruction or "one coherent answer",
                "covers": "; ".join(job.plan.merge.covers) or "the whole request",
                "missing": "; ".join(absent) or "(nothing)",
                "artifacts": "\n".join(results),
                "language": language_name(job.context.language),
            }
        )
        return Ask(purpose="merge", models=(self._model.name,), prompt=prompt, output_tokens=room, part=job.part)

    async def _picked(self, context: RunContext, plan: Plan, artifacts: Mapping[str, str]) -> Merged:
        """Let the embedded model pick sentences of every result: it then cannot invent any."""
        offered = {name: choices for name, text in artifacts.items() if (choices := pickable(without_repeats(text)))}
        made = []
        for number, part in enumerate(_small_parts(offered)):
            made.append(await self._one_pick(context, {name: offered[name] for name in part}, number))
        picks = {name: chosen for each in made for name, chosen in each.value.items()}
        # A result without any whole sentence stands as it is.
        texts = {name: picks.get(name) or [shortened(text, 600)] for name, text in artifacts.items()}
        makers = [each.produced_by for each in made]
        return Merged(
            answer=answer_of_picks(texts),
            produced_by=worst(makers) if made else "fallback",
            answers=tuple(answer for each in made for answer in each.answers),
            notes=(
                *(note for each in made for note in each.notes),
                "the embedded model picked sentences of the results; it cannot write an answer of its own",
            ),
            prompt_version=self._means.prompts.get("merger", self._model).version,
        )

    async def _one_pick(
        self, context: RunContext, offered: Mapping[str, Sequence[str]], number: int
    ) -> Structured[dict[str, list[str]]]:
        shown = "\n".join(f"[{name}] {' '.join(choices)}" for name, choices in offered.items())
        prompt = self._means.prompts.get("merger", self._model).fill({"artifacts": shown})
        ask = Ask(
            purpose="merge",
            models=(self._model.name,),
            prompt=prompt,
            output_tokens=TINY_ANSWER_TOKENS_MAX,
            part=str(number) if number else "",
            # Measured: without the penalty it picks the same sentence for every result.
            creative=True,
            seed=1,
        )
        wanted = Wanted(
            name="picks",
            schema=pick_schema(offered),
            accept=lambda value: Accepted(value=cast("dict[str, list[str]]", value)),
            fallback=lambda: {name: list(choices[:2]) for name, choices in offered.items()},
        )
        return await ask_structured(self._means, context, ask, wanted)


def _wanted(plan: Plan, owed: Mapping[str, str], sources: Sequence[str], language: str) -> Wanted[_Text]:
    def accept(value: Json) -> Accepted[_Text] | Rejected:
        fields = cast("dict[str, Json]", value)
        answer = str(fields["answer"])
        gaps = tuple(str(item) for item in cast("list[Json]", fields["gaps"]))
        problems = merge_problems(answer, gaps, owed)
        if problems:
            return Rejected(problems=tuple(problems))
        strange = numbers_from_nowhere(answer, sources)
        notes = [f"the answer has numbers that no result contains: {', '.join(strange)}"] if strange else []
        conflicts = tuple(str(item) for item in cast("list[Json]", fields["conflicts"]))
        notes.extend(f"conflict between results: {item}" for item in conflicts)
        notes.extend(f"not covered: {item}" for item in gaps)
        return Accepted(value=_Text(answer=answer, conflicts=conflicts, gaps=gaps), notes=tuple(notes))

    return Wanted(
        name="merged",
        schema=merge_schema(),
        accept=accept,
        fallback=lambda: _Text(answer=concatenated(plan, owed, {}, language)),
    )


def _with_missing(merged: Merged, context: RunContext, plan: Plan, missing: Mapping[str, str]) -> Merged:
    """Say what is missing, where the answer itself does not."""
    if not missing or names_missing(merged.answer, plan, missing):
        return merged
    section = missing_section(plan, missing, context.language)
    return replace(merged, answer=f"{merged.answer}\n\n{section}".strip())


def _joined_json(artifacts: Mapping[str, str]) -> str | None:
    """Return one JSON object of all artifacts by task id; None where one is not JSON."""
    try:
        return json.dumps({name: json.loads(text) for name, text in artifacts.items()}, ensure_ascii=False, indent=2)
    except (ValueError, RecursionError):
        return None


def _small_parts(offered: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Return the names in order, in parts that fit the embedded model."""
    parts: list[list[str]] = []
    left = 0
    for name, choices in offered.items():
        tokens = text_tokens(" ".join(choices)) + 8
        if not parts or tokens > left:
            parts.append([])
            left = TINY_PROMPT_TOKENS_MAX
        parts[-1].append(name)
        left -= tokens
    return parts
