"""Asks for a key at every door but the open ones, where the configuration has keys.

The hot paths identify their callers themselves; this stands before everything else.
"""

from __future__ import annotations

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.domain.errors import AccessError, GatewayError
from app.http.errors import body_of, wire_kind
from app.http.gateway import reading
from app.http.gateway.door import GatewayFactory, Keys

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/docs", "/docs/oauth2-redirect", "/openapi.json"})
"""What watchers of the process and readers of the documentation may see without a key."""


class KeyNeeded:
    """ASGI middleware: without a valid key nothing behind it is reached, once the configuration has keys.

    Args:
        app: What it protects.
        gateway: Knows the configuration.
        keys: Knows the callers.
    """

    def __init__(self, app: ASGIApp, gateway: GatewayFactory, keys: Keys) -> None:
        self._app = app
        self._gateway = gateway
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        try:
            orchestra = (await self._gateway()).orchestra()
            # Who it is, for the routes that show a key its own.
            scope.setdefault("state", {})["caller"] = self._keys.identify(reading.headers_by_name(scope), orchestra)
        except AccessError as error:
            await JSONResponse(body_of(error), status_code=401, headers={"www-authenticate": "Bearer"})(
                scope, receive, send
            )
            return
        except GatewayError as error:
            row = wire_kind(error)
            await JSONResponse(body_of(error), status_code=row.status, headers={"retry-after": "2"})(
                scope, receive, send
            )
            return
        await self._app(scope, receive, send)
