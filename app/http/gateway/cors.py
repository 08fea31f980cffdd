"""Lets pages of the configured origins call from a browser; who that is may change with the configuration.

Source: https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.domain.errors import GatewayError
from app.http.gateway.door import GatewayFactory

MAX_AGE_S = 600
_EXPOSED = (
    b"x-request-id, request-id, x-trace-id, retry-after, x-should-retry, "
    b"x-tutti-account, x-tutti-model, x-tutti-cost, x-tutti-overhead-ms, x-tutti-cache, x-tutti-run-id, "
) + b", ".join(
    b"x-ratelimit-%s-%s" % (what, kind)
    for what in (b"limit", b"remaining", b"reset")
    for kind in (b"requests", b"tokens", b"input-tokens", b"output-tokens")
)


class Cors:
    """ASGI middleware. Requests without an ``Origin`` cost one look into their headers.

    Args:
        app: What answers.
        gateway: Knows the configured origins.
    """

    def __init__(self, app: ASGIApp, gateway: GatewayFactory) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a preflight, or mark the answer for its page."""
        origin = _header(scope, b"origin") if scope["type"] == "http" else None
        if origin is None:
            await self._app(scope, receive, send)
            return
        allowed = await self._allowed(origin)
        if scope["method"] == "OPTIONS" and _header(scope, b"access-control-request-method") is not None:
            await _preflight(scope, send, allowed)
            return

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start" and allowed is not None:
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"access-control-allow-origin", allowed),
                    (b"access-control-expose-headers", _EXPOSED),
                    (b"vary", b"origin"),
                ]
            await send(message)

        await self._app(scope, receive, marked)

    async def _allowed(self, origin: bytes) -> bytes | None:
        try:
            origins: Sequence[str] = (await self._gateway()).orchestra().gateway.cors_origins
        except GatewayError:
            return None  # not known yet: nobody is let in by mistake
        if "*" in origins:
            return b"*"
        return origin if origin.decode("latin-1") in origins else None


async def _preflight(scope: Scope, send: Send, allowed: bytes | None) -> None:
    headers = [(b"content-length", b"0"), (b"vary", b"origin, access-control-request-headers")]
    if allowed is not None:
        headers += [
            (b"access-control-allow-origin", allowed),
            (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
            (b"access-control-allow-headers", _header(scope, b"access-control-request-headers") or b"*"),
            (b"access-control-max-age", str(MAX_AGE_S).encode()),
        ]
    await send({"type": "http.response.start", "status": 204 if allowed is not None else 403, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _header(scope: Scope, name: bytes) -> bytes | None:
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None
