"""Writes answers, streams and errors as OpenAI's chat completions.

Reasoning stands in ``reasoning_content`` beside the content; its signature in ``reasoning_signature`` and a tool call's
in ``extra_content`` (as in Gemini's OpenAI mode), so that clients send both back as they came. Called by
``openai_chat``.

Source: openai-python's ``ChatCompletion`` and ``ChatCompletionChunk``, as of 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from app.domain.chat import ChatDelta, ChatResult, Json, ToolCall, Usage
from app.domain.gateway import Served

_DONE = b"data: [DONE]\n\n"


def completion(result: ChatResult, served: Served) -> dict[str, Json]:
    """Return a ``chat.completion`` object."""
    return {
        "id": f"chatcmpl-{served.request_id}",
        "object": "chat.completion",
        "created": served.created_s,
        "model": served.model,
        "choices": [_choice(choice, index) for index, choice in enumerate((result, *result.other_choices))],
        "usage": usage_body(result.usage),
    }


def usage_body(usage: Usage) -> dict[str, Json]:
    """Return a ``usage`` object; OpenAI, like us, counts cached and reasoning tokens inside the totals."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def error_body(status: int, kind: str, message: str, param: str | None) -> dict[str, Json]:
    """Return an error; OpenAI's type and code by status, and our kind as the code where OpenAI has none."""
    error_type, code = _error_words(status, kind, param)
    return {"error": {"message": message, "type": error_type, "param": param, "code": code}}


def _error_words(status: int, kind: str, param: str | None) -> tuple[str, str | None]:
    if status == 401:
        return "authentication_error", "invalid_api_key"
    if status == 403:
        return "permission_error", "permission_denied"
    if status == 404:
        return "invalid_request_error", "model_not_found" if param == "model" else "not_found"
    if status == 429:
        if "quota" in kind or "budget" in kind:
            return "insufficient_quota", "insufficient_quota"
        return "tokens" if "token" in kind else "requests", "rate_limit_exceeded"
    if status >= 500:
        return "server_error", kind
    return "invalid_request_error", None if kind == "invalid_request_error" else kind


def _choice(result: ChatResult, index: int) -> dict[str, Json]:
    message: dict[str, Json] = {
        "role": "assistant",
        "content": result.text or (None if result.tool_calls or result.refusal else ""),
        "refusal": result.refusal,
    }
    if result.reasoning is not None:
        message["reasoning_content"] = result.reasoning
    if result.reasoning_signature is not None:
        message["reasoning_signature"] = result.reasoning_signature
    if result.tool_calls:
        message["tool_calls"] = [_tool_call(call) for call in result.tool_calls]
    return {"index": index, "message": message, "logprobs": None, "finish_reason": result.finish_reason.value}


def _tool_call(call: ToolCall) -> dict[str, Json]:
    wire: dict[str, Json] = {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }
    if call.signature is not None:
        wire["extra_content"] = _signed(call.signature)
    return wire


def _signed(signature: str) -> dict[str, Json]:
    return {"google": {"thought_signature": signature}}


class ChunkStream:
    """Writes one stream of ``chat.completion.chunk`` objects; implements ``base.AnswerStream``. Not thread-safe.

    The parts that all chunks share are written once: a chunk of text costs its own text only.

    Args:
        served: Who answers.
        include_usage: Whether a chunk with the usage, and null in all others, was asked for.
        provider: Named in every chunk, where the answer's compatibility fields are wanted.
    """

    def __init__(self, served: Served, *, include_usage: bool, provider: str | None) -> None:
        head: dict[str, Json] = {
            "id": f"chatcmpl-{served.request_id}",
            "object": "chat.completion.chunk",
            "created": served.created_s,
            "model": served.model,
        }
        if provider is not None:
            head["provider"] = provider
        self._head = b"data: " + orjson.dumps(head)[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._include_usage = include_usage
        self._open: set[int] = set()
        """Choices whose role has been written."""
        self._usage: Usage | None = None

    def start(self) -> bytes:
        """See ``base.AnswerStream``. Nothing: the role goes before each choice's first delta, which knows more."""
        return b""

    def feed(self, delta: ChatDelta) -> bytes:
        """See ``base.AnswerStream``."""
        if delta.usage is not None:
            self._usage = delta.usage
        choice = delta.choice
        pieces: list[bytes] = []
        if choice not in self._open:
            self._open.add(choice)
            # As OpenAI does: null content where the answer opens with a tool call.
            content = None if delta.tool_index is not None and not delta.text else ""
            pieces.append(self._chunk(choice, {"role": "assistant", "content": content, "refusal": None}))
        said = _said(delta)
        if said:
            pieces.append(self._chunk(choice, said))
        if delta.finish_reason is not None:
            pieces.append(self._chunk(choice, {}, delta.finish_reason.value))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def end(self) -> bytes:
        """See ``base.AnswerStream``."""
        if not self._include_usage or self._usage is None:
            return _DONE
        return b'%b],"usage":%b}\n\n%b' % (self._head, orjson.dumps(usage_body(self._usage)), _DONE)

    def fail(self, error: Mapping[str, Json]) -> bytes:
        """See ``base.AnswerStream``. Without ``[DONE]``: the answer did not end."""
        return b"data: %b\n\n" % orjson.dumps(error)

    def _chunk(self, choice: int, delta: dict[str, Json], finish_reason: str | None = None) -> bytes:
        return b'%b{"index":%d,"delta":%b,"logprobs":null,"finish_reason":%b}%b' % (
            self._head,
            choice,
            orjson.dumps(delta),
            orjson.dumps(finish_reason),
            self._tail,
        )


def _said(delta: ChatDelta) -> dict[str, Json]:
    said: dict[str, Json] = {}
    if delta.reasoning:
        said["reasoning_content"] = delta.reasoning
    if delta.text:
        said["content"] = delta.text
    if delta.tool_index is not None:
        said["tool_calls"] = [_fragment(delta)]
    if delta.reasoning_signature is not None:
        said["reasoning_signature"] = delta.reasoning_signature
    return said


def _fragment(delta: ChatDelta) -> dict[str, Json]:
    function: dict[str, Json] = {}
    fragment: dict[str, Json] = {"index": delta.tool_index}
    if delta.tool_id is not None:
        fragment["id"] = delta.tool_id
        fragment["type"] = "function"
    if delta.tool_name is not None:
        function["name"] = delta.tool_name
    function["arguments"] = delta.tool_arguments
    fragment["function"] = function
    if delta.tool_signature is not None:
        fragment["extra_content"] = _signed(delta.tool_signature)
    return fragment
