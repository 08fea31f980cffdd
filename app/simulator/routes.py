"""The simulator's addresses: which path speaks which format."""

from __future__ import annotations

from urllib.parse import parse_qsl

from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from app.simulator.connection import BodyTooLarge, ClientGone, Connection
from app.simulator.engine import Call, Engine, Render
from app.simulator.exchange import ChatRequest, HttpAnswer, HttpRequest, Refusal, Wire
from app.simulator.wire_openai import OpenAIWire

OPENAI_BASES = ("/v1", "", "/compatible-mode/v1", "/v1beta/openai")


def provider_routes(engine: Engine) -> list[BaseRoute]:
    """Return the routes of all formats."""
    openai = OpenAIWire()
    routes: list[BaseRoute] = []
    for base in OPENAI_BASES:
        routes.append(Route(f"{base}/chat/completions", ChatEndpoint(engine, openai), methods=["POST"]))
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
        finally:
            await connection.leave()

    async def answer(self, http: HttpRequest, connection: Connection) -> None:
        """Answer a request whose body was read."""
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
