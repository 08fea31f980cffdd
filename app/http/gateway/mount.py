"""Puts the gateway into the HTTP app: the hot paths before the framework, the quiet ones as its routes."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI
from starlette.responses import JSONResponse
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from app.http.errors import error_body
from app.http.formats.anthropic_messages import AnthropicMessages
from app.http.formats.openai_chat import OpenAIChat
from app.http.formats.openai_responses import OpenAIResponses
from app.http.gateway import openapi
from app.http.gateway.access import KeyNeeded
from app.http.gateway.cors import Cors
from app.http.gateway.door import ChatDoor, GatewayFactory, Keys
from app.http.gateway.routes import answering, count_message_tokens, embed, explain_route, get_model, list_models
from app.http.gateway.turnstile import Turnstile
from app.http.tracing import Traced


class HotPaths:
    """Answers the chat routes itself; everything else goes on to the app."""

    def __init__(self, app: ASGIApp, doors: Mapping[str, ChatDoor]) -> None:
        self._app = app
        self._doors = doors
        self._turnstile = Turnstile()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        door = self._doors.get(scope["path"]) if scope["type"] == "http" else None
        if door is None or scope["method"] == "OPTIONS":
            await self._app(scope, receive, send)
        elif scope["method"] == "POST":
            await self._turnstile.enter()
            await door(scope, receive, send)
        else:
            await _not_offered(scope["method"], scope["path"])(scope, receive, send)


class _HotRoute:
    """A hot path as Ray Serve looks for it when it names a request in its metrics."""

    def __init__(self, path: str) -> None:
        self.path = path

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """See ``starlette.routing.BaseRoute``."""
        return (Match.FULL, {}) if scope.get("path") == self.path else (Match.NONE, {})


class FrontDoor:
    """The whole HTTP application: the hot paths before the framework and its layers, which cost a tenth of a call.

    Args:
        app: Everything but the hot paths.
        doors: The hot paths.
        gateway: Knows the configured web origins.
    """

    def __init__(self, app: FastAPI, doors: Mapping[str, ChatDoor], gateway: GatewayFactory) -> None:
        self._entry = Traced(Cors(HotPaths(app, doors), gateway), doors)
        self.router = app.router
        self.routes = [*map(_HotRoute, doors), *app.routes]
        """Ray Serve names requests by them."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._entry(scope, receive, send)


def _not_offered(method: str, path: str) -> JSONResponse:
    message = f"{method} is not offered at {path!r}."
    body = error_body("method_not_allowed_error", message, param=None, remedy="Use POST.")
    return JSONResponse(body, status_code=405, headers={"allow": "POST"})


def mount(app: FastAPI, gateway: GatewayFactory) -> FrontDoor:
    """Return ``app`` with the gateway.

    Args:
        app: Without middleware of its own yet.
        gateway: Gives the replica's gateway, and waits until its configuration is known.
    """
    keys = Keys()
    app.state.gateway, app.state.keys = gateway, keys
    chat, messages = OpenAIChat(), AnthropicMessages()
    doors = {
        "/v1/chat/completions": ChatDoor(gateway, chat, keys),
        "/api/v1/chat/completions": ChatDoor(gateway, OpenAIChat(compat_fields=True), keys, auto=True),
        "/v1/messages": ChatDoor(gateway, messages, keys, id_header=b"request-id"),
        "/v1/responses": ChatDoor(gateway, OpenAIResponses(), keys),
    }
    app.add_middleware(KeyNeeded, gateway=gateway, keys=keys)
    for prefix in ("/v1", "/api/v1"):
        app.add_api_route(f"{prefix}/models", answering(list_models), **_get("ModelList"))
        one = _get("Model", path="model", statuses=(404,))
        app.add_api_route(f"{prefix}/models/{{model:path}}", answering(get_model), **one)
    embedding = openapi.quiet("EmbeddingsAnswer", body="EmbeddingsRequest", statuses=openapi.ASKING)
    app.add_api_route("/v1/embeddings", answering(embed), methods=["POST"], tags=[openapi.TAG], **embedding)
    explaining = openapi.quiet("ExplainAnswer", body="ExplainRequest", statuses=(403, 404))
    app.add_api_route("/v1/route/explain", answering(explain_route), methods=["POST"], tags=[openapi.TAG], **explaining)
    counting = openapi.quiet("CountAnswer", body="CountRequest", shape="AnthropicError")
    endpoint = answering(count_message_tokens, messages)
    app.add_api_route("/v1/messages/count_tokens", endpoint, methods=["POST"], tags=[openapi.TAG], **counting)
    openapi.install(app)
    return FrontDoor(app, doors, gateway)


def _get(answer: str, *, path: str | None = None, statuses: tuple[int, ...] = ()) -> openapi.Object:
    return {"methods": ["GET"], "tags": [openapi.TAG], **openapi.quiet(answer, path=path, statuses=statuses)}
