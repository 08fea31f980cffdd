"""Every request has its trace: taken over or begun, named in the answer, measured under its route."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from app.domain.trace_context import current, enter, trace_id
from app.http.tracing import Traced
from app.services.telemetry import instruments
from app.services.telemetry.tracing import Recorder, record_into

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    record_into(recorder)
    yield recorder
    record_into(None)
    enter(None)


@pytest.fixture
def client() -> httpx.AsyncClient:
    app = FastAPI()

    @app.get("/items/{name}")
    async def item(name: str) -> dict[str, str]:
        if name == "broken":
            raise RuntimeError("a bug")
        return {"trace": trace_id()}

    @app.get("/healthz")
    async def health() -> dict[str, bool]:
        return {"traced": current() is not None}

    transport = httpx.ASGITransport(Traced(app, {"/hot"}), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def test_incoming_trace_goes_on_inside_and_stands_in_the_answer(
    client: httpx.AsyncClient, recorder: Recorder
) -> None:
    """From browser to provider it is one trace."""
    answer = await client.get("/items/a", headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})
    (span,) = recorder.ended

    assert answer.json() == {"trace": TRACE}
    assert answer.headers["x-trace-id"] == TRACE
    assert (span.context.trace_id, span.parent_id, span.kind) == (TRACE, SPAN, "server")
    assert span.attributes == {
        "http.request.method": "GET",
        "http.route": "/items/{name}",
        "http.response.status_code": 200,
    }


async def test_request_without_a_trace_gets_one_of_its_own(client: httpx.AsyncClient) -> None:
    """Also where nothing is recorded; and no two the same."""
    answers = [await client.get("/items/a") for _ in range(2)]

    assert [answer.json()["trace"] for answer in answers] == [answer.headers["x-trace-id"] for answer in answers]
    assert len({answer.headers["x-trace-id"] for answer in answers}) == 2


async def test_failure_is_named_and_counted(client: httpx.AsyncClient, recorder: Recorder) -> None:
    """A bug's message may hold anything: its kind is told, nothing else."""
    before = instruments.REQUESTS.values().get(("/items/{name}", "500"), 0)
    answer = await client.get("/items/broken")
    (span,) = recorder.ended

    assert answer.status_code == 500
    assert (span.name, span.error) == ("GET /items/{name}", "RuntimeError")
    assert instruments.REQUESTS.values()[("/items/{name}", "500")] == before + 1


async def test_paths_that_strangers_invent_are_one_route(client: httpx.AsyncClient, recorder: Recorder) -> None:
    """Neither spans nor labels grow with them."""
    for path in ("/wp-admin.php", "/items/x/y", "/.env"):
        await client.get(path)

    assert {span.name for span in recorder.ended} == {"GET other"}
    assert not any("wp-admin" in label for labels in instruments.REQUESTS.values() for label in labels)


async def test_health_checks_have_no_spans(client: httpx.AsyncClient, recorder: Recorder) -> None:
    """Asked every second, they would bury the rest."""
    answer = await client.get("/healthz", headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})

    assert answer.json() == {"traced": False}
    assert not recorder.ended


async def test_client_that_leaves_before_the_answer_is_counted(recorder: Recorder) -> None:
    """It saw no status, so it counts under none."""

    async def left(_scope: Scope, _receive: Receive, _send: Send) -> None:
        return

    before = instruments.REQUESTS.values().get(("/hot", "client_gone"), 0)
    scope = {"type": "http", "method": "POST", "path": "/hot", "headers": []}
    await Traced(left, {"/hot"})(scope, _receive, _send)

    assert instruments.REQUESTS.values()[("/hot", "client_gone")] == before + 1
    assert "http.response.status_code" not in recorder.ended[0].attributes


async def _receive() -> Message:
    return {"type": "http.disconnect"}


async def _send(_message: Message) -> None:
    raise AssertionError("nothing is answered")
