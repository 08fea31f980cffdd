"""Builds the HTTP app over the port ``Desk``: routes, errors, documentation.

Knows neither Ray nor where the desk comes from; ``app/serve.py`` puts it behind Ray Serve, tests call it directly.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

from fastapi import FastAPI

from app.domain.ports import Desk, UsageBooks
from app.http import books, errors, health, operations, projects, usage
from app.http.gateway.door import GatewayFactory
from app.http.gateway.mount import FrontDoor, mount
from app.http.limits import HttpLimits

Made = TypeVar("Made")

DESCRIPTION = """Tutti takes a project request, plans it as a graph of tasks, plays them on all the LLM accounts it has,
judges every result and merges them into one answer.

Every error has the shape `{"error": {"type", "message", "param", "remedy"}}`."""


def build_app(
    desk_factory: Callable[[], Desk],
    *,
    version: str,
    books_factory: Callable[[], UsageBooks] | None = None,
    limits: HttpLimits | None = None,
    on_start: Callable[[], None] | None = None,
    on_end: Callable[[], Awaitable[None]] | None = None,
) -> FastAPI:
    """Build the app.

    Args:
        desk_factory: Called once, at the first request, on the app's event loop.
        version: What /healthz and the OpenAPI document say.
        books_factory: As ``desk_factory``; without it the routes of the books are not there.
        limits: Bounds of what is let in.
        on_start: Called on the event loop when the server starts, before its first request.
        on_end: Awaited when the server ends, after its last request.

    The app does not pickle: FastAPI keeps a lock in it, and Starlette's state cannot be loaded again. Ray Serve takes a
    function that calls this one, ``serve.ingress(lambda: build_door(...))``, and calls it on each replica.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        if on_start is not None:
            on_start()
        yield
        if on_end is not None:
            await on_end()

    app = FastAPI(title="Tutti", version=version, description=DESCRIPTION, redoc_url=None, lifespan=lifespan)
    app.state.desk = _Once(desk_factory)
    app.state.limits = limits or HttpLimits()
    errors.install(app)
    for router in (projects.router, operations.router, health.router):
        app.include_router(router)
    if books_factory is not None:
        app.state.books = _Once(books_factory)
        app.include_router(usage.router)
        app.include_router(books.router)
    return app


def build_door(
    desk_factory: Callable[[], Desk],
    *,
    version: str,
    gateway: GatewayFactory,
    books_factory: Callable[[], UsageBooks] | None = None,
    on_start: Callable[[], None] | None = None,
    on_end: Callable[[], Awaitable[None]] | None = None,
) -> FrontDoor:
    """Return the app with the gateway of this process in front; the rest as ``build_app``."""
    app = build_app(desk_factory, version=version, books_factory=books_factory, on_start=on_start, on_end=on_end)
    return mount(app, gateway)


class _Once(Generic[Made]):
    """Makes something at the first request and keeps it."""

    def __init__(self, factory: Callable[[], Made]) -> None:
        self._factory = factory
        self._made: Made | None = None

    def __call__(self) -> Made:
        if self._made is None:
            self._made = self._factory()
        return self._made
