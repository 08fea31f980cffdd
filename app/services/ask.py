"""Asks models and walks the repair ladder (prompts.md section 6), so that no run ever dies on JSON.

Blank answers go to another account once, truncated ones are asked for again once with more room; what was read is
checked by schema and by the role's own rules; one repair call may change only what the problems name; last comes the
role's fallback. Every rung leaves a note. Called by the roles, one file each beside this one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, TypeVar

from app.domain.accounts import ModelInfo, Orchestra, StructuredOutput, Tier
from app.domain.calls import CallAnswer, ModelCall, Purpose
from app.domain.chat import ChatRequest, FinishReason, Json, Message, OutputSchema, Role
from app.domain.errors import CancelledError, GatewayError
from app.domain.plan import ProducedBy
from app.domain.ports import ModelCaller
from app.domain.schema_check import Problem
from app.domain.structured import Reading, is_blank, numbered, read, strip_thinking, touched_elsewhere, unsupported
from app.services.context import RunContext
from app.services.models import transcriber
from app.services.prompts import Prompt, Prompts, material

Value = TypeVar("Value")

REASONING_TOKENS = 8_000
"""Room for thinking on top of the answer, with a reasoning model."""
LONGER = 3
"""A truncated answer is asked for again with this many times the room."""
REPAIR_OUTPUT_TOKENS = 8_000
CONTENT_CHARS_MIN = 25
"""Strings this long are content: a repair of something unreadable may not contain any that the source does not."""
SOURCE_CHARS_MAX = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What every role works with."""

    caller: ModelCaller
    orchestra: Orchestra
    prompts: Prompts

    def model(self, name: str) -> ModelInfo:
        """Return what is known of the model of that name; raises KeyError."""
        return self.orchestra.model(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One thing to ask, of any of some models."""

    purpose: Purpose
    models: tuple[str, ...]
    """Public names, best first; the first decides form and sampling."""
    prompt: Prompt
    output_tokens: int
    """Room for the answer itself; thinking is added where the model thinks."""
    task_id: str | None = None
    attempt: int = 1
    part: str = ""
    """Tells calls of one purpose and attempt apart, in their ids."""
    creative: bool = False
    """Prose rather than JSON or verdicts: decides the sampling."""
    json_object: bool = False
    """Hold prose to being some JSON object, where no schema is known."""
    seed: int | None = None
    avoid_accounts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted(Generic[Value]):
    """A value that the role can use."""

    value: Value
    notes: tuple[str, ...] = ()
    repaired: bool = False
    """Code had to put something right that the model meant otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """What stands against a value."""

    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted(Generic[Value]):
    """The value that is wanted, how it is checked, and what is taken where no model gives it."""

    name: str
    schema: dict[str, Json]
    accept: Callable[[Json], Accepted[Value] | Rejected]
    fallback: Callable[[], Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Structured(Generic[Value]):
    """A value and how it came about."""

    value: Value
    produced_by: ProducedBy
    answers: tuple[CallAnswer, ...]
    notes: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Told:
    """What a model said, over at most three calls."""

    text: str
    reasoning: str | None
    truncated: bool
    answers: list[CallAnswer]
    notes: list[str] = field(default_factory=list)


def model_call(means: Means, context: RunContext, ask: Ask, wanted: OutputSchema | None = None) -> ModelCall:
    """Return the call that puts ``ask``, with the answer held to ``wanted`` as far as its first model can."""
    model = means.model(ask.models[0])
    messages = ask.prompt.messages
    output: OutputSchema | Literal["json_object"] | None = wanted or ("json_object" if ask.json_object else None)
    if wanted is not None and model.structured is not StructuredOutput.SCHEMA:
        # The word json and the schema must then stand in the prompt itself.
        messages = _with_schema(messages, wanted.schema)
        output = "json_object" if model.structured is StructuredOutput.JSON_OBJECT else None
    temperature, extra = _sampling(model, ask)
    room = ask.output_tokens + (REASONING_TOKENS if model.reasoning else 0)
    return ModelCall(
        call_id="/".join(
            piece for piece in (context.run_id, ask.task_id or "run", ask.purpose, str(ask.attempt), ask.part) if piece
        ),
        run_id=context.run_id,
        purpose=ask.purpose,
        task_id=ask.task_id,
        attempt=ask.attempt,
        models=ask.models,
        request=ChatRequest(
            model=model.name,
            messages=messages,
            output_tokens_max=min(room, model.output_tokens_max),
            temperature=temperature,
            seed=ask.seed if model.tier is Tier.TINY else None,
            output=output,
            extra=extra,
        ),
        rank_s=context.rank_s(ask.task_id),
        deadline_s=context.seconds_left(),
        avoid_accounts=ask.avoid_accounts,
    )


async def tell(means: Means, context: RunContext, ask: Ask, wanted: OutputSchema | None = None) -> Told:
    """Ask, with the rungs that need no reading: blank goes elsewhere once, truncated gets more room once.

    Raises:
        GatewayError: the first call failed. A rung that fails leaves what there was, with a note.
    """
    call = model_call(means, context, ask, wanted)
    answer = await means.caller.call(call)
    told = _told(answer)
    model = means.model(ask.models[0])
    if told.truncated and model.tier is not Tier.TINY:
        room = min((call.request.output_tokens_max or 0) * LONGER, model.output_tokens_max)
        if room > (call.request.output_tokens_max or 0):
            longer = replace(call.request, output_tokens_max=room)
            told = await _again(means, context, told, replace(call, request=longer), "longer")
            told.notes.insert(0, f"the {ask.purpose} answer was cut off; asked again with room for {room} tokens")
    if is_blank(told.text) and not told.reasoning and not told.truncated:
        elsewhere = replace(call, avoid_accounts=(*call.avoid_accounts, answer.account))
        told = await _again(means, context, told, elsewhere, "blank")
        told.notes.insert(0, f"the {ask.purpose} answer was blank; asked another account")
    return told


async def ask_structured(means: Means, context: RunContext, ask: Ask, wanted: Wanted[Value]) -> Structured[Value]:
    """Ask for a value and return one, whatever the models do.

    Raises:
        GatewayError: no model answered at all.
    """
    output = OutputSchema(name=wanted.name, schema=wanted.schema)
    told = await tell(means, context, ask, output)
    reading, problems, done = _judged(told, wanted)
    if done is not None:
        return done
    notes = [*told.notes, *reading.notes, f"the {ask.purpose} answer had {len(problems)} problems: {problems[0]}"]
    mended = await _mended(means, context, ask, wanted, told, reading, problems, notes)
    if mended is not None:
        return mended
    notes.append(f"the {ask.purpose} answer could not be used; code's fallback took its place")
    return Structured(value=wanted.fallback(), produced_by="fallback", answers=tuple(told.answers), notes=tuple(notes))


async def all_or_none(works: Sequence[Coroutine[Any, Any, Value]]) -> list[Value]:
    """Return the results of ``works``, done at once; the first failure cancels the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _judged(told: Told, wanted: Wanted[Value]) -> tuple[Reading, Sequence[Problem], Structured[Value] | None]:
    reading = read(told.text, told.reasoning, wanted.schema)
    if not reading.good:
        return reading, reading.problems, None
    verdict = wanted.accept(reading.value)
    if isinstance(verdict, Rejected):
        return reading, verdict.problems, None
    repaired = reading.repaired or verdict.repaired
    notes = [*told.notes, *reading.notes, *verdict.notes]
    if told.truncated:
        notes.append("the answer was cut off; what was there is complete enough to use")
        repaired = True
    done = Structured(
        value=verdict.value,
        produced_by="repaired" if repaired else "model",
        answers=tuple(told.answers),
        notes=tuple(notes),
    )
    return reading, (), done


async def _mended(  # noqa: PLR0913  one rung of the ladder with everything known so far
    means: Means,
    context: RunContext,
    ask: Ask,
    wanted: Wanted[Value],
    told: Told,
    reading: Reading,
    problems: Sequence[Problem],
    notes: list[str],
) -> Structured[Value] | None:
    """Make the one repair call; None where it fails or changes more than the problems name."""
    tiny = means.model(ask.models[0]).tier is Tier.TINY
    if tiny:
        # It cannot repair anything; another seed is the changed ingredient.
        again = replace(ask, part=f"{ask.part}seed2", seed=(ask.seed or 0) + 101)
    else:
        again = _repair_ask(means, ask, wanted, told, reading, problems)
    try:
        call = model_call(means, context, again, OutputSchema(name=wanted.name, schema=wanted.schema))
        answer = await means.caller.call(call)
    except CancelledError:
        raise
    except GatewayError as error:
        notes.append(f"the repair call failed: {error.message}")
        return None
    told.answers.append(answer)
    second = replace(_told(answer), answers=told.answers)
    mended, left, done = _judged(second, wanted)
    if done is None:
        notes.append(f"after the repair call there still were {len(left)} problems: {left[0]}")
        return None
    if tiny:
        return replace(done, notes=(*notes, *done.notes))
    strayed = _strayed(reading, mended, told, problems)
    if strayed:
        notes.append(f"the repair call changed {strayed[0]}, which no problem names; it was rejected")
        return None
    return replace(done, produced_by="repaired", notes=(*notes, *done.notes, "a repair call put it right"))


def _strayed(before: Reading, after: Reading, told: Told, problems: Sequence[Problem]) -> list[str]:
    if before.found:
        return touched_elsewhere(before.value, after.value, problems)
    return unsupported(after.value, f"{told.text}\n{told.reasoning or ''}", chars_min=CONTENT_CHARS_MIN)


def _repair_ask(
    means: Means, ask: Ask, wanted: Wanted[Value], told: Told, reading: Reading, problems: Sequence[Problem]
) -> Ask:
    source = (
        json.dumps(reading.value, ensure_ascii=False, indent=1)
        if reading.found
        else strip_thinking(told.text) or told.reasoning or ""
    )
    model = transcriber(means.orchestra)
    prompt = means.prompts.get("repair", model).fill(
        {
            "source": material("source", source, chars_max=SOURCE_CHARS_MAX),
            "problems": numbered(problems),
        }
    )
    return Ask(
        purpose="repair",
        models=(model.name,),
        prompt=prompt,
        output_tokens=REPAIR_OUTPUT_TOKENS,
        task_id=ask.task_id,
        attempt=ask.attempt,
        part=f"{ask.purpose}{ask.part}",
    )


async def _again(means: Means, context: RunContext, told: Told, call: ModelCall, rung: str) -> Told:
    try:
        answer = await means.caller.call(
            replace(call, call_id=f"{call.call_id}/{rung}", deadline_s=context.seconds_left())
        )
    except CancelledError:
        raise
    except GatewayError as error:
        told.notes.append(f"that failed too: {error.message}")
        return told
    second = _told(answer)
    second.answers, second.notes = [*told.answers, answer], told.notes
    return second


def _told(answer: CallAnswer) -> Told:
    return Told(
        text=answer.result.text,
        reasoning=answer.result.reasoning,
        truncated=answer.result.finish_reason is FinishReason.LENGTH,
        answers=[answer],
    )


def _with_schema(messages: tuple[Message, ...], schema: dict[str, Json]) -> tuple[Message, ...]:
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    last = messages[-1]
    assert last.role is Role.USER
    more = f"{last.text}\n\nAnswer with one json object of this JSON schema and nothing else:\n{text}"
    return (*messages[:-1], replace(last, text=more))


def _sampling(model: ModelInfo, ask: Ask) -> tuple[float | None, tuple[tuple[str, str], ...]]:
    """Return temperature and provider fields; reasoning models refuse or ignore them."""
    if model.tier is Tier.TINY:
        # Measured: penalties keep prose from looping and keep JSON from being copied right.
        return (0.3, (("repeat_penalty", "1.1"), ("repeat_last_n", "64"))) if ask.creative else (0.2, ())
    return (None if model.reasoning or ask.creative else 0.0), ()
