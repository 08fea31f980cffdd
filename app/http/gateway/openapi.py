"""The gateway's part of the OpenAPI document: the hot paths, which the framework never sees, and words for the others.

Describes for readers and clients what the client formats do; checks nothing. The formats take more fields than stand
here: what is not named is passed on to the provider or refused by name. Called by ``mount``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from fastapi import FastAPI

from app.domain.repeats import KEY_CHARS_MAX
from app.http.gateway import openapi_schemas as schemas

Object = dict[str, Any]
"""A piece of an OpenAPI document."""
Shape = Literal["OpenAIError", "AnthropicError"]

TAG = "gateway"
_SAID = {
    400: "Refused as it stands, by us or by the provider; the message says what to change.",
    401: "No key, or an unknown one.",
    403: "The key may not use this model.",
    404: "There is no such model.",
    409: "The Idempotency-Key was used with another request, or its answer is too large to be given again.",
    413: "The body is larger than 32 MiB.",
    429: "The key's own limit is used up, or every account is busy; `retry-after` says when to come back.",
    500: "A bug of ours; the server's log has the details.",
    502: "The provider failed, and so did every other one that could have served.",
    503: "No account can serve this model, or a part of ours does not answer.",
    504: "The time given was over.",
}
ASKING = (400, 401, 403, 404, 409, 413, 429, 500, 502, 503, 504)
"""Statuses of a route that calls a model."""
_READING = (401, 500, 503)
"""Statuses of a route that only reads."""
_BODY = (400, 413)
_SECURITY: list[Object] = [{"bearer": []}, {"x-api-key": []}, {}]
_HEADERS: Mapping[str, str] = {
    "x-request-id": "Names this call, here and in the log.",
    "x-trace-id": "The trace of this call, as spans and events name it; `traceparent` of a request is gone on with.",
    "x-tutti-account": "The account that served.",
    "x-tutti-model": "The model that served, by its public name.",
    "x-tutti-cost": "What the call cost in USD, as decimal text; absent where a price is unknown, and for streams.",
    "x-tutti-overhead-ms": "How long the call took beside the provider's own time.",
    "x-tutti-cache": "`hit` where the answer was kept or shared.",
    "x-ratelimit-limit-requests": "The key's own limits; `-remaining-` and `-reset-`, and the same for `-tokens`.",
}
_WISHES: Mapping[str, str] = {
    "x-tutti-providers": "Only these providers, separated by commas.",
    "x-tutti-order": "Providers or accounts to try first, in this order.",
    "x-tutti-max-cost": "The dearest that the call may become, in USD, its ceiling of output included.",
    "x-tutti-timeout": "Seconds after which the answer is worthless.",
    "idempotency-key": "Requests with the same key are bought once; kept for a day.",
}


def install(app: FastAPI) -> None:
    """Make ``app.openapi`` show the hot paths beside the routes that the framework knows."""
    framework: Callable[[], Object] = app.openapi

    def openapi() -> Object:
        if app.openapi_schema is None:
            document = framework()
            document["paths"].update(_hot_paths())
            components = document.setdefault("components", {})
            components.setdefault("schemas", {}).update(schemas.SCHEMAS)
            components["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            }
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def quiet(
    answer: str,
    *,
    shape: Shape = "OpenAIError",
    body: str | None = None,
    statuses: tuple[int, ...] = (),
    path: str | None = None,
) -> Object:
    """Return the keyword arguments with which ``FastAPI.add_api_route`` documents a quiet route.

    Args:
        answer: Name of the schema of a success.
        shape: The schema of its errors.
        body: Name of the schema of the request's body, if it has one.
        statuses: Refusals beside those of every route.
        path: Name of the path's parameter, if it has one.
    """
    extra: Object = {"security": _SECURITY}
    if body is not None:
        extra["requestBody"] = _json_body(body)
        statuses = (*statuses, *_BODY)
    if path is not None:
        about = "Its name or an alias."
        extra["parameters"] = [
            {"name": path, "in": "path", "required": True, "description": about, "schema": {"type": "string"}}
        ]
    return {"responses": {200: _success(answer), **_refusals((*_READING, *statuses), shape)}, "openapi_extra": extra}


def _hot_paths() -> Object:
    chat = "Chat as OpenAI's `chat/completions`: any model of the pool, streamed or not."
    return {
        "/v1/chat/completions": _hot(chat, "ChatRequest", "ChatAnswer", "OpenAIError"),
        "/api/v1/chat/completions": _hot(
            f"{chat} Without `model` routing chooses, by `task_type`; answers carry `content` and `provider`.",
            "AutoChatRequest",
            "ChatAnswer",
            "OpenAIError",
        ),
        "/v1/responses": _hot(
            "OpenAI's Responses without kept state: text, functions, streams.",
            "ResponsesRequest",
            "ResponsesAnswer",
            "OpenAIError",
        ),
        "/v1/messages": _hot(
            "Anthropic's Messages, by any model of the pool.", "MessagesRequest", "MessagesAnswer", "AnthropicError"
        ),
    }


def _hot(summary: str, body: str, answer: str, shape: Shape) -> Object:
    headers = {name: {"description": about, "schema": {"type": "string"}} for name, about in _HEADERS.items()}
    success = _success(answer)
    success["content"]["text/event-stream"] = {}
    success["headers"] = headers
    return {
        "post": {
            "tags": [TAG],
            "summary": summary,
            "parameters": [
                {"name": name, "in": "header", "description": about, "schema": _wish_schema(name)}
                for name, about in _WISHES.items()
            ],
            "requestBody": _json_body(body),
            "responses": {"200": success, **{str(key): value for key, value in _refusals(ASKING, shape).items()}},
            "security": _SECURITY,
        }
    }


def _wish_schema(name: str) -> Object:
    if name == "x-tutti-timeout":
        return {"type": "number", "exclusiveMinimum": 0, "maximum": 3600}
    if name == "idempotency-key":
        return {"type": "string", "maxLength": KEY_CHARS_MAX}
    return {"type": "string"}


def _json_body(schema: str) -> Object:
    return {"required": True, "content": {"application/json": {"schema": _ref(schema)}}}


def _success(schema: str) -> Object:
    return {"description": "The answer.", "content": {"application/json": {"schema": _ref(schema)}}}


def _refusals(statuses: tuple[int, ...], shape: Shape) -> dict[int, Object]:
    return {
        status: {"description": _SAID[status], "content": {"application/json": {"schema": _ref(shape)}}}
        for status in sorted(set(statuses))
    }


def _ref(name: str) -> Object:
    return {"$ref": f"#/components/schemas/{name}"}
