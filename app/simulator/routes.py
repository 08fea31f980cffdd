"""The simulator's addresses: which path speaks which format."""

from __future__ import annotations

from functools import partial
from urllib.parse import parse_qsl

import orjson
from pydantic import JsonValue
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from app.simulator.background import Detached
from app.simulator.batches import uploaded
from app.simulator.connection import BodyTooLarge, ClientGone, Connection
from app.simulator.embeddings import GeminiEmbeddings, OpenAIEmbeddings, check_inputs
from app.simulator.engine import Call, Engine, Render
from app.simulator.exchange import ChatRequest, HttpAnswer, HttpRequest, Refusal, Wire, json_body
from app.simulator.json_reading import JsonObject, objects_in, text_of
from app.simulator.wire_anthropic import AnthropicWire, count
from app.simulator.wire_gemini import GeminiWire
from app.simulator.wire_openai import OpenAIWire
from app.simulator.wire_responses import ResponsesWire

OPENAI_BASES = ("/v1", "", "/compatible-mode/v1", "/v1beta/openai")
ANTHROPIC_BASES = ("/v1", "/anthropic/v1")
GEMINI_VERSIONS = ("/v1beta", "/v1")
"""Newer releases of the SDK ask ``/v1``."""
LIST_DEFAULT = 20
_BATCH_PATHS = (
    ("files", "POST"),
    ("files/{target}/content", "GET"),
    ("batches", "POST"),
    ("batches", "GET"),
    ("batches/{target}", "GET"),
    ("batches/{target}/cancel", "POST"),
)
NAMELESS_MODEL = "simulated-model"
"""Listed where the configuration accepts any name."""


def provider_routes(engine: Engine) -> list[BaseRoute]:
    """Return the routes of all formats."""
    openai, anthropic, gemini = OpenAIWire(), AnthropicWire(), GeminiWire()
    responses = ResponsesWire()
    routes: list[BaseRoute] = []
    for base in OPENAI_BASES:
        routes.append(Route(f"{base}/chat/completions", ChatEndpoint(engine, openai), methods=["POST"]))
        routes.append(Route(f"{base}/chat/completions", StoredCompletions(engine, openai), methods=["GET"]))
        routes.append(Route(f"{base}/responses", BeginResponse(engine, responses), methods=["POST"]))
        for path, methods in (("responses/{target}", ["GET"]), ("responses/{target}/cancel", ["POST"])):
            routes.append(Route(f"{base}/{path}", BegunResponse(engine, responses), methods=methods))
        for path, method in _BATCH_PATHS:
            routes.append(Route(f"{base}/{path}", BatchEndpoint(engine, openai), methods=[method]))
        routes.append(Route(f"{base}/embeddings", OpenAIEmbeddingEndpoint(engine, openai), methods=["POST"]))
    for base in ANTHROPIC_BASES:
        routes.append(Route(f"{base}/messages", ChatEndpoint(engine, anthropic), methods=["POST"]))
        routes.append(Route(f"{base}/messages/count_tokens", AnthropicCount(engine, anthropic), methods=["POST"]))
    for version in GEMINI_VERSIONS:
        routes.append(Route(f"{version}/models/{{target:path}}", GeminiEndpoint(engine, gemini), methods=["POST"]))
    for path in (*(f"{base}/models" for base in OPENAI_BASES), "/v1beta/models"):
        routes.append(Route(path, Models(engine, openai, gemini_path=path == "/v1beta/models"), methods=["GET"]))
    return routes


class Endpoint:
    """Reads a request, hands it on, and stops watching the client whatever happens."""

    def __init__(self, engine: Engine, wire: Wire) -> None:
        self.engine = engine
        self.wire = wire

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        connection = Connection(scope, receive, send)
        try:
            http = HttpRequest(
                path=scope["path"],
                headers={name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]},
                query=dict(parse_qsl(scope["query_string"].decode("latin-1"))),
                raw=await connection.read_body(),
                path_model=scope.get("path_params", {}).get("target"),
            )
            await self.answer(http, connection)
        except ClientGone:
            pass
        except BodyTooLarge:
            await connection.answer(self.refusal(Refusal("invalid", "Request body too large.", status=413)))
        except Refusal as refusal:
            await connection.answer(self.refusal(refusal))
        finally:
            await connection.leave()

    async def answer(self, http: HttpRequest, connection: Connection) -> None:
        """Answer a request whose body was read; a Refusal raised here is answered and not counted."""
        raise NotImplementedError

    def refusal(self, refusal: Refusal) -> HttpAnswer:
        """Return an error for a request that is not counted."""
        return self.wire.error(refusal, model=None, number=0, as_array=False)


class ChatEndpoint(Endpoint):
    """Chat, streamed or not."""

    async def answer(self, http: HttpRequest, connection: Connection) -> None:
        """Answer a chat request."""
        await self.engine.handle(Call(wire=self.wire, http=http, parse=self.parse), connection)

    def parse(self, http: HttpRequest) -> tuple[ChatRequest, Render | None]:
        """Return the chat request; its answer is written by the wire."""
        return self.wire.parse(http), None


class StoredCompletions(Endpoint):
    """OpenAI's list of completions that were asked for with ``store``: free, and filtered by ``metadata[name]``."""

    async def answer(self, http: HttpRequest, connection: Connection) -> None:
        """List the completions of the caller's key."""
        account = self.engine.authenticate(self.wire, http)
        wanted = {
            name.removeprefix("metadata[").removesuffix("]"): value
            for name, value in http.query.items()
            if name.startswith("metadata[") and name.endswith("]")
        }
        limit = int(http.query["limit"]) if http.query.get("limit", "").isdecimal() else LIST_DEFAULT
        listed: list[JsonValue] = list(self.engine.stored(account.key, wanted, limit))
        ids: list[JsonValue] = [text_of(item.get("id")) for item in objects_in(listed)]
        body: JsonObject = {
            "object": "list",
            "data": listed,
            "first_id": ids[0] if ids else None,
            "last_id": ids[-1] if ids else None,
            "has_more": False,
        }
        await connection.answer(HttpAnswer(status=200, body=orjson.dumps(body)))


class BeginResponse(ChatEndpoint):
    """OpenAI's responses in the background: limited, billed and failing as chat is, whoever listens."""

    async def answer(self, http: HttpRequest, connection: Connection) -> None:
        """Begin it, and tell its name at once."""
        background = self.engine.background
        begun = background.new(self.wire.key_of(http) or "")
        call = Call(wire=self.wire, http=http, parse=self.parse)
        await background.begin(begun, self.engine.handle(call, begun.answering))
        await connection.answer(begun.refusal or HttpAnswer(status=200, body=begun.told()))


class BegunResponse(Endpoint):
    """A response in the background: how far it is, or its end; asking is free."""

    async def answer(self, http: HttpRequest, connection: Connection) -> None:
        """Tell of it, after stopping it where the path says so."""
        account, name = self.engine.authenticate(self.wire, http), http.path_model or ""
        begun = self.engine.background.find(account.key, name)
        if begun is None:
            raise Refusal("not_found", f"Response with id {name!r} not found.")
        if http.path.endswith("/cancel"):
            await begun.stop()
        await connection.answer(HttpAnswer(status=200, body=begun.told()))


class BatchEndpoint(ChatEndpoint):
    """OpenAI's files and batches: each line is limited, billed and failing as the chat that it is; the rest is free."""

    async def answer(self, http: HttpRequest, connection: Connection) -> None:
        """Answer by path."""
        key, batches, config = self.engine.authenticate(self.wire, http).key, self.engine.batches, self.engine.config
        target, body = http.path_model or "", b""
        if http.path.endswith("/content"):
            body = batches.get_file(key, target)
        elif http.path.endswith("/files"):
            body = orjson.dumps({"id": batches.keep_file(key, uploaded(http)), "object": "file", "purpose": "batch"})
        elif target:
            batch = batches.get(key, target)
            if http.path.endswith("/cancel"):
                await batches.stop(batch)
            body = orjson.dumps(batch.told())
        elif http.raw:
            make = partial(self._make, http.headers)
            begun = json_body(http.raw)
            batch = batches.begin(key, begun, make, delay_s=config.batch_delay_s, lag_s=config.store_lag_s)
            body = orjson.dumps(batch.told())
        else:
            limit = int(http.query["limit"]) if http.query.get("limit", "").isdecimal() else LIST_DEFAULT
            found, more = batches.listed(key, after=http.query.get("after"), limit=limit)
            body = orjson.dumps({"object": "list", "data": [one.told() for one in found], "has_more": more})
        await connection.answer(HttpAnswer(status=200, body=body))

    async def _make(self, headers: dict[str, str], raw: bytes, answering: Detached) -> None:
        """Answer one line of a batch."""
        line = HttpRequest(path="/v1/chat/completions", headers=headers, query={}, raw=raw)
        await self.engine.handle(Call(wire=self.wire, http=line, parse=self.parse), answering)


class OpenAIEmbeddingEndpoint(ChatEndpoint):
    """Embeddings: limited and billed as chat is, without output."""

    def parse(self, http: HttpRequest) -> tuple[ChatRequest, Render | None]:
        """Return the inputs as a prompt, and how to write their vectors."""
        found = OpenAIEmbeddings(http)
        check_inputs(len(found.inputs), self.engine.config.profile_of(found.request.model))
        return found.request, found.render


class GeminiEndpoint(ChatEndpoint):
    """All of Gemini's verbs, which follow the model in the path."""

    async def answer(self, http: HttpRequest, connection: Connection) -> None:
        """Answer by verb."""
        verb = (http.path_model or "").rpartition(":")[2]
        if verb == "countTokens":
            self.engine.authenticate(self.wire, http)
            tokens = self.wire.parse(_unwrapped(http)).input_tokens
            body: JsonValue = {
                "totalTokens": tokens,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": tokens}],
            }
            await connection.answer(HttpAnswer(status=200, body=orjson.dumps(body)))
        elif verb in ("generateContent", "streamGenerateContent", "embedContent", "batchEmbedContents"):
            await super().answer(http, connection)
        else:
            raise Refusal("invalid", f"Unknown verb {verb!r}.", status=404)

    def parse(self, http: HttpRequest) -> tuple[ChatRequest, Render | None]:
        """Return the request of the path's verb."""
        if not (http.path_model or "").endswith(("embedContent", "batchEmbedContents")):
            return super().parse(http)
        found = GeminiEmbeddings(http)
        check_inputs(len(found.inputs), self.engine.config.profile_of(found.request.model))
        return found.request, found.render


class AnthropicCount(Endpoint):
    """``count_tokens``: free and unlimited."""

    async def answer(self, http: HttpRequest, connection: Connection) -> None:
        """Count the prompt."""
        self.engine.authenticate(self.wire, http)
        request = AnthropicWire().parse_prompt(http, json_body(http.raw))
        await connection.answer(HttpAnswer(status=200, body=count(request)))


class Models(Endpoint):
    """The list of models. ``/v1/models`` exists at every provider; the client's headers tell which one it asks."""

    def __init__(self, engine: Engine, wire: Wire, *, gemini_path: bool) -> None:
        super().__init__(engine, wire)
        self._gemini_path = gemini_path

    async def answer(self, http: HttpRequest, connection: Connection) -> None:
        """List the models."""
        wire: Wire = self.wire
        if self._gemini_path or "x-goog-api-key" in http.headers:
            wire = GeminiWire()
        elif "anthropic-version" in http.headers:
            wire = AnthropicWire()
        try:
            self.engine.authenticate(wire, http)
        except Refusal as refusal:
            await connection.answer(wire.error(refusal, model=None, number=0, as_array=False))
            return
        names = [name for name in self.engine.config.models or [NAMELESS_MODEL] if self.engine.serves(name, wire)]
        body = {"openai": _openai_models, "anthropic": _anthropic_models, "gemini": _gemini_models}[wire.format](names)
        await connection.answer(HttpAnswer(status=200, body=orjson.dumps(body)))


def _openai_models(names: list[str]) -> JsonObject:
    listed: list[JsonValue] = [{"id": name, "object": "model", "created": 0, "owned_by": "simulator"} for name in names]
    return {"object": "list", "data": listed}


def _anthropic_models(names: list[str]) -> JsonObject:
    created = "2026-01-01T00:00:00Z"
    listed: list[JsonValue] = [
        {"type": "model", "id": name, "display_name": name, "created_at": created} for name in names
    ]
    ends: JsonObject = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
    return {"data": listed, "has_more": False, **ends}


def _gemini_models(names: list[str]) -> JsonObject:
    verbs: list[JsonValue] = ["generateContent", "countTokens", "embedContent"]
    listed: list[JsonValue] = [
        {"name": f"models/{name}", "displayName": name, "supportedGenerationMethods": verbs} for name in names
    ]
    return {"models": listed}


def _unwrapped(http: HttpRequest) -> HttpRequest:
    """Return a countTokens request whose ``generateContentRequest``, if it has one, is the body."""
    inner = json_body(http.raw).get("generateContentRequest")
    if not isinstance(inner, dict):
        return http
    return HttpRequest(
        path=http.path, headers=http.headers, query=http.query, raw=orjson.dumps(inner), path_model=http.path_model
    )
