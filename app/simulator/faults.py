"""Decides which request is hit by which fault, and what a content fault does to an answer."""

from __future__ import annotations

import random
from dataclasses import replace

import orjson

from app.simulator.compose import fit
from app.simulator.config import Fault, FaultKind
from app.simulator.exchange import ChatRequest, Choice, Plan
from app.simulator.tokens import filler_text

FAILING: frozenset[FaultKind] = frozenset(
    {"cut_stream", "cut_before_first", "reset", "garbage_json", "error_event", "bill_then_500", "accept_then_drop",
     "dead_key", "no_balance", "too_long", "no_resources"}
)  # fmt: skip
"""Faults after which the client has no usable answer, beside the ``http_`` ones."""

_THOUGHT_TOKENS = 20


def status_of(kind: FaultKind) -> int | None:
    """Return the status of an ``http_`` fault."""
    return int(kind.removeprefix("http_")) if kind.startswith("http_") else None


def is_failing(kind: FaultKind) -> bool:
    """Whether the client gets no usable answer."""
    return kind in FAILING or kind.startswith("http_")


class FaultBox:
    """The configured faults and how often each has matched. Only admitted requests are shown to it."""

    def __init__(self, faults: tuple[Fault, ...], seed: int) -> None:
        self._faults = faults
        self._matched = [0] * len(faults)
        self._chance = random.Random(f"faults:{seed}")

    def choose(self, request: ChatRequest, key: str, elapsed_s: float) -> Fault | None:
        """Return the first fault that matches and is due; a fault that matches but is not due lets the next one try."""
        for index, fault in enumerate(self._faults):
            if not _matches(fault, request, key):
                continue
            if fault.between_s is not None and not fault.between_s[0] <= elapsed_s < fault.between_s[1]:
                continue
            self._matched[index] += 1
            if self._due(fault, self._matched[index]):
                return fault
        return None

    def _due(self, fault: Fault, count: int) -> bool:
        if fault.every is not None:
            return count % fault.every == 0
        if fault.first is not None:
            return count <= fault.first
        return fault.probability is None or self._chance.random() < fault.probability


def _matches(fault: Fault, request: ChatRequest, key: str) -> bool:
    wanted = fault.match
    exact = (
        (wanted.key, key),
        (wanted.model, request.model),
        (wanted.format, request.format),
        (wanted.stream, request.stream),
    )
    if any(want is not None and want != have for want, have in exact):
        return False
    return wanted.contains is None or wanted.contains in request.text


def altered(plan: Plan, kind: FaultKind) -> Plan:
    """Return the answer that a content fault leaves; the same plan where the fault is not about content."""
    change = {
        "blank_content": _blank,
        "truncated_json": _truncated,
        "think_tags": _thinking_aloud,
        "prose_json": _in_prose,
        "no_resources": _interrupted,
    }.get(kind)
    if change is None:
        return plan
    return replace(plan, choices=tuple(fit(change(choice), plan.request.max_tokens) for choice in plan.choices))


def _blank(choice: Choice) -> Choice:
    return Choice(reasoning=choice.reasoning)


def _truncated(choice: Choice) -> Choice:
    """Half of the content, with a finish reason that claims it is whole."""
    calls = tuple(replace(call, arguments=call.arguments[: len(call.arguments) // 2]) for call in choice.tool_calls)
    return replace(choice, text=choice.text[: (len(choice.text) + 1) // 2], tool_calls=calls)


def _interrupted(choice: Choice) -> Choice:
    """Half of the content, as DeepSeek ends when it runs out of machines."""
    return replace(_truncated(choice), finish="insufficient_system_resource")


def _thinking_aloud(choice: Choice) -> Choice:
    thought = choice.reasoning or filler_text(_THOUGHT_TOKENS, random.Random(len(choice.text)))
    return replace(choice, reasoning="", text=f"<think>\n{thought}\n</think>\n\n{choice.text}")


def _in_prose(choice: Choice) -> Choice:
    text = f"Sure! Here is what you asked for:\n\n```json\n{choice.text}\n```\n\nLet me know if you need changes."
    calls = tuple(replace(call, arguments=orjson.dumps(call.arguments).decode()) for call in choice.tool_calls)
    return replace(choice, text=text if choice.text or not calls else "", tool_calls=calls)
