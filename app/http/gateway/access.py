"""Asks for a key at every door but the open ones, where the configuration has keys; tells who is refused.

The hot paths identify their callers themselves; this stands before everything else.
"""

from __future__ import annotations

from starlette.responses import JSONResponse
from starlette.routing import Match
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
        headers = reading.headers_by_name(scope)
        try:
            gateway = await self._gateway()
            # Who it is, for the routes that show a key its own.
            scope.setdefault("state", {})["caller"] = self._keys.identify(headers, gateway)
        except AccessError as error:
            gateway.events.emit(
                "access.refused",
                request_id=reading.find_request_id(headers),
                endpoint=_declared(scope),
                http_method=scope["method"],
                http_status=401,
                outcome="failure",
                reason="unknown key",
            )
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


def _declared(scope: Scope) -> str | None:
    """Return the route as it is declared; None where there is none: a stranger's words are not told."""
    found = (route for route in scope["app"].routes if route.matches(scope)[0] is Match.FULL)
    return getattr(next(found, None), "path", None)
