"""Gives every HTTP request its trace: W3C's ``traceparent`` in, ``x-trace-id`` out, a span and metrics around it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Container

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.domain.metric_names import OTHER, Attribute
from app.domain.trace_context import TraceContext, parse_parent, use
from app.services.telemetry import instruments
from app.services.telemetry.tracing import begin, span

TRACE_HEADER = b"x-trace-id"
QUIET = frozenset({"/healthz", "/readyz", "/-/healthz", "/-/routes"})
"""Asked by machines every second: no spans."""


class Traced:
    """ASGI middleware around everything.

    Args:
        app: What answers.
        hot: Paths that no framework names for us.
    """

    def __init__(self, app: ASGIApp, hot: Container[str]) -> None:
        self._app = app
        self._hot = hot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, under its trace."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context, path, began_s, status = begin(_incoming(scope)), scope["path"], time.perf_counter(), 0
        header = (TRACE_HEADER, context.trace_id.encode())

        def marked(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), header]
            return send(message)

        with use(None if path in QUIET else context), span("request", "server") as told:
            try:
                await self._app(scope, receive, marked)
            finally:
                route = self._route(scope, path)
                told.rename(f"{scope['method']} {route}")
                told.set(Attribute.METHOD, scope["method"])
                told.set(Attribute.ROUTE, route)
                told.set(Attribute.STATUS, status or None)
                instruments.REQUESTS.add(1, route, str(status) if status else "client_gone")
                instruments.REQUEST_DURATION.observe(time.perf_counter() - began_s, route)

    def _route(self, scope: Scope, path: str) -> str:
        """Return the route as it is declared: paths hold ids, and whatever strangers ask for."""
        if path in self._hot:
            return path
        return str(getattr(scope.get("route"), "path", OTHER))


def _incoming(scope: Scope) -> TraceContext | None:
    parent, state = b"", b""
    for name, value in scope["headers"]:
        if name == b"traceparent":
            parent = value
        elif name == b"tracestate":
            state = value
    return parse_parent(parent.decode("latin-1"), state.decode("latin-1")) if parent else None
