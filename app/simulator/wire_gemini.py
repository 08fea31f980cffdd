"""Gemini generateContent.

Source: python-genai's types; ai.google.dev's API reference.
"""

from __future__ import annotations

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
from app.simulator.json_reading import JsonObject, in_camel_case, object_at, objects_in, positive_int, text_of

SIGNATURE = "c2ltdWxhdG9yLXNpZ25hdHVyZQ=="
_RPC = "type.googleapis.com/google.rpc."
_STATUS = {"auth": 400, "no_balance": 402, "invalid": 400, "context": 400, "not_found": 404}
_NAMES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "FAILED_PRECONDITION",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
    529: "UNAVAILABLE",
}
_METRIC = "generativelanguage.googleapis.com/generate_content_free_tier_"
_QUOTAS = {
    "rpm": ("requests", "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
    "rpd": ("requests", "GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
    "tpm": ("input_token_count", "GenerateContentInputTokensPerModelPerMinute-FreeTier"),
    "itpm": ("input_token_count", "GenerateContentInputTokensPerModelPerMinute-FreeTier"),
    "otpm": ("output_token_count", "GenerateContentOutputTokensPerModelPerMinute-FreeTier"),
    "fault": ("requests", "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
}
_FINISH = {"stop": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}


class GeminiWire:
    """The wire format of Gemini."""

    format: Format = "gemini"

    def key_of(self, http: HttpRequest) -> str | None:
        """Return ``x-goog-api-key``, or the ``key`` of the query."""
        return http.headers.get("x-goog-api-key") or http.query.get("key") or None

    def parse(self, http: HttpRequest) -> ChatRequest:
        """Return the request; model and verb are in the path."""
        model, _, verb = (http.path_model or "").rpartition(":")
        body = object_at(in_camel_case(json_body(http.raw)))
        contents = objects_in(body.get("contents"))
        if not contents:
            raise Refusal("invalid", "* GenerateContentRequest.contents: contents is not specified")
        texts = _texts(object_at(body, "systemInstruction"))
        texts += [text for content in contents for text in _texts(content)]
        settings = object_at(body, "generationConfig")
        thinking = object_at(settings, "thinkingConfig")
        schema = object_at(settings, "responseJsonSchema") or object_at(settings, "responseSchema") or None
        tools = tuple(
            Tool(name=str(found["name"]), schema=_parameters(found))
            for group in objects_in(body.get("tools"))
            for found in objects_in(group.get("functionDeclarations"))
            if isinstance(found.get("name"), str)
        )
        choice = _tool_choice(object_at(body, "toolConfig", "functionCallingConfig"))
        title = text_of(schema.get("title")) if schema is not None else None
        last_parts = objects_in(contents[-1].get("parts"))
        return ChatRequest(
            format="gemini",
            model=model,
            text="\n".join(texts),
            last_text=texts[-1] if texts else "",
            body=http.raw,
            answers_tool=any("functionResponse" in part for part in last_parts),
            stream=verb == "streamGenerateContent",
            max_tokens=positive_int(settings.get("maxOutputTokens")),
            tools=tools,
            tool_choice=choice,
            schema=schema,
            schema_name=title or (choice if choice not in ("auto", "none", "required") else None),
            json_object=settings.get("responseMimeType") == "application/json" and schema is None,
            n=min(positive_int(settings.get("candidateCount")) or 1, 8),
            reasoning_off=thinking.get("thinkingBudget") == 0,
            hide_thoughts=thinking.get("includeThoughts") is False,
            as_array=verb == "streamGenerateContent" and http.query.get("alt") != "sse",
        )

    def success_headers(self, gauges: Gauges, *, number: int) -> dict[str, str]:
        """Return what Gemini tells in headers: nothing about limits."""
        return {"server-timing": "gfet4t7; dur=1"}

    def body(self, plan: Plan) -> bytes:
        """Return a GenerateContentResponse."""
        candidates: list[JsonValue] = [
            {
                "content": {"role": "model", "parts": _parts(choice, hide_thoughts=plan.request.hide_thoughts)},
                "finishReason": _FINISH.get(choice.finish, choice.finish),
                "index": index,
            }
            for index, choice in enumerate(plan.choices)
        ]
        told = usage(plan, output_tokens=plan.output_tokens, reasoning_tokens=plan.reasoning_tokens)
        return orjson.dumps({"candidates": candidates, "usageMetadata": told, **_tail(plan)})

    def stream(self, plan: Plan) -> StreamEncoder:
        """Return the writer of whole responses, as events or as an array."""
        return _Responses(plan)

    def error(self, refusal: Refusal, *, model: str | None, number: int, as_array: bool) -> HttpAnswer:
        """Return ``{"error": {code, message, status, details}}``; in an array where the stream would be one."""
        # Gemini has no 529; an overloaded model is 503 UNAVAILABLE.
        status = refusal.status or _STATUS.get(refusal.kind, 429)
        status = 503 if status == 529 else status
        error: JsonObject = {"code": status, "message": _message(refusal, model, status), "status": _NAMES[status]}
        details = _details(refusal, model, status)
        if details:
            error["details"] = details
        body: JsonValue = {"error": error}
        if as_array:
            body = [body]
        return HttpAnswer(status=status, body=orjson.dumps(body))


class _Responses:
    """A stream of GenerateContentResponses; usage is cumulative, there is no end mark."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._array = plan.request.as_array
        self.media_type = "application/json; charset=UTF-8" if self._array else "text/event-stream"
        self._output = 0
        self._reasoning = 0
        self._first = True

    def open(self) -> bytes:
        """Return nothing: the first response is the first piece."""
        return b""

    def piece(self, piece: Piece) -> bytes:
        """Return one response; a function call comes whole."""
        self._output += piece.tokens
        part: JsonObject
        match piece.kind:
            case "reasoning":
                self._reasoning += piece.tokens
                if self._plan.request.hide_thoughts:
                    return b""
                part = {"text": piece.text, "thought": True}
            case "text":
                part = {"text": piece.text}
            case "tool_start":
                return b""
            case "tool":
                return b""
            case "finish":
                return self._response(piece.choice, self._last_parts(piece.choice), finish=True)
        return self._response(piece.choice, [part])

    def close(self) -> bytes:
        """Return the end of the array."""
        return b"\n]\n" if self._array else b""

    def error(self) -> bytes:
        """Return an error in place of the next response."""
        body: JsonObject = {
            "error": {
                "code": 503,
                "message": "The model is overloaded. Please try again later.",
                "status": "UNAVAILABLE",
            }
        }
        return self._framed(body) + self.close()

    def garbage(self) -> bytes:
        """Return a response that is no JSON."""
        return b'data: {"candidates": [{"content": {"pa\r\n\r\n' if not self._array else b',{"candidates": [{"con'

    def keep_alive(self) -> bytes:
        """Return a comment, or a line break in an array."""
        return b"\n" if self._array else b": keep-alive\n\n"

    def _last_parts(self, choice: int) -> list[JsonValue]:
        calls = [_call_part(call.name, call.arguments) for call in self._plan.choices[choice].tool_calls]
        return [*calls] if calls else [{"text": ""}]

    def _response(self, index: int, parts: list[JsonValue], *, finish: bool = False) -> bytes:
        candidate: JsonObject = {"content": {"role": "model", "parts": parts}, "index": index}
        if finish:
            reason = self._plan.choices[index].finish
            candidate["finishReason"] = _FINISH.get(reason, reason)
        told = usage(self._plan, output_tokens=self._output, reasoning_tokens=self._reasoning)
        return self._framed({"candidates": [candidate], "usageMetadata": told, **_tail(self._plan)})

    def _framed(self, body: JsonObject) -> bytes:
        if not self._array:
            return b"data: %s\r\n\r\n" % orjson.dumps(body)
        opening = b"[" if self._first else b",\r\n"
        self._first = False
        return opening + orjson.dumps(body)


def usage(plan: Plan, *, output_tokens: int, reasoning_tokens: int) -> JsonObject:
    """Return usage: cached inside the prompt's, thoughts outside the candidates', the total is the sum."""
    prompt = plan.request.input_tokens
    told: JsonObject = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": output_tokens - reasoning_tokens,
        "totalTokenCount": prompt + output_tokens,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt}],
    }
    if reasoning_tokens:
        told["thoughtsTokenCount"] = reasoning_tokens
    if plan.cached_tokens:
        told["cachedContentTokenCount"] = plan.cached_tokens
    return told


def _tail(plan: Plan) -> JsonObject:
    return {"modelVersion": plan.request.model, "responseId": f"resp{plan.number:020x}"}


def _parts(choice: Choice, *, hide_thoughts: bool) -> list[JsonValue]:
    parts: list[JsonValue] = []
    if choice.reasoning and not hide_thoughts:
        parts.append({"text": choice.reasoning, "thought": True})
    if choice.text:
        parts.append({"text": choice.text})
    return parts + [_call_part(call.name, call.arguments) for call in choice.tool_calls]


def _call_part(name: str, arguments: str) -> JsonValue:
    try:
        decoded = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        decoded = {}
    return {"functionCall": {"name": name, "args": decoded}, "thoughtSignature": SIGNATURE}


def _texts(content: JsonObject) -> list[str]:
    texts: list[str] = []
    for part in objects_in(content.get("parts")):
        if isinstance(part.get("text"), str):
            texts.append(str(part["text"]))
        for name, field in (("functionCall", "args"), ("functionResponse", "response")):
            if name in part:
                texts.append(orjson.dumps(object_at(part, name).get(field)).decode())
    return texts


def _parameters(function: JsonObject) -> JsonObject:
    return object_at(function, "parametersJsonSchema") or object_at(function, "parameters") or {"type": "object"}


def _tool_choice(settings: JsonObject) -> str:
    mode = str(settings.get("mode", "AUTO")).upper()
    if mode == "ANY":
        allowed = settings.get("allowedFunctionNames")
        if isinstance(allowed, list) and allowed and isinstance(allowed[0], str):
            return allowed[0]
        return "required"
    return "none" if mode == "NONE" else "auto"


def _message(refusal: Refusal, model: str | None, status: int) -> str:
    if refusal.kind == "auth":
        return "API key not valid. Please pass a valid API key."
    if refusal.kind == "no_balance":
        return "Your prepayment credits are depleted. Please go to AI Studio to manage your project and billing."
    if refusal.kind == "not_found":
        return (
            f"models/{model} is not found for API version v1beta, or is not supported for generateContent. "
            "Call ListModels to see the list of available models and their supported methods."
        )
    if refusal.kind == "context":
        return f"The input token count exceeds the maximum number of tokens allowed {refusal.limit}."
    if status == 429:
        return f"You exceeded your current quota, please check your plan and billing details. {refusal.message}"
    return refusal.message


def _details(refusal: Refusal, model: str | None, status: int) -> list[JsonValue]:
    if refusal.kind == "auth":
        domain = "googleapis.com"
        return [{"@type": f"{_RPC}ErrorInfo", "reason": "API_KEY_INVALID", "domain": domain}]
    # Over its concurrency, Gemini explains nothing: details may be missing altogether.
    if status != 429 or refusal.kind not in _QUOTAS:
        return []
    metric, quota_id = _QUOTAS[refusal.kind]
    violation: JsonObject = {
        "quotaMetric": _METRIC + metric,
        "quotaId": refusal.quota_id or quota_id,
        "quotaDimensions": {"location": "global", "model": model},
    }
    if refusal.limit is not None:
        violation["quotaValue"] = str(refusal.limit)
    help_links: JsonValue = [{"description": "Learn more", "url": "https://ai.google.dev/gemini-api/docs/rate-limits"}]
    details: list[JsonValue] = [
        {"@type": f"{_RPC}QuotaFailure", "violations": [violation]},
        {"@type": f"{_RPC}Help", "links": help_links},
    ]
    if refusal.retry_after is not None:
        delay = refusal.retry_after if refusal.retry_after.endswith("s") else f"{refusal.retry_after}s"
        details.append({"@type": f"{_RPC}RetryInfo", "retryDelay": delay})
    return details
