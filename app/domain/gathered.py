"""A streamed answer put together again: the inverse of ``response_cache.replay``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from app.domain.chat import NO_USAGE, ChatDelta, ChatResult, FinishReason, ToolCall, Usage


@dataclass(slots=True)
class _Tool:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    signature: str | None = None


@dataclass(slots=True)
class _Choice:
    texts: list[str] = field(default_factory=list)
    reasonings: list[str] = field(default_factory=list)
    reasoning_signature: str | None = None
    tools: dict[int, _Tool] = field(default_factory=dict)
    finish_reason: FinishReason | None = None
    stop_sequence: str | None = None

    def add(self, delta: ChatDelta) -> None:
        if delta.text:
            self.texts.append(delta.text)
        if delta.reasoning:
            self.reasonings.append(delta.reasoning)
        self.reasoning_signature = delta.reasoning_signature or self.reasoning_signature
        if delta.tool_index is not None:
            tool = self.tools.setdefault(delta.tool_index, _Tool())
            tool.id, tool.name = delta.tool_id or tool.id, delta.tool_name or tool.name
            tool.arguments.append(delta.tool_arguments)
            tool.signature = delta.tool_signature or tool.signature
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.stop_sequence = delta.stop_sequence or self.stop_sequence

    def result(self, finish_reason: FinishReason) -> ChatResult:
        return ChatResult(
            text="".join(self.texts),
            reasoning="".join(self.reasonings) or None,
            reasoning_signature=self.reasoning_signature,
            tool_calls=tuple(
                ToolCall(id=tool.id, name=tool.name, arguments="".join(tool.arguments), signature=tool.signature)
                for _index, tool in sorted(self.tools.items())
            ),
            finish_reason=finish_reason,
            stop_sequence=self.stop_sequence,
        )


class Gathered:
    """Takes the deltas of one answer as they come."""

    def __init__(self) -> None:
        self._choices: dict[int, _Choice] = {}
        self._usage: Usage = NO_USAGE
        self._model = ""
        self._provider_id: str | None = None

    def add(self, delta: ChatDelta) -> None:
        """Take the next one."""
        self._choices.setdefault(delta.choice, _Choice()).add(delta)
        self._usage = delta.usage or self._usage
        self._model = delta.model or self._model
        self._provider_id = delta.provider_id or self._provider_id

    def result(self) -> ChatResult | None:
        """Return the answer; None where a choice has not come to its end."""
        results = []
        for _index, choice in sorted(self._choices.items()):
            if choice.finish_reason is None:
                return None
            results.append(choice.result(choice.finish_reason))
        if not results:
            return None
        return replace(
            results[0],
            usage=self._usage,
            model=self._model,
            provider_id=self._provider_id,
            other_choices=tuple(results[1:]),
        )
