"""OpenAI chat completions and embeddings, and the dialects of DeepSeek, Qwen and other compatible providers.

Source: openai-python's types; DeepSeek's API documentation for its dialect.
"""

from __future__ import annotations

from collections.abc import Callable

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

_WORDS = {
    "tpm": ("tokens", "tokens per min (TPM)"),
    "itpm": ("tokens", "input tokens per min (ITPM)"),
    "otpm": ("tokens", "output tokens per min (OTPM)"),
    "rpm": ("requests", "requests per min (RPM)"),
    "rpd": ("requests", "requests per day (RPD)"),
    "concurrency": ("requests", "concurrent requests"),
}
_STATUS = {"auth": 401, "no_balance": 429, "invalid": 400, "context": 400, "not_found": 404}
_TYPES: dict[int, tuple[str, str | None]] = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    402: ("unknown_error", "invalid_request_error"),
    403: ("invalid_request_error", "unsupported_country_region_territory"),
    404: ("invalid_request_error", "model_not_found"),
    413: ("invalid_request_error", None),
    429: ("requests", "rate_limit_exceeded"),
}


class OpenAIWire:
    """The wire format of OpenAI."""

    format: Format = "openai"

    def key_of(self, http: HttpRequest) -> str | None:
        """Return the bearer token."""
        kind, _, token = http.headers.get("authorization", "").partition(" ")
        return token.strip() or None if kind.lower() == "bearer" else None

    def parse(self, http: HttpRequest) -> ChatRequest:
        """Return the request."""
        body = json_body(http.raw)
        model = text_of(body.get("model"))
        if model is None:
            raise Refusal("invalid", "you must provide a model parameter", param="model")
        if not isinstance(body.get("messages"), list) or not objects_in(body["messages"]):
            raise Refusal("invalid", "Missing required parameter: 'messages'.", param="messages")
        messages = objects_in(body["messages"])
        texts = [text for message in messages for text in message_texts(message)]
        response_format = object_at(body, "response_format")
        schema = object_at(response_format, "json_schema", "schema") or None
        options = object_at(body, "stream_options")
        tools = _tools(body)
        choice = _tool_choice(body.get("tool_choice"))
        if choice not in ("auto", "none", "required") and all(tool.name != choice for tool in tools):
            raise Refusal("invalid", f"Tool choice {choice!r} not found in 'tools' parameter.", param="tool_choice")
        name = text_of(object_at(response_format, "json_schema").get("name"))
        return ChatRequest(
            format="openai",
            model=model,
            text="\n".join(texts),
            last_text=texts[-1] if texts else "",
            body=http.raw,
            answers_tool=messages[-1].get("role") == "tool",
            stream=body.get("stream") is True,
            max_tokens=_max_tokens(body),
            tools=tools,
            tool_choice=choice,
            schema=schema,
            schema_name=name or (choice if choice not in ("auto", "none", "required") else None),
            json_object=response_format.get("type") == "json_object",
            n=min(positive_int(body.get("n")) or 1, 128),
            include_usage=options.get("include_usage") is True,
            store=body.get("store") is True,
            metadata=tuple((name, str(value)) for name, value in object_at(body, "metadata").items()),
            obfuscation=options.get("include_obfuscation") is not False,
            reasoning_off=object_at(body, "thinking").get("type") == "disabled" or body.get("enable_thinking") is False,
        )

    def success_headers(self, gauges: Gauges, *, number: int) -> dict[str, str]:
        """Return the request's id and the limits; resets are Go durations."""
        headers = {"x-request-id": f"req_{number:032x}"}
        for name, kinds in (("requests", ("rpm", "rpd")), ("tokens", ("tpm", "itpm", "otpm"))):
            gauge = next((gauges[kind] for kind in kinds if kind in gauges), None)
            if gauge is not None:
                headers[f"x-ratelimit-limit-{name}"] = str(gauge.limit)
                headers[f"x-ratelimit-remaining-{name}"] = str(gauge.remaining)
                headers[f"x-ratelimit-reset-{name}"] = go_duration(gauge.reset_ns)
        return headers

    def body(self, plan: Plan) -> bytes:
        """Return a chat completion."""
        return orjson.dumps(
            {
                "id": _id(plan),
                "object": "chat.completion",
                "created": plan.created_s,
                "model": plan.request.model,
                "choices": [_choice(index, choice, plan) for index, choice in enumerate(plan.choices)],
                "usage": usage(plan),
                "service_tier": "default",
                "system_fingerprint": "fp_simulator",
            }
        )

    def stream(self, plan: Plan) -> StreamEncoder:
        """Return the writer of chunks."""
        return _Chunks(plan)

    def error(self, refusal: Refusal, *, model: str | None, number: int, as_array: bool) -> HttpAnswer:
        """Return ``{"error": {message, type, param, code}}``."""
        status = refusal.status or _STATUS.get(refusal.kind, 429)
        kind, code = _TYPES.get(status, ("server_error", None))
        if refusal.kind == "no_balance" and status == 429:
            kind = code = "insufficient_quota"
        if refusal.kind == "context":
            code = "context_length_exceeded"
        if refusal.kind in ("invalid", "fault") and status == 400:
            code = None
        message = refusal.message
        if refusal.kind in _WORDS:
            kind, words = _WORDS[refusal.kind]
            code = "rate_limit_exceeded"
            message = f"Rate limit reached for {model} in organization org-simulator on {words}: {refusal.message}"
        if refusal.quota_id is not None and "PerDay" not in refusal.quota_id:
            code = refusal.quota_id
            kind = refusal.quota_id if code == "insufficient_quota" else kind
        headers = {"x-request-id": f"req_{number:032x}"}
        if refusal.retry_after is not None and refusal.headers_shown:
            headers |= _retry_headers(refusal.retry_after)
        body = {"error": {"message": message, "type": kind, "param": refusal.param, "code": code}}
        return HttpAnswer(status=status, body=orjson.dumps(body), headers=headers)


class _Chunks:
    """Chat completion chunks as server-sent events."""

    media_type = "text/event-stream; charset=utf-8"

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._deepseek = plan.profile.dialect == "deepseek"
        self._head: JsonObject = {
            "id": _id(plan),
            "object": "chat.completion.chunk",
            "created": plan.created_s,
            "model": plan.request.model,
            "service_tier": "default",
            "system_fingerprint": "fp_simulator",
        }
        self._finished = 0

    def open(self) -> bytes:
        """Return the chunk that opens each choice."""
        return b"".join(
            self._chunk(index, {"role": "assistant", "content": "", "refusal": None})
            for index in range(len(self._plan.choices))
        )

    def piece(self, piece: Piece) -> bytes:
        """Return one delta."""
        match piece.kind:
            case "reasoning":
                return self._chunk(piece.choice, {"reasoning_content": piece.text})
            case "text":
                return self._chunk(piece.choice, {"content": piece.text})
            case "tool_start":
                function: JsonObject = {"name": self._call_name(piece), "arguments": ""}
                call: JsonObject = {"index": piece.tool, "id": _call_id(self._plan, piece.choice, piece.tool)}
                return self._chunk(piece.choice, {"tool_calls": [{**call, "type": "function", "function": function}]})
            case "tool":
                fragment: JsonObject = {"index": piece.tool, "function": {"arguments": piece.text}}
                return self._chunk(piece.choice, {"tool_calls": [fragment]})
            case "finish":
                self._finished += 1
                return self._chunk(piece.choice, {}, finish=self._plan.choices[piece.choice].finish)

    def close(self) -> bytes:
        """Return the usage, where it was asked for, and the end mark."""
        tail = b"data: [DONE]\n\n"
        if not self._plan.request.include_usage or self._deepseek:
            return tail
        return sse({**self._head, "choices": [], "usage": usage(self._plan)}) + tail

    def error(self) -> bytes:
        """Return an error in place of the next chunk."""
        message = "The server had an error while processing your request. Sorry about that!"
        return sse({"error": {"message": message, "type": "server_error", "param": None, "code": None}})

    def garbage(self) -> bytes:
        """Return a chunk that is no JSON."""
        return b'data: {"choices": [{"delta": {"cont\n\n'

    def keep_alive(self) -> bytes:
        """Return a comment."""
        return b": keep-alive\n\n"

    def _call_name(self, piece: Piece) -> str:
        return self._plan.choices[piece.choice].tool_calls[piece.tool].name

    def _chunk(self, index: int, delta: JsonObject, *, finish: str | None = None) -> bytes:
        chunk: JsonObject = {**self._head, "choices": [{"index": index, "delta": delta, "finish_reason": finish}]}
        last = finish is not None and self._finished == len(self._plan.choices)
        if self._plan.request.include_usage:
            # Compatible providers put usage on the last chunk that still has a choice; OpenAI sends one more chunk.
            chunk["usage"] = usage(self._plan) if self._deepseek and last else None
        if not self._deepseek and self._plan.request.obfuscation and finish is None:
            chunk["obfuscation"] = "x" * (1 + (self._plan.number + len(str(delta))) % 8)
        return sse(chunk)


def sse(data: JsonObject) -> bytes:
    """Return one server-sent event without a name."""
    return b"data: %s\n\n" % orjson.dumps(data)


def usage(plan: Plan) -> JsonObject:
    """Return usage: cached tokens are inside the prompt's, reasoning inside the completion's."""
    prompt, output = plan.request.input_tokens, plan.output_tokens
    told: JsonObject = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": plan.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": plan.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    if plan.profile.dialect == "deepseek":
        told["prompt_cache_hit_tokens"] = plan.cached_tokens
        told["prompt_cache_miss_tokens"] = prompt - plan.cached_tokens
    return told


def go_duration(duration_ns: int) -> str:
    """Return a duration as Go prints it: ``12ms``, ``1.5s``, ``6m0s``, ``1h0m0s``; rounded up to a millisecond."""
    milliseconds = -(-duration_ns // 1_000_000)
    if milliseconds < 1_000:
        return f"{milliseconds}ms" if milliseconds else "0s"
    minutes, rest = divmod(milliseconds, 60_000)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def message_texts(message: JsonObject) -> list[str]:
    """Return the texts of a message: its content, its content's parts, and the arguments of its tool calls."""
    content = message.get("content")
    texts = [content] if isinstance(content, str) else []
    texts += [part["text"] for part in objects_in(content) if isinstance(part.get("text"), str)]  # type: ignore[misc]
    calls = (object_at(call, "function").get("arguments") for call in objects_in(message.get("tool_calls")))
    return texts + [arguments for arguments in calls if isinstance(arguments, str)]


def _choice(index: int, choice: Choice, plan: Plan) -> JsonObject:
    message: JsonObject = {"role": "assistant", "content": choice.text or None, "refusal": None}
    if not choice.tool_calls:
        message["content"] = choice.text
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    if choice.tool_calls:
        message["tool_calls"] = [
            {
                "id": _call_id(plan, index, number),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for number, call in enumerate(choice.tool_calls)
        ]
    return {"index": index, "message": message, "logprobs": None, "finish_reason": choice.finish}


def _tools(body: JsonObject) -> tuple[Tool, ...]:
    functions = [object_at(tool, "function") for tool in objects_in(body.get("tools"))]
    named: Callable[[JsonObject], str] = lambda function: text_of(function.get("name")) or ""  # noqa: E731
    return tuple(Tool(name=named(found), schema=object_at(found, "parameters")) for found in functions if named(found))


def _tool_choice(choice: JsonValue) -> str:
    if isinstance(choice, dict):
        return text_of(object_at(choice, "function").get("name")) or "required"
    return choice if isinstance(choice, str) else "auto"


def _max_tokens(body: JsonObject) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        value = body.get(name)
        if value is None:
            continue
        found = positive_int(value)
        if found is None:
            raise Refusal("invalid", f"Invalid '{name}': must be an integer of at least 1, got {value!r}.", param=name)
        return found
    return None


def _retry_headers(retry_after: str) -> dict[str, str]:
    try:
        seconds = float(retry_after)
    except ValueError:
        return {"retry-after": retry_after}
    whole = -int(-seconds // 1)
    return {"retry-after": str(whole), "retry-after-ms": str(-int(-seconds * 1000 // 1))}


def _id(plan: Plan) -> str:
    return f"chatcmpl-{plan.number:024x}"


def _call_id(plan: Plan, choice: int, tool: int) -> str:
    return f"call_{plan.number:018x}{choice:03x}{tool:03x}"
