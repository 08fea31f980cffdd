"""Reads Anthropic Messages: whole ones, and streams of events.

Pure. Usage trap: ``input_tokens`` excludes both kinds of cached tokens, we include them; a stream's usage is
cumulative, and its last word counts. Unknown events and blocks are ignored, as the API asks its clients to do.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.domain.chat import ChatDelta, ChatRequest, ChatResult, FinishReason, Json, ToolCall, Usage
from app.domain.thinking import pack_signature, thinking_text
from app.providers.classify import classify_event, garbage, has_error
from app.providers.payload import as_count, as_list, as_object, as_text, dump_json, find_count, find_text, parse_json
from app.providers.sse import SseEvent
from app.providers.wire import estimated_usage, refuse_blank

_FINISH = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "pause_turn": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.CONTENT_FILTER,
}
_THINKING = ("thinking", "redacted_thinking")


def decode(body: Json, request: ChatRequest, provider: str, *, answer_tool: str | None) -> ChatResult:
    """Return the answer in a Message.

    Args:
        body: The Message.
        request: What was asked.
        provider: For error messages.
        answer_tool: The tool whose input is the answer's JSON text, where one was forced.

    Raises:
        UpstreamError: GARBAGE.
    """
    message = as_object(body)
    if not isinstance(message.get("content"), list):
        raise garbage(provider, "sent a message without content", billed=None)
    blocks = [as_object(block) for block in as_list(message.get("content"))]
    text = "".join(as_text(block.get("text")) for block in blocks if block.get("type") == "text")
    thinking = [block for block in blocks if block.get("type") in _THINKING]
    calls = [
        ToolCall(id=as_text(block.get("id")), name=as_text(block.get("name")), arguments=dump_json(block.get("input")))
        for block in blocks
        if block.get("type") == "tool_use"
    ]
    if answer_tool is not None:
        text += "".join(call.arguments for call in calls if call.name == answer_tool)
        calls = [call for call in calls if call.name != answer_tool]
    stop = as_text(message.get("stop_reason"))
    reasoning = thinking_text(thinking)
    return refuse_blank(
        ChatResult(
            text=text,
            reasoning=reasoning,
            reasoning_signature=pack_signature(thinking),
            tool_calls=tuple(calls),
            finish_reason=_finish(stop, has_tools=bool(calls)),
            usage=read_usage(as_object(message.get("usage"))) or estimated_usage(request, text, reasoning or ""),
            model=as_text(message.get("model")),
            provider_id=find_text(message.get("id")),
            refusal=_refusal(stop, as_object(message.get("stop_details"))),
            stop_sequence=find_text(message.get("stop_sequence")),
        ),
        request,
        provider,
    )


def read_usage(usage: dict[str, Json]) -> Usage | None:
    """Return a ``usage`` object under our definition; None where it does not say."""
    if find_count(usage.get("input_tokens")) is None or find_count(usage.get("output_tokens")) is None:
        return None
    read = as_count(usage.get("cache_read_input_tokens"))
    written = as_count(usage.get("cache_creation_input_tokens"))
    output = as_count(usage.get("output_tokens"))
    thinking = as_count(as_object(usage.get("output_tokens_details")).get("thinking_tokens"))
    return Usage(
        input_tokens=as_count(usage.get("input_tokens")) + read + written,
        output_tokens=output,
        cache_read_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=_kept_for_an_hour(as_object(usage.get("cache_creation")), written),
        reasoning_tokens=min(thinking, output),
    )


def _kept_for_an_hour(parts: dict[str, Json], written: int) -> int:
    """Return how much of what was written is kept for an hour, which costs more.

    The parts of a stream's beginning may come to less than what was written in the end: where any of it is for an hour,
    so may the rest be.
    """
    if not as_count(parts.get("ephemeral_1h_input_tokens")):
        return 0
    return max(0, written - as_count(parts.get("ephemeral_5m_input_tokens")))


def _finish(stop: str, *, has_tools: bool) -> FinishReason:
    finish = _FINISH.get(stop, FinishReason.STOP)
    # A forced tool that carried the JSON answer is no tool call to our reader.
    return FinishReason.STOP if finish is FinishReason.TOOL_CALLS and not has_tools else finish


def _refusal(stop: str, details: dict[str, Json]) -> str | None:
    if stop != "refusal":
        return None
    return find_text(details.get("explanation")) or find_text(details.get("category")) or "refused by the provider"


class AnthropicStream:
    """Decodes one stream of Messages events; implements ``wire.StreamDecoder``. Not thread-safe."""

    def __init__(self, request: ChatRequest, provider: str, *, answer_tool: str | None) -> None:
        self.began = False
        self.finished = False
        self._request = request
        self._provider = provider
        self._answer_tool = answer_tool
        self._blocks: dict[int, dict[str, Json]] = {}
        """Started blocks by the server's index, as received; thinking grows here for its signature."""
        self._tools: list[int] = []
        self._usage: dict[str, Json] = {}
        self._stop = ""
        self._stop_details: dict[str, Json] = {}
        self._stop_sequence: str | None = None
        self._signature: str | None = None
        """As last given."""
        self._model: str | None = None
        self._id: str | None = None
        self._texts: list[str] = []
        self._thoughts: list[str] = []

    @property
    def complete(self) -> bool:
        """True once the stop reason has come."""
        return bool(self._stop)

    def feed(self, event: SseEvent) -> Sequence[ChatDelta]:
        """See ``wire.StreamDecoder``."""
        body = as_object(parse_json(event.data)) if event.data.strip() else {}
        kind = as_text(body.get("type")) or event.name
        match kind:
            case "message_start":
                message = as_object(body.get("message"))
                self._model, self._id = find_text(message.get("model")), find_text(message.get("id"))
                self._update_usage(as_object(message.get("usage")))
            case "content_block_start":
                return self._start(as_count(body.get("index")), as_object(body.get("content_block")))
            case "content_block_delta":
                return self._extend(as_count(body.get("index")), as_object(body.get("delta")))
            case "content_block_stop":
                return self._sign(as_count(body.get("index")))
            case "message_delta":
                delta = as_object(body.get("delta"))
                self._stop = as_text(delta.get("stop_reason")) or self._stop
                self._stop_sequence = find_text(delta.get("stop_sequence")) or self._stop_sequence
                self._stop_details = as_object(delta.get("stop_details")) or self._stop_details
                self._update_usage(as_object(body.get("usage")))
            case "message_stop":
                self.finished = True
            case "error":
                raise classify_event(body, provider=self._provider, began=self.began)
            case _ if has_error(body):
                raise classify_event(body, provider=self._provider, began=self.began)
            case _:
                pass
        return ()

    def end(self) -> ChatDelta:
        """See ``wire.StreamDecoder``."""
        finish = _finish(self._stop, has_tools=bool(self._tools))
        text, thought = "".join(self._texts), "".join(self._thoughts)
        if not self._tools:
            refuse_blank(ChatResult(text=text, reasoning=thought, finish_reason=finish), self._request, self._provider)
        signature = self._packed()
        return ChatDelta(
            finish_reason=finish,
            stop_sequence=self._stop_sequence,
            usage=read_usage(self._usage) or estimated_usage(self._request, text, thought),
            # Once is enough, for clients that join what streams give them.
            reasoning_signature=signature if signature != self._signature else None,
            model=self._model,
            provider_id=self._id,
        )

    def _packed(self) -> str | None:
        return pack_signature(
            [block for _index, block in sorted(self._blocks.items()) if block.get("type") in _THINKING]
        )

    def _sign(self, index: int) -> list[ChatDelta]:
        """Give a thought's signature with its end, before what follows it."""
        if self._blocks.get(index, {}).get("type") not in _THINKING:
            return []
        self._signature = self._packed()
        return [ChatDelta(reasoning_signature=self._signature)] if self._signature else []

    def _update_usage(self, usage: dict[str, Json]) -> None:
        # Cumulative; a later event may leave fields out or set them to null.
        self._usage |= {name: value for name, value in usage.items() if value is not None}

    def _start(self, index: int, block: dict[str, Json]) -> list[ChatDelta]:
        self._blocks[index] = dict(block)
        self.began = True
        if block.get("type") == "tool_use" and block.get("name") != self._answer_tool:
            self._tools.append(index)
            tool_id, name = as_text(block.get("id")), as_text(block.get("name"))
            delta = ChatDelta(tool_index=len(self._tools) - 1, tool_id=tool_id, tool_name=name)
            # Without streamed fragments the input stands here as a whole.
            whole = as_object(block.get("input"))
            return [delta] if not whole else [delta, *self._arguments(index, dump_json(whole))]
        return [
            *self._text(as_text(block.get("text")) if block.get("type") == "text" else ""),
            *self._thought(as_text(block.get("thinking"))),
        ]

    def _extend(self, index: int, delta: dict[str, Json]) -> list[ChatDelta]:
        block = self._blocks.setdefault(index, {})
        self.began = True
        match delta.get("type"):
            case "text_delta":
                return self._text(as_text(delta.get("text")))
            case "thinking_delta":
                piece = as_text(delta.get("thinking"))
                block["thinking"] = as_text(block.get("thinking")) + piece
                return self._thought(piece)
            case "signature_delta":
                block["signature"] = as_text(block.get("signature")) + as_text(delta.get("signature"))
                return []
            case "input_json_delta":
                return self._arguments(index, as_text(delta.get("partial_json")))
            case _:
                return []

    def _arguments(self, index: int, piece: str) -> list[ChatDelta]:
        if index in self._tools:
            return [ChatDelta(tool_index=self._tools.index(index), tool_arguments=piece)] if piece else []
        return self._text(piece) if self._blocks[index].get("name") == self._answer_tool else []

    def _text(self, piece: str) -> list[ChatDelta]:
        self._texts.append(piece)
        return [ChatDelta(text=piece)] if piece else []

    def _thought(self, piece: str) -> list[ChatDelta]:
        self._thoughts.append(piece)
        return [ChatDelta(reasoning=piece)] if piece else []
