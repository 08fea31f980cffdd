"""Reads chat-completions answers: whole ones, and streams of chunks.

Pure. Lenient where compatible servers differ (usage on the last content chunk, tool calls without an index, arguments
as objects, reasoning under two names or inside think tags), strict about a blank or broken answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from app.domain.chat import NO_USAGE, ChatDelta, ChatRequest, ChatResult, FinishReason, Json, ToolCall, Usage
from app.domain.errors import UpstreamError, UpstreamKind
from app.providers.classify import classify_event, garbage, has_error
from app.providers.payload import as_count, as_list, as_object, as_text, dump_json, find_count, find_text, parse_json
from app.providers.sse import SseEvent
from app.providers.think_tags import ThinkSplitter
from app.providers.wire import estimated_usage, refuse_blank

_FINISH = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
}
_BROKEN_FINISH = ("insufficient_system_resource", "error")
"""The provider gave up in the middle (DeepSeek, OpenRouter)."""


def decode(body: Json, request: ChatRequest, provider: str) -> ChatResult:
    """Return the answer in a ``chat.completion`` object.

    Raises:
        UpstreamError: GARBAGE, or OVERLOADED where the provider gave up in the middle.
    """
    fields = as_object(body)
    choices = sorted(map(as_object, as_list(fields.get("choices"))), key=lambda choice: as_count(choice.get("index")))
    if not choices:
        raise garbage(provider, "sent an answer without choices", billed=None)
    others = tuple(_choice(choice, provider) for choice in choices[1:])
    usage = read_usage(fields.get("usage"))
    first = _choice(choices[0], provider, answer=fields, usage=usage or NO_USAGE, others=others)
    if usage is None:
        texts = [part for result in (first, *others) for part in (result.text, result.reasoning or "")]
        first = replace(first, usage=estimated_usage(request, *texts))
    return refuse_blank(first, request, provider)


def read_usage(value: Json) -> Usage | None:
    """Return a ``usage`` object under our definition; None where there is none."""
    usage = as_object(value)
    prompt, completion = find_count(usage.get("prompt_tokens")), find_count(usage.get("completion_tokens"))
    if prompt is None or completion is None:
        return None
    inputs, outputs = as_object(usage.get("prompt_tokens_details")), as_object(usage.get("completion_tokens_details"))
    cached = find_count(inputs.get("cached_tokens"))
    if cached is None:
        cached = as_count(usage.get("prompt_cache_hit_tokens"))
    reasoning = as_count(outputs.get("reasoning_tokens"))
    # Some compatible servers leave reasoning out of completion_tokens; the total gives them away.
    if reasoning and find_count(usage.get("total_tokens")) == prompt + completion + reasoning:
        completion += reasoning
    return Usage(
        input_tokens=prompt,
        output_tokens=completion,
        cache_read_tokens=min(cached, prompt),
        cache_write_tokens=min(as_count(inputs.get("cache_write_tokens")), prompt),
        reasoning_tokens=min(reasoning, completion),
    )


def read_finish(value: Json, provider: str, *, has_tools: bool) -> FinishReason | None:
    """Return the finish reason; None where there is none yet. Unknown ones of compatible servers read as stop.

    Raises:
        UpstreamError: OVERLOADED, the provider gave up.
    """
    name = find_text(value)
    if name is None:
        return None
    if name in _BROKEN_FINISH:
        raise UpstreamError(
            f"{provider} gave up in the middle of its answer", kind=UpstreamKind.OVERLOADED, billed=True
        )
    finish = _FINISH.get(name, FinishReason.STOP)
    return FinishReason.TOOL_CALLS if has_tools and finish is FinishReason.STOP else finish


_NOTHING: dict[str, Json] = {}


def _choice(
    choice: dict[str, Json],
    provider: str,
    *,
    answer: dict[str, Json] = _NOTHING,
    usage: Usage = NO_USAGE,
    others: tuple[ChatResult, ...] = (),
) -> ChatResult:
    """Return one choice; the first carries what is said of the whole ``answer``."""
    message = as_object(choice.get("message"))
    splitter = ThinkSplitter()
    thought, text = splitter.feed(_content(message.get("content")))
    late_thought, late_text = splitter.end()
    calls = tuple(_tool_call(index, call) for index, call in enumerate(as_list(message.get("tool_calls"))))
    finish = read_finish(choice.get("finish_reason"), provider, has_tools=bool(calls)) or FinishReason.STOP
    refusal = find_text(message.get("refusal"))
    return ChatResult(
        text=text + late_text,
        reasoning=_reasoning(message) or thought + late_thought or None,
        tool_calls=calls,
        finish_reason=FinishReason.CONTENT_FILTER if refusal and finish is FinishReason.STOP else finish,
        usage=usage,
        model=as_text(answer.get("model")),
        provider_id=find_text(answer.get("id")),
        refusal=refusal,
        other_choices=others,
    )


def _content(value: Json) -> str:
    if isinstance(value, list):
        # Some servers send parts, as in requests.
        return "".join(as_text(as_object(part).get("text")) for part in value)
    return as_text(value)


def _reasoning(message: dict[str, Json]) -> str | None:
    return find_text(message.get("reasoning_content")) or find_text(message.get("reasoning"))


def _arguments(value: Json) -> str:
    return value if isinstance(value, str) else "" if value is None else dump_json(value)


def _tool_call(index: int, value: Json) -> ToolCall:
    call = as_object(value)
    function = as_object(call.get("function"))
    return ToolCall(
        id=as_text(call.get("id")) or f"call_{index}",
        name=as_text(function.get("name")),
        arguments=_arguments(function.get("arguments")),
        signature=_signature(call),
    )


def _signature(call: dict[str, Json]) -> str | None:
    """Return Gemini's thought signature, which its OpenAI mode hides in ``extra_content``."""
    google = as_object(as_object(call.get("extra_content")).get("google"))
    return find_text(google.get("thought_signature"))


@dataclass(slots=True)
class _ChoiceState:
    splitter: ThinkSplitter = field(default_factory=ThinkSplitter)
    finish: FinishReason | None = None
    tool_ids: list[str] = field(default_factory=list)
    slots: dict[int, int] = field(default_factory=dict)
    """Our tool index by the server's."""


class OpenAIStream:
    """Decodes one stream of ``chat.completion.chunk`` objects; implements ``wire.StreamDecoder``. Not thread-safe."""

    def __init__(self, request: ChatRequest, provider: str) -> None:
        self.began = False
        self.finished = False
        self._request = request
        self._provider = provider
        self._choices: dict[int, _ChoiceState] = {}
        self._usage: Usage | None = None
        self._model: str | None = None
        self._id: str | None = None
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._refused = False
        self._tools = False

    @property
    def complete(self) -> bool:
        """True once every choice has its finish reason."""
        seen = [state.finish is not None for state in self._choices.values()]
        return len(seen) >= self._request.choices and all(seen)

    def feed(self, event: SseEvent) -> Sequence[ChatDelta]:
        """See ``wire.StreamDecoder``."""
        data = event.data.strip()
        if data == "[DONE]":
            self.finished = True
            return ()
        if not data:
            return ()
        chunk = as_object(parse_json(data))
        if has_error(chunk) or event.name == "error":
            raise classify_event(chunk, provider=self._provider, began=self.began)
        usage = chunk.get("usage")
        if usage is not None:
            self._usage = read_usage(usage) or self._usage
        self._model = find_text(chunk.get("model")) or self._model
        self._id = find_text(chunk.get("id")) or self._id
        choices = as_list(chunk.get("choices"))
        if len(choices) == 1:
            return self._choice(as_object(choices[0]))
        return [delta for choice in choices for delta in self._choice(as_object(choice))]

    def end(self) -> ChatDelta:
        """See ``wire.StreamDecoder``."""
        finish = self._state(0).finish or (FinishReason.TOOL_CALLS if self._tools else FinishReason.STOP)
        if self._refused and finish is FinishReason.STOP:
            finish = FinishReason.CONTENT_FILTER
        text, thought = "".join(self._texts), "".join(self._thoughts)
        if not self._tools:
            refuse_blank(ChatResult(text=text, reasoning=thought, finish_reason=finish), self._request, self._provider)
        return ChatDelta(
            finish_reason=finish,
            usage=self._usage or estimated_usage(self._request, text, thought),
            model=self._model,
            provider_id=self._id,
        )

    def _state(self, index: int) -> _ChoiceState:
        state = self._choices.get(index)
        if state is None:
            state = self._choices[index] = _ChoiceState()
        return state

    def _choice(self, choice: dict[str, Json]) -> list[ChatDelta]:
        index = as_count(choice.get("index"))
        state = self._state(index)
        # The last chunk of some servers repeats the message; only deltas are read.
        delta = as_object(choice.get("delta"))
        thought, text = state.splitter.feed(_content(delta.get("content")))
        calls = as_list(delta.get("tool_calls"))
        tools = self._tool_deltas(index, state, calls) if calls else []
        finish = read_finish(choice.get("finish_reason"), self._provider, has_tools=bool(state.tool_ids))
        if finish is not None:
            late_thought, late_text = state.splitter.end()
            thought, text = thought + late_thought, text + late_text
            state.finish = finish
        refusal = as_text(delta.get("refusal"))
        if refusal:
            self._refused = True
            text += refusal
        thought = (_reasoning(delta) or "") + thought
        deltas = []
        if text or thought:
            deltas.append(ChatDelta(text=text, reasoning=thought, choice=index))
            self._texts.append(text)
            self._thoughts.append(thought)
        deltas += tools
        if finish is not None and index > 0:
            deltas.append(ChatDelta(finish_reason=finish, choice=index))
        self.began = self.began or bool(deltas)
        return deltas

    def _tool_deltas(self, index: int, state: _ChoiceState, calls: Sequence[Json]) -> list[ChatDelta]:
        deltas = []
        for position, call in enumerate(map(as_object, calls)):
            function = as_object(call.get("function"))
            call_id, name = find_text(call.get("id")), find_text(function.get("name"))
            slot = self._slot(state, find_count(call.get("index")), call_id, name, position)
            first = slot == len(state.tool_ids)
            if first:
                state.tool_ids.append(call_id or f"call_{slot}")
            self._tools = True
            deltas.append(
                ChatDelta(
                    tool_index=slot,
                    tool_id=state.tool_ids[slot] if first else None,
                    tool_name=name if first else None,
                    tool_arguments=_arguments(function.get("arguments")),
                    tool_signature=_signature(call),
                    choice=index,
                )
            )
        return deltas

    def _slot(
        self, state: _ChoiceState, index: int | None, call_id: str | None, name: str | None, position: int
    ) -> int:
        """Return our index of the call that a fragment extends: a new one for a new id, whatever the server's index."""
        index = position if index is None else index
        known = state.slots.get(index)
        if known is None or (call_id and name and call_id != state.tool_ids[known]):
            state.slots[index] = known = len(state.tool_ids)
        return known
