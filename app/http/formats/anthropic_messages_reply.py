"""Writes answers, streams and errors as Anthropic's Messages.

Thinking comes back as the blocks that the provider sent; reasoning of other providers as a thinking block without a
signature, Gemini's signatures as they are, and its signature of a call in ``signature`` of the ``tool_use`` block:
clients send all of them back as they came. Usage trap: ``input_tokens`` excludes cached tokens here. Called by
``anthropic_messages``.

Source: anthropic-sdk-python's ``Message`` and ``RawMessageStreamEvent``, as of 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from app.domain.chat import NO_USAGE, ChatDelta, ChatResult, FinishReason, Json, ToolCall, Usage
from app.domain.errors import UpstreamError, UpstreamKind
from app.domain.gateway import Served
from app.domain.thinking import thinking_blocks
from app.http.formats.anthropic_messages_content import BROKEN_JSON

PING = b'event: ping\ndata: {"type":"ping"}\n\n'
"""May stand anywhere in a stream; clients ignore it."""
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_NO_THINKING = b'"thinking":"","signature":""'
_DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":%b}}\n\n'
)
_FINISH = {
    FinishReason.STOP: "end_turn",
    FinishReason.LENGTH: "max_tokens",
    FinishReason.TOOL_CALLS: "tool_use",
    FinishReason.CONTENT_FILTER: "refusal",
}
_ERRORS = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def message(result: ChatResult, served: Served) -> dict[str, Json]:
    """Return a ``message`` object."""
    content = _thinking(result.reasoning, result.reasoning_signature)
    # A refusal in place of an answer is text; one by the provider's filter is a detail of why it stopped.
    said = result.text or (result.refusal if result.finish_reason is not FinishReason.CONTENT_FILTER else "")
    if said:
        content.append({"type": "text", "text": said})
    content += [_tool_use(call) for call in result.tool_calls]
    reason = _stop_reason(result.finish_reason, result.stop_sequence, has_calls=bool(result.tool_calls))
    if result.refusal is not None:
        reason = "refusal"
    body = {**_head(served), "content": content, "stop_reason": reason, "stop_sequence": result.stop_sequence}
    if result.refusal is not None:
        body["stop_details"] = {"type": "refusal", "category": None, "explanation": result.refusal}
    body["usage"] = usage_body(result.usage)
    return body


def usage_body(usage: Usage) -> dict[str, Json]:
    """Return a ``usage`` object."""
    return {
        "input_tokens": max(0, usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens),
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


def error_body(status: int, text: str, *, param: str | None, request_id: str) -> dict[str, Json]:
    """Return an error of the type that Anthropic's SDKs expect with ``status``."""
    kind = _ERRORS.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
    shown = text if param is None or param in text else f"{param}: {text}"
    return {"type": "error", "error": {"type": kind, "message": shown}, "request_id": request_id}


def _head(served: Served) -> dict[str, Json]:
    return {"id": f"msg_{served.request_id}", "type": "message", "role": "assistant", "model": served.model}


def _stop_reason(finish: FinishReason, stop_sequence: str | None, *, has_calls: bool) -> str:
    if finish is FinishReason.STOP:
        if stop_sequence is not None:
            return "stop_sequence"
        # Some providers end a forced call with "stop"; clients look here to learn that they must act.
        return "tool_use" if has_calls else "end_turn"
    return _FINISH[finish]


def _thinking(reasoning: str | None, signature: str | None) -> list[Json]:
    """Return the thinking as Anthropic sent it; another provider's as one block with the signature it has."""
    if not reasoning and not signature:
        return []
    unsigned: dict[str, Json] = {"type": "thinking", "thinking": reasoning or "", "signature": signature or ""}
    return thinking_blocks(reasoning, signature) or [unsigned]


def _tool_use(call: ToolCall) -> dict[str, Json]:
    block: dict[str, Json] = {"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call.arguments)}
    if call.signature is not None:
        block["signature"] = call.signature
    return block


def _input(arguments: str) -> dict[str, Json]:
    """Return the arguments as an object; what is none is wrapped as Anthropic's guide says."""
    try:
        value = orjson.loads(arguments or "{}")
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {BROKEN_JSON: arguments}


class EventStream:
    """Writes one stream of Messages events; implements ``base.AnswerStream``. Not thread-safe.

    One block is open at a time, as clients expect. The usage stands in ``message_delta``, where it is exact; the one in
    ``message_start`` is zero, because no provider but Anthropic knows it then.
    """

    def __init__(self, served: Served) -> None:
        self._served = served
        self._index = -1
        """Index of the last block; the open one where one is open."""
        self._open = ""
        """Type of the open block; empty where none is."""
        self._tool = -1
        """The open tool block's index among the calls."""
        self._tools: set[int] = set()
        self._thought: list[str] = []
        self._pending: list[str] = []
        """Thinking written and not yet signed."""
        self._signed = 0
        """Blocks of thinking written with their signature."""
        self._finish = FinishReason.STOP
        self._stop_sequence: str | None = None
        self._usage: Usage | None = None

    def start(self) -> bytes:
        """See ``base.AnswerStream``."""
        body = {**_head(self._served), "content": [], "stop_reason": None, "stop_sequence": None}
        return _event("message_start", {"message": {**body, "usage": usage_body(NO_USAGE)}})

    def feed(self, delta: ChatDelta) -> bytes:
        """See ``base.AnswerStream``.

        Raises:
            UpstreamError: GARBAGE: a call goes on after another one or text has begun, which cannot be written here.
        """
        pieces: list[bytes] = []
        if delta.reasoning:
            pieces.append(self._begin("thinking", _NO_THINKING))
            pieces.append(self._extend(b"thinking_delta", b"thinking", delta.reasoning))
            self._thought.append(delta.reasoning)
            self._pending.append(delta.reasoning)
        if delta.reasoning_signature:
            pieces += self._sign(delta.reasoning_signature)
        if delta.text:
            if self._open != "text":
                pieces.append(self._begin("text", b'"text":""'))
            pieces.append(self._extend(b"text_delta", b"text", delta.text))
        if delta.tool_index is not None:
            pieces += self._call(delta, delta.tool_index)
        if delta.finish_reason is not None:
            self._finish, self._stop_sequence = delta.finish_reason, delta.stop_sequence
        if delta.usage is not None:
            self._usage = delta.usage
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def end(self) -> bytes:
        """See ``base.AnswerStream``."""
        reason = _stop_reason(self._finish, self._stop_sequence, has_calls=bool(self._tools))
        fields: dict[str, Json] = {
            "delta": {"stop_reason": reason, "stop_sequence": self._stop_sequence},
            "usage": usage_body(self._usage or NO_USAGE),
        }
        return self._close() + _event("message_delta", fields) + _STOP

    def fail(self, error: Mapping[str, Json]) -> bytes:
        """See ``base.AnswerStream``. Without ``message_stop``: the answer did not end."""
        return b"event: error\ndata: %b\n\n" % orjson.dumps(error)

    def _begin(self, kind: str, fields: bytes) -> bytes:
        """Open a block unless it is open; close what is open before it."""
        if self._open == kind:
            return b""
        closed = self._close()
        self._index += 1
        self._open = kind
        head = (
            b'event: content_block_start\ndata: {"type":"content_block_start","index":%d,"content_block":{"type":"%b"'
        )
        return closed + (head + b",%b}}\n\n") % (self._index, kind.encode(), fields)

    def _extend(self, kind: bytes, field: bytes, text: str) -> bytes:
        return _DELTA % (self._index, kind, field, orjson.dumps(text))

    def _close(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        return b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % self._index

    def _sign(self, signature: str) -> list[bytes]:
        """Write what ``signature`` adds: it signs all thinking so far."""
        blocks = thinking_blocks("".join(self._thought), signature)
        added = blocks[self._signed :]
        if blocks and not added:
            return []
        self._signed = len(blocks)
        pending, self._pending = "".join(self._pending), []
        block = added[0] if len(added) == 1 else None
        fields = block if isinstance(block, dict) else {}
        if fields.get("type") == "redacted_thinking" and not pending:
            data = orjson.dumps(fields.get("data"))
            return [self._close(), self._begin("redacted_thinking", b'"data":%b' % data), self._close()]
        if fields.get("type") == "thinking" and fields.get("thinking") == pending:
            signature = str(fields.get("signature"))
        # Else another provider's, or several at once: as it is, for the parser to take apart when it comes back.
        return [
            self._begin("thinking", _NO_THINKING),
            self._extend(b"signature_delta", b"signature", signature),
            self._close(),
        ]

    def _call(self, delta: ChatDelta, index: int) -> list[bytes]:
        pieces: list[bytes] = []
        if self._open != "tool_use" or self._tool != index:
            if index in self._tools:
                raise UpstreamError(
                    f"{self._served.provider} went on with a call after it had begun something else",
                    kind=UpstreamKind.GARBAGE,
                    billed=True,
                )
            fields: dict[str, Json] = {
                "id": delta.tool_id or f"toolu_{self._served.request_id}_{index}",
                "name": delta.tool_name or "",
                "input": {},
            }
            if delta.tool_signature is not None:
                fields["signature"] = delta.tool_signature
            pieces += [self._close(), self._begin("tool_use", orjson.dumps(fields)[1:-1])]
            self._tool = index
            self._tools.add(index)
        if delta.tool_arguments:
            pieces.append(self._extend(b"input_json_delta", b"partial_json", delta.tool_arguments))
        return pieces


def _event(name: str, fields: Mapping[str, Json]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps({"type": name, **fields}))
