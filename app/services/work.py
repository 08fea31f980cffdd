"""The worker: does one task and returns its artifact as text.

The worker sees only its task and the artifacts it depends on. A redo gets the old artifact and what was objected to.
The artifact's language is checked, with one more try. Called by the task flow; errors of the models go to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from app.domain.accounts import ModelInfo, Orchestra, StructuredOutput, Tier
from app.domain.calls import CallAnswer
from app.domain.errors import CancelledError, GatewayError
from app.domain.judging import language_objection, numbered_sentences
from app.domain.language import language_name
from app.domain.plan import ExpectedOutput, PlannedTask, ProducedBy
from app.domain.ports import ModelCaller
from app.domain.prose import json_text, loops, without_cut_end
from app.domain.structured import strip_thinking
from app.services.ask import Ask, Means, tell
from app.services.context import RunContext
from app.services.models import redo_models, worker_models
from app.services.prompts import Prompt, Prompts, fitted, material

OUTPUT_TOKENS = {"S": 800, "M": 2_000, "L": 5_000}
TOKENS_PER_WORD = 3
"""Room per word of the asked length; Vietnamese needs most of it."""
OUTPUT_TOKENS_MIN = 200
TINY_OUTPUT_TOKENS = 110
TINY_INPUT_SENTENCES = 2
PROMPT_TOKENS = 1_500
"""Kept free for everything of the prompt that is not an input."""
PREVIOUS_CHARS_MAX = 20_000
TINY_FEEDBACK_CHARS_MAX = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Worked:
    """An artifact and how it came about."""

    artifact: str
    produced_by: ProducedBy
    answers: tuple[CallAnswer, ...]
    """At least one; the last made the artifact."""
    notes: tuple[str, ...] = ()
    prompt_version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    context: RunContext
    task: PlannedTask
    inputs: Mapping[str, str]
    attempt: int
    feedback: tuple[str, ...]
    models: tuple[str, ...]
    model: ModelInfo
    """The first of ``models``."""
    previous: str = ""
    """The artifact that is to be redone."""
    part: str = ""
    avoid_accounts: tuple[str, ...] = ()


class Worker:
    """Does tasks of one run; remembers the last artifact of each for its redo.

    Args:
        caller: The way to the models.
        orchestra: The configuration.
        prompts: The templates.
    """

    def __init__(self, caller: ModelCaller, orchestra: Orchestra, prompts: Prompts) -> None:
        self._means = Means(caller=caller, orchestra=orchestra, prompts=prompts)
        self._last: dict[str, Worked] = {}

    async def work(
        self,
        context: RunContext,
        task: PlannedTask,
        inputs: Mapping[str, str],
        attempt: int = 1,
        feedback: Sequence[str] = (),
    ) -> Worked:
        """Do ``task``.

        Args:
            context: The run.
            task: What to do.
            inputs: Artifacts by the id of the task that made them.
            attempt: From 1; later ones are redone with ``feedback``.
            feedback: What the judge objected to.

        Raises:
            GatewayError: no model could be asked.
        """
        models = redo_models(self._means.orchestra, worker_models(self._means.orchestra, task), attempt)
        last = self._last.get(task.id) if attempt > 1 else None
        job = _Job(
            context=context,
            task=task,
            inputs=inputs,
            attempt=attempt,
            feedback=tuple(feedback),
            models=models,
            model=self._means.model(models[0]),
            previous=last.artifact if last else "",
            # Somebody else first, if there is somebody: the same again is the least likely to help.
            avoid_accounts=(last.answers[-1].account,) if last else (),
        )
        worked = await self._done(job)
        problem = _problem(job, worked.artifact)
        if problem is not None:
            worked = await self._done_again(job, worked, problem)
        self._last[task.id] = worked
        return worked

    async def _done(self, job: _Job) -> Worked:
        ask = self._ask(job)
        told = await tell(self._means, job.context, ask)
        text = strip_thinking(told.text).strip()
        notes = list(told.notes)
        produced_by: ProducedBy = "model"
        if told.truncated:
            text = without_cut_end(text)
            if job.model.tier is not Tier.TINY:  # the embedded model's texts always end like that
                notes.append(f"{job.task.id}: the result was cut off at its token limit")
        if job.task.expected_output.format == "json":
            text, repaired = json_text(text)
            produced_by = "repaired" if repaired else "model"
        return Worked(
            artifact=text,
            produced_by=produced_by,
            answers=tuple(told.answers),
            notes=tuple(notes),
            prompt_version=ask.prompt.version,
        )

    async def _done_again(self, job: _Job, first: Worked, problem: str) -> Worked:
        """Try once more where the text goes round in circles or is in the wrong language."""
        name = job.task.id
        if job.model.tier is Tier.TINY and not loops(first.artifact):
            # Measured: it writes no language but English, however often it is asked.
            return replace(first, notes=(*first.notes, f"{name}: {problem}"))
        line = f"{problem}; write all of it in {language_name(job.context.language)}"
        again = replace(job, part="again", previous=first.artifact, feedback=(*job.feedback, line))
        try:
            second = await self._done(again)
        except CancelledError:
            raise
        except GatewayError as error:
            note = f"{name}: {problem}; a second try failed: {error.message}"
            return replace(first, notes=(*first.notes, note))
        left = _problem(job, second.artifact)
        notes = [*first.notes, *second.notes, f"{name}: asked again, because {problem}"]
        if left is not None:
            notes.append(f"{name}: {left}, also after a second try")
        return replace(second, answers=(*first.answers, *second.answers), notes=tuple(notes))

    def _ask(self, job: _Job) -> Ask:
        expected = job.task.expected_output
        room = OUTPUT_TOKENS[job.task.effort]
        if expected.max_words:
            room = max(OUTPUT_TOKENS_MIN, expected.max_words * TOKENS_PER_WORD)
        if job.model.tier is Tier.TINY:
            room = TINY_OUTPUT_TOKENS
        enforces = job.model.structured is not StructuredOutput.NONE
        return Ask(
            purpose="task",
            models=job.models,
            prompt=self._prompt(job, room),
            output_tokens=room,
            task_id=job.task.id,
            attempt=job.attempt,
            part=job.part,
            creative=True,
            json_object=expected.format == "json" and enforces,
            seed=job.attempt * 10 + (1 if job.part else 0),
            avoid_accounts=job.avoid_accounts,
        )

    def _prompt(self, job: _Job, room: int) -> Prompt:
        template = self._means.prompts.get("redo" if job.previous else "worker", job.model)
        if job.model.tier is Tier.TINY:
            return template.fill(_tiny_values(job))
        tokens = max(1_000, job.model.context_tokens - room - PROMPT_TOKENS)
        inputs = fitted(job.inputs, tokens)
        task = job.task
        return template.fill(
            {
                "title": task.title,
                "instruction": task.instruction,
                "out_of_scope": task.out_of_scope or "(nothing named)",
                "inputs": "\n".join(material(name, text) for name, text in inputs.items()) or "(none)",
                "expected": _expected(task.expected_output),
                "criteria": "\n".join(f"- {item.statement}" for item in task.criteria) or "- it does what is asked",
                "previous": material("previous", job.previous, chars_max=PREVIOUS_CHARS_MAX),
                "feedback": "\n".join(f"- {line}" for line in job.feedback) or "- none was given",
                "today": job.context.today,
                "language": language_name(job.context.language),
            }
        )


def _tiny_values(job: _Job) -> dict[str, str]:
    notes = [" ".join(numbered_sentences(text)[:TINY_INPUT_SENTENCES]) for text in job.inputs.values()]
    shown = "\n".join(note for note in notes if note)
    return {
        "instruction": job.task.instruction,
        "inputs": f"Notes:\n{shown}\n\n" if shown else "",
        "feedback": " ".join(job.feedback)[:TINY_FEEDBACK_CHARS_MAX],
    }


def _problem(job: _Job, artifact: str) -> str | None:
    if job.model.tier is Tier.TINY and loops(artifact):
        return "the text goes round in circles"
    return language_objection(job.task, artifact, request=job.context.request, language=job.context.language)


def _expected(expected: ExpectedOutput) -> str:
    pieces = [expected.format, expected.description]
    if expected.max_words:
        pieces.append(f"at most {expected.max_words} words")
    if expected.format == "json":
        pieces.append("one json object and nothing else")
    return ", ".join(piece for piece in pieces if piece)
