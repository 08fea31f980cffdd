"""Decides an answer before its first byte: scripted, echoed, made from a schema, or filler of a drawn length."""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass, replace

import orjson
from pydantic import JsonValue

from app.simulator.config import Distribution, Latency, OutputTokens, Profile, Reply, SimulatorConfig
from app.simulator.exchange import ChatRequest, Choice, Plan, Tool, ToolCall
from app.simulator.json_reading import JsonObject
from app.simulator.schema_instances import make_instance
from app.simulator.templates import Captures, Script, fill_json, fill_text
from app.simulator.tokens import count_tokens, cut_to_tokens, filler_text, filler_words


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What distinguishes one answer from an identical one."""

    number: int
    created_s: int
    key: str


class Composer:
    """Composes answers. The same seed and request text give the same words; latencies are drawn in order."""

    def __init__(self, config: SimulatorConfig, script: Script) -> None:
        self._config = config
        self._script = script
        self._latencies = random.Random(f"latency:{config.seed}")

    def compose(self, request: ChatRequest, stamp: Stamp) -> Plan:
        """Return the whole answer, already cut to the request's largest output."""
        profile = self._config.profile_of(request.model)
        found = self._script.find(request, stamp.key)
        reply, captures = found if found is not None else (Reply(), {})
        if reply.output_tokens is not None:
            profile = profile.model_copy(update={"output_tokens": reply.output_tokens})
        if reply.tokens_per_s is not None:
            profile = profile.model_copy(update={"tokens_per_s": reply.tokens_per_s})
        choices = tuple(
            fit(self._choice(request, reply, captures, profile, index), request.max_tokens)
            for index in range(request.n)
        )
        return Plan(
            request=request,
            choices=choices,
            profile=profile,
            latency_s=self.draw_latency(reply.latency or profile.latency),
            number=stamp.number,
            created_s=stamp.created_s,
        )

    def draw_latency(self, latency: Latency) -> float:
        """Return the time until the next answer's first byte, in seconds."""
        if latency.kind == "constant":
            return latency.mean_s
        drawn = draw(latency.kind, latency.mean_s, latency.sigma, (latency.min_s, latency.max_s), self._latencies)
        return min(max(drawn, latency.min_s), latency.max_s)

    def _choice(self, request: ChatRequest, reply: Reply, captures: Captures, profile: Profile, index: int) -> Choice:
        digest = hashlib.blake2b(f"{self._config.seed}:{index}:{request.text}".encode(errors="replace")).digest()
        chance = random.Random(int.from_bytes(digest[:8], "big"))
        choice = scripted(request, reply, captures) or self._generated(request, profile, chance)
        reasoning = "" if reply.reasoning is None else fill_text(reply.reasoning, captures)
        if reply.reasoning is None and profile.reasoning_tokens and not request.reasoning_off:
            reasoning = filler_text(profile.reasoning_tokens, chance)
        return replace(choice, reasoning=reasoning, finish=reply.finish_reason or choice.finish)

    def _generated(self, request: ChatRequest, profile: Profile, chance: random.Random) -> Choice:
        if self._config.default_reply == "echo":
            return Choice(text=request.last_text)
        if self._config.default_reply == "schema":
            tool = _called_tool(request)
            if tool is not None:
                return _call(tool, make_instance(tool.schema, chance))
            if request.schema is not None:
                return Choice(text=_dump(make_instance(request.schema, chance)))
            if request.json_object:
                return Choice(text=_dump({"answer": filler_words(4, chance)}))
        return Choice(text=filler_text(draw_tokens(profile.output_tokens, chance), chance))


def scripted(request: ChatRequest, reply: Reply, captures: Captures) -> Choice | None:
    """Return what a scripted reply says; None where it leaves the content to be generated."""
    calls = tuple(
        ToolCall(name=call.name, arguments=_dump(fill_json(dict(call.arguments), captures, request.text)))
        for call in reply.tool_calls
    )
    text = "" if reply.text is None else fill_text(reply.text, captures)
    if reply.has_json:
        value = fill_json(reply.json_, captures, request.text)
        tool = request.forced_tool
        if tool is not None and not calls:
            return _call(tool, value)
        text = _dump(value)
    elif reply.text is None and not calls:
        return None
    return Choice(text=text, tool_calls=calls, finish="tool_calls" if calls else "stop")


def fit(choice: Choice, max_tokens: int | None) -> Choice:
    """Cut a choice to the largest output allowed: reasoning counts first, then text, then tool calls."""
    if max_tokens is None or choice.output_tokens <= max_tokens:
        return choice
    reasoning = cut_to_tokens(choice.reasoning, max_tokens)
    left = max_tokens - count_tokens(reasoning)
    text = cut_to_tokens(choice.text, left)
    left -= count_tokens(text)
    calls: list[ToolCall] = []
    for call in choice.tool_calls:
        arguments = cut_to_tokens(call.arguments, left)
        left -= count_tokens(arguments)
        if arguments:
            calls.append(replace(call, arguments=arguments))
    return Choice(reasoning=reasoning, text=text, tool_calls=tuple(calls), finish="length")


def draw_tokens(lengths: OutputTokens, chance: random.Random) -> int:
    """Return a reply's length in tokens."""
    if lengths.kind == "constant":
        return max(1, round(lengths.mean))
    drawn = draw(lengths.kind, lengths.mean, lengths.sigma, (lengths.min, lengths.max), chance)
    return min(max(round(drawn), lengths.min), lengths.max)


def draw(kind: Distribution, mean: float, sigma: float, bounds: tuple[float, float], chance: random.Random) -> float:
    """Draw from a distribution with this mean; ``uniform`` draws between the bounds instead."""
    match kind:
        case "uniform":
            return chance.uniform(*bounds)
        case "exponential":
            return chance.expovariate(1 / mean) if mean > 0 else 0.0
        case "lognormal":
            # The mean of a lognormal is exp(mu + sigma^2 / 2).
            return chance.lognormvariate(math.log(mean) - sigma * sigma / 2, sigma) if mean > 0 else 0.0
        case "constant":
            return mean


def _called_tool(request: ChatRequest) -> Tool | None:
    """Return the tool a willing model would call: the forced one, else the first, until it has its result."""
    if request.forced_tool is not None:
        return request.forced_tool
    if request.tool_choice == "auto" and request.tools and not request.answers_tool:
        return request.tools[0]
    return None


def _call(tool: Tool, value: JsonValue) -> Choice:
    arguments: JsonObject = value if isinstance(value, dict) else {"value": value}
    return Choice(tool_calls=(ToolCall(name=tool.name, arguments=_dump(arguments)),), finish="tool_calls")


def _dump(value: JsonValue) -> str:
    return orjson.dumps(value).decode()
