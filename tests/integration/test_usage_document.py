"""Random requests made from the OpenAPI document of the books' routes: nothing that it does not name comes back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from actors.store import Store
from app.http.app import build_app
from tests.fakes.desk import FakeDesk

OPERATIONS = (
    ("GET", "/api/v1/usage/stats"),
    ("GET", "/api/v1/usage/costs"),
    ("GET", "/api/v1/budgets"),
    ("GET", "/api/v1/books/unknown"),
    ("POST", "/api/v1/books/settle"),
    ("POST", "/api/v1/books/correct"),
)
"""All but ``/api/v1/usage/live``, which does not end."""
NEVER_200 = {"/api/v1/books/settle", "/api/v1/books/correct"}
"""Nobody guesses the id of a hold or an entry."""
EXAMPLES = 60
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


class _Elsewhere:
    """The store on an event loop of its own: every request of schemathesis runs on another."""

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._loop = loop

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def ask(*arguments: Any, **named: Any) -> Any:
            call = getattr(self._store, name)(*arguments, **named)
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, self._loop))

        return ask


@pytest.fixture
def schema(tmp_path: Path) -> Iterator[Any]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    store = Store(str(tmp_path))
    app = build_app(FakeDesk, version="1", books_factory=lambda: _Elsewhere(store, loop))
    try:
        yield schemathesis.openapi.from_asgi("/openapi.json", app)
    finally:
        asyncio.run_coroutine_threadsafe(store.close(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_openapi_document_of_the_books_holds(schema: Any, method: str, path: str) -> None:
    """No 5xx, no status, type or shape that it does not name, whatever a client writes into the query."""
    statuses: set[int] = set()

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=schema[path][method].as_strategy())
    def play(case: Any) -> None:
        response = case.call()
        statuses.add(response.status_code)
        case.validate_response(response, checks=CHECKS)

    play()

    assert 200 in statuses or path in NEVER_200
