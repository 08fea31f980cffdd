"""Builds the HTTP app over the port ``Desk``: routes, errors, documentation.

Knows neither Ray nor where the desk comes from; ``app/serve.py`` puts it behind Ray Serve, tests call it directly.
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI

from app.domain.ports import Desk
from app.http import errors, health, operations, projects
from app.http.gateway.door import GatewayFactory
from app.http.gateway.mount import mount
from app.http.limits import HttpLimits

DESCRIPTION = """Tutti takes a project request, plans it as a graph of tasks, plays them on all the LLM accounts it has,
judges every result and merges them into one answer.

Every error has the shape `{"error": {"type", "message", "param", "remedy"}}`."""


def build_app(
    desk_factory: Callable[[], Desk],
    *,
    version: str,
    gateway: GatewayFactory | None = None,
    limits: HttpLimits | None = None,
) -> FastAPI:
    """Build the app.

    Args:
        desk_factory: Called once, at the first request, on the app's event loop.
        version: What /healthz and the OpenAPI document say.
        gateway: Gives the gateway of this process; None leaves its routes out.
        limits: Bounds of what is let in.

    The app does not pickle: FastAPI keeps a lock in it, and Starlette's state cannot be loaded again. Ray Serve takes a
    function that calls this one, ``serve.ingress(lambda: build_app(...))``, and calls it on each replica.
    """
    app = FastAPI(title="Tutti", version=version, description=DESCRIPTION, redoc_url=None)
    app.state.desk = _Once(desk_factory)
    app.state.limits = limits or HttpLimits()
    errors.install(app)
    for router in (projects.router, operations.router, health.router):
        app.include_router(router)
    if gateway is not None:
        mount(app, gateway)
    return app


class _Once:
    """Makes the desk at the first request and keeps it."""

    def __init__(self, factory: Callable[[], Desk]) -> None:
        self._factory = factory
        self._desk: Desk | None = None

    def __call__(self) -> Desk:
        if self._desk is None:
            self._desk = self._factory()
        return self._desk
