"""Anthropic Messages.

Source: anthropic-sdk-python's types; platform.claude.com/docs/build-with-claude/streaming.
"""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime

import orjson
from pydantic import JsonValue

from app.simulator.config import Format
from app.simulator.exchange import (
    ChatRequest,
    Choice,
    Gauges,
    HttpAnswer,
    HttpRequest,
    Piece,
    Plan,
    Refusal,
    StreamEncoder,
    Tool,
    json_body,
)
from app.simulator.json_reading import JsonObject, object_at, objects_in, positive_int, text_of
from app.simulator.limits import Gauge
from app.simulator.tokens import count_tokens

SIGNATURE = "c2ltdWxhdG9yLXNpZ25hdHVyZQ=="
_STATUS = {"auth": 401, "no_balance": 402, "invalid": 400, "context": 400, "not_found": 404}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_WORDS = {
    "rpm": "requests per minute",
    "rpd": "requests per day",
    "tpm": "tokens per minute",
    "itpm": "input tokens per minute",
    "otpm": "output tokens per minute",
    "concurrency": "concurrent connections",
}
_STOP = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


class AnthropicWire:
    """The wire format of Anthropic."""

    format: Format = "anthropic"

    def key_of(self, http: HttpRequest) -> str | None:
        """Return ``x-api-key``, or a bearer token."""
        kind, _, token = http.headers.get("authorization", "").partition(" ")
        return http.headers.get("x-api-key") or (token.strip() if kind.lower() == "bearer" else None) or None

    def parse(self, http: HttpRequest) -> ChatRequest:
        """Return the request; ``max_tokens`` and the version header are required."""
        body = json_body(http.raw)
        request = self.parse_prompt(http, body)
        if body.get("max_tokens") is None:
            raise Refusal("invalid", "max_tokens: Field required")
        if request.max_tokens is None:
            raise Refusal("invalid", "max_tokens: Input should be greater than or equal to 1")
        return request

    def parse_prompt(self, http: HttpRequest, body: JsonObject) -> ChatRequest:
        """Return the request as ``count_tokens`` takes it, without ``max_tokens``."""
        if "anthropic-version" not in http.headers:
            raise Refusal("invalid", "anthropic-version: header is required")
        model = text_of(body.get("model"))
        if model is None:
            raise Refusal("invalid", "model: Field required")
        messages = objects_in(body.get("messages"))
        if not messages:
            raise Refusal("invalid", "messages: Field required")
        texts = _texts(body.get("system")) + [text for message in messages for text in _texts(message.get("content"))]
        tools = tuple(
            Tool(name=str(tool["name"]), schema=object_at(tool, "input_schema"))
            for tool in objects_in(body.get("tools"))
            if isinstance(tool.get("name"), str)
        )
        choice = _tool_choice(object_at(body, "tool_choice"))
        if choice not in ("auto", "none", "required") and all(tool.name != choice for tool in tools):
            raise Refusal("invalid", f"tool_choice.name: Tool {choice!r} not found in provided tools")
        wanted = object_at(body, "output_config", "format") or object_at(body, "output_format")
        schema = object_at(wanted, "schema") or None
        title = text_of(schema.get("title")) if schema is not None else None
        last = objects_in(messages[-1].get("content"))
        return ChatRequest(
            format="anthropic",
            model=model,
            text="\n".join(texts),
            last_text=texts[-1] if texts else "",
            body=http.raw,
            answers_tool=any(block.get("type") == "tool_result" for block in last),
            stream=body.get("stream") is True,
            max_tokens=positive_int(body.get("max_tokens")),
            tools=tools,
            tool_choice=choice,
            schema=schema,
            schema_name=title or (choice if choice not in ("auto", "none", "required") else None),
            reasoning_off=object_at(body, "thinking").get("type") == "disabled",
        )

    def success_headers(self, gauges: Gauges, *, number: int) -> dict[str, str]:
        """Return the request's id and the limits; resets are RFC 3339 timestamps."""
        headers = {
            "request-id": f"req_{number:024x}",
            "anthropic-organization-id": "00000000-0000-4000-8000-000000000000",
        }
        shown = {
            "requests": gauges.get("rpm") or gauges.get("rpd"),
            "tokens": gauges.get("tpm") or _sum(gauges.get("itpm"), gauges.get("otpm")),
            "input-tokens": gauges.get("itpm"),
            "output-tokens": gauges.get("otpm"),
        }
        for name, gauge in shown.items():
            if gauge is not None:
                headers[f"anthropic-ratelimit-{name}-limit"] = str(gauge.limit)
                headers[f"anthropic-ratelimit-{name}-remaining"] = str(gauge.remaining)
                headers[f"anthropic-ratelimit-{name}-reset"] = rfc3339(time.time() + gauge.reset_ns / 1e9)
        return headers

    def body(self, plan: Plan) -> bytes:
        """Return a message."""
        choice = plan.choices[0]
        return orjson.dumps(
            {
                **_message(plan),
                "content": _blocks(choice, plan),
                "stop_reason": _STOP.get(choice.finish, choice.finish),
                "usage": usage(plan, output_tokens=plan.output_tokens),
            }
        )

    def stream(self, plan: Plan) -> StreamEncoder:
        """Return the writer of named events."""
        return _Events(plan)

    def error(self, refusal: Refusal, *, model: str | None, number: int, as_array: bool) -> HttpAnswer:
        """Return ``{"type": "error", "error": {type, message}, "request_id"}``."""
        status = refusal.status or _STATUS.get(refusal.kind, 429)
        message = refusal.message
        if refusal.kind == "context":
            message = f"prompt is too long: {message}"
        elif refusal.kind == "not_found":
            message = f"model: {model}"
        elif refusal.kind == "auth":
            message = "invalid x-api-key"
        elif refusal.kind == "no_balance":
            message = "Your credit balance is too low to access the Anthropic API."
        elif refusal.kind in _WORDS:
            message = (
                f"This request would exceed your organization's rate limit of {refusal.limit} "
                f"{_WORDS[refusal.kind]}. {message}"
            )
        request_id = f"req_{number:024x}"
        headers = {"request-id": request_id}
        if refusal.retry_after is not None and refusal.headers_shown:
            headers["retry-after"] = _whole_seconds(refusal.retry_after)
        error = {"type": _TYPES.get(status, "api_error"), "message": message}
        body = {"type": "error", "error": error, "request_id": request_id}
        return HttpAnswer(status=status, body=orjson.dumps(body), headers=headers)


class _Events:
    """A message as named server-sent events, block by block."""

    media_type = "text/event-stream; charset=utf-8"

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._index = -1
        self._block: str | None = None
        """What the open block holds: ``reasoning``, ``text`` or the number of a tool call."""

    def open(self) -> bytes:
        """Return the message's head, whose usage has the input side, and a ping."""
        message: JsonObject = {
            **_message(self._plan),
            "content": [],
            "stop_reason": None,
            "usage": usage(self._plan, output_tokens=1),
        }
        return event("message_start", {"message": message}) + event("ping", {})

    def piece(self, piece: Piece) -> bytes:
        """Return one delta, opening its block where it is the first."""
        match piece.kind:
            case "reasoning":
                start: JsonObject = {"type": "thinking", "thinking": "", "signature": ""}
                delta: JsonObject = {"type": "thinking_delta", "thinking": piece.text}
                return self._in_block("reasoning", start) + self._delta(delta)
            case "text":
                start = {"type": "text", "text": ""}
                return self._in_block("text", start) + self._delta({"type": "text_delta", "text": piece.text})
            case "tool_start":
                call = self._plan.choices[0].tool_calls[piece.tool]
                start = {"type": "tool_use", "id": _call_id(self._plan, piece.tool), "name": call.name, "input": {}}
                opened = self._in_block(str(piece.tool), start)
                return opened + self._delta({"type": "input_json_delta", "partial_json": ""})
            case "tool":
                return self._delta({"type": "input_json_delta", "partial_json": piece.text})
            case "finish":
                return self._end_block()

    def close(self) -> bytes:
        """Return the stop reason with the cumulative usage, and the end."""
        finish = self._plan.choices[0].finish
        delta: JsonObject = {"stop_reason": _STOP.get(finish, finish), "stop_sequence": None}
        told = usage(self._plan, output_tokens=self._plan.output_tokens)
        cumulative: JsonObject = {
            name: told[name]
            for name in (
                "input_tokens",
                "cache_creation_input_tokens",
                "cache_read_input_tokens",
                "output_tokens",
                "output_tokens_details",
            )
        }
        return event("message_delta", {"delta": delta, "usage": cumulative}) + event("message_stop", {})

    def error(self) -> bytes:
        """Return an overload in the middle of a stream."""
        return event("error", {"error": {"type": "overloaded_error", "message": "Overloaded"}})

    def garbage(self) -> bytes:
        """Return an event whose data is no JSON."""
        return b'event: content_block_delta\ndata: {"type": "content_bl\n\n'

    def keep_alive(self) -> bytes:
        """Return a comment."""
        return b": keep-alive\n\n"

    def _in_block(self, block: str, start: JsonObject) -> bytes:
        if self._block == block:
            return b""
        ended = self._end_block()
        self._block = block
        self._index += 1
        return ended + event("content_block_start", {"index": self._index, "content_block": start})

    def _end_block(self) -> bytes:
        if self._block is None:
            return b""
        signed = b""
        if self._block == "reasoning":
            signed = self._delta({"type": "signature_delta", "signature": SIGNATURE})
        self._block = None
        return signed + event("content_block_stop", {"index": self._index})

    def _delta(self, delta: JsonObject) -> bytes:
        return event("content_block_delta", {"index": self._index, "delta": delta})


def event(name: str, data: JsonObject) -> bytes:
    """Return one named server-sent event, whose data repeats its name as ``type``."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps({"type": name, **data}))


def usage(plan: Plan, *, output_tokens: int) -> JsonObject:
    """Return usage: cached tokens are outside ``input_tokens``, thinking is inside ``output_tokens``."""
    return {
        "input_tokens": plan.request.input_tokens - plan.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": plan.cached_tokens,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"thinking_tokens": min(plan.reasoning_tokens, output_tokens)},
        "service_tier": "standard",
    }


def rfc3339(unix_s: float) -> str:
    """Return a time as RFC 3339, rounded up to the second."""
    return datetime.fromtimestamp(math.ceil(unix_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _message(plan: Plan) -> JsonObject:
    return {
        "id": f"msg_{plan.number:024x}",
        "type": "message",
        "role": "assistant",
        "model": plan.request.model,
        "stop_sequence": None,
    }


def _blocks(choice: Choice, plan: Plan) -> list[JsonValue]:
    blocks: list[JsonValue] = []
    if choice.reasoning:
        blocks.append({"type": "thinking", "thinking": choice.reasoning, "signature": SIGNATURE})
    if choice.text:
        blocks.append({"type": "text", "text": choice.text})
    for number, call in enumerate(choice.tool_calls):
        try:
            arguments = orjson.loads(call.arguments)
        except orjson.JSONDecodeError:
            arguments = {}  # cut by max_tokens: the provider sends what it could parse
        blocks.append({"type": "tool_use", "id": _call_id(plan, number), "name": call.name, "input": arguments})
    return blocks


def _call_id(plan: Plan, number: int) -> str:
    return f"toolu_{plan.number:020x}{number:04x}"


def _texts(content: JsonValue) -> list[str]:
    if isinstance(content, str):
        return [content]
    texts: list[str] = []
    for block in objects_in(content):
        if isinstance(block.get("text"), str):
            texts.append(str(block["text"]))
        elif block.get("type") == "tool_use":
            texts.append(orjson.dumps(block.get("input")).decode())
        elif block.get("type") == "tool_result":
            texts += _texts(block.get("content"))
    return texts


def _tool_choice(choice: JsonObject) -> str:
    kind = choice.get("type")
    if kind == "tool":
        return text_of(choice.get("name")) or "required"
    return {"any": "required", "none": "none"}.get(str(kind), "auto")


def _sum(first: Gauge | None, second: Gauge | None) -> Gauge | None:
    if first is None or second is None:
        return first or second
    return Gauge(
        limit=first.limit + second.limit,
        remaining=first.remaining + second.remaining,
        reset_ns=max(first.reset_ns, second.reset_ns),
    )


def _whole_seconds(retry_after: str) -> str:
    try:
        return str(math.ceil(float(retry_after)))
    except (ValueError, OverflowError):
        return retry_after


def count(request: ChatRequest) -> bytes:
    """Return the answer of ``count_tokens``."""
    return orjson.dumps({"input_tokens": max(1, count_tokens(request.text))})
