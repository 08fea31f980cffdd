"""The doors of projects, over a desk of ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from app.domain.books.budgets import Owners
from app.domain.errors import CapacityError, InternalError
from app.domain.run import RunStatus
from app.http.app import build_app
from app.http.limits import HttpLimits
from app.http.schemas import ProjectListOut, ProjectOut, ResultDocumentOut
from tests.fakes.asgi import StreamingAppTransport
from tests.fakes.desk import ASK_WORD, FAIL_WORD, FakeDesk

TEXT = "Write a guide for a cafe."


@pytest.fixture
def desk() -> FakeDesk:
    return FakeDesk()


@pytest.fixture
async def http(desk: FakeDesk) -> AsyncIterator[httpx.AsyncClient]:
    app = build_app(lambda: desk, version="1.2.3", limits=HttpLimits(keepalive_s=0.02))
    async with httpx.AsyncClient(transport=StreamingAppTransport(app), base_url="http://tutti") as client:
        yield client


def _error(response: httpx.Response) -> dict[str, str]:
    body = response.json()
    assert set(body["error"]) == {"type", "message", "param", "remedy"}
    assert body["error"]["message"]
    assert body["error"]["remedy"]
    return dict(body["error"])


async def test_process_project_returns_the_document_when_the_run_ends(http: httpx.AsyncClient) -> None:
    """The synchronous door gives the result document, as documented and with nothing else in it."""
    response = await http.post("/process_project", json={"request_text": TEXT})

    assert response.status_code == 200
    document = ResultDocumentOut.model_validate(response.json(), strict=True)
    assert document.status == "completed"
    assert [task.id for task in document.tasks] == ["t1", "t2", "t3", "t4"]
    assert response.headers["x-tutti-run-id"] == document.run_id


async def test_process_project_passes_the_options_on(http: httpx.AsyncClient, desk: FakeDesk) -> None:
    """Every documented option reaches the desk."""
    body = {"request_text": TEXT, "assume_defaults": True, "timeout_s": 30, "max_tokens_total": 5000, "budget_usd": 2.5}
    await http.post("/process_project", json=body, headers={b"idempotency-key": b"k1", b"x-tutti-user": "änn".encode()})

    request = desk.requests[0]
    assert (request.assume_defaults, request.timeout_s, request.tokens_max) == (True, 30.0, 5000)
    assert request.idempotency_key == "k1"
    assert (request.budget_usd, request.buyers) == ("2.5", Owners(user="änn", key="anonymous"))


@pytest.mark.parametrize(("said", "taken"), [("0.10", "0.1"), (1, "1"), (1e-9, "0.000000001"), ("100", "100")])
async def test_a_budget_is_taken_exactly_as_it_was_said(
    http: httpx.AsyncClient, desk: FakeDesk, said: object, taken: str
) -> None:
    """Money is decimal: no binary fraction may round it."""
    await http.post("/process_project", json={"request_text": TEXT, "budget_usd": said})

    assert desk.requests[0].budget_usd == taken


@pytest.mark.parametrize("said", [0, -1, "much", "NaN", 1e300, [1], "1e-999999999", "1e999999999", True])
async def test_a_budget_that_is_no_amount_is_refused_by_name(http: httpx.AsyncClient, said: object) -> None:
    """A slip must not become a run without a ceiling."""
    response = await http.post("/process_project", json={"request_text": TEXT, "budget_usd": said})

    assert response.status_code == 422
    assert _error(response)["param"] == "budget_usd"


async def test_process_project_sends_the_id_before_the_answer_and_survives_a_disconnect(
    http: httpx.AsyncClient, desk: FakeDesk
) -> None:
    """A client that goes away loses nothing: it has the id already, and the run is not cancelled."""
    async with http.stream("POST", "/process_project", json={"request_text": TEXT}) as response:
        run_id = response.headers["x-tutti-run-id"]
        assert not desk.runs[run_id].status.ended

    assert run_id in desk.runs
    assert desk.runs[run_id].status is not RunStatus.CANCELLED
    while desk.to_come[run_id]:
        desk.advance(run_id)
    assert (await http.get(f"/v1/projects/{run_id}")).json()["document"]["status"] == "completed"


async def test_process_project_returns_at_once_when_answers_are_needed(http: httpx.AsyncClient) -> None:
    """A run that asks is not an error: 200, and the document's status says what is needed."""
    response = await http.post("/process_project", json={"request_text": f"A guide for {ASK_WORD}."})

    assert response.status_code == 200
    document = ResultDocumentOut.model_validate(response.json())
    assert document.status == "needs_answers"
    assert document.questions[0].options == ["Hanoi", "Lisbon"]


async def test_process_project_gives_a_failed_run_its_document(http: httpx.AsyncClient) -> None:
    """A run without an answer still has a document, and its status says so."""
    response = await http.post("/process_project", json={"request_text": f"An {FAIL_WORD} guide."})

    assert response.status_code == 200
    assert response.json()["status"] == "failed"
    assert response.json()["error"] == "every account failed"


async def test_process_project_ends_with_an_error_object_when_the_cluster_fails_on_the_way(
    http: httpx.AsyncClient, desk: FakeDesk
) -> None:
    """The status line is gone by then; the body and the header still say what and which run."""
    desk.failing["events"] = InternalError("the store does not answer")
    response = await http.post("/process_project", json={"request_text": TEXT})

    assert _error(response)["type"] == "unavailable_error"
    assert response.headers["x-tutti-run-id"] == "run-1"


async def test_start_project_is_accepted_with_a_location(http: httpx.AsyncClient) -> None:
    """202, the id, and where to look."""
    response = await http.post("/v1/projects", json={"request_text": TEXT})

    assert response.status_code == 202
    project = ProjectOut.model_validate(response.json())
    assert response.headers["location"] == f"/v1/projects/{project.run_id}"
    assert (await http.get(response.headers["location"])).json()["run_id"] == project.run_id


async def test_idempotency_key_gives_the_same_run_and_refuses_another_request(http: httpx.AsyncClient) -> None:
    """Repeating a request must not buy it twice."""
    headers = {"idempotency-key": "k"}
    first = await http.post("/v1/projects", json={"request_text": TEXT}, headers=headers)
    second = await http.post("/v1/projects", json={"request_text": TEXT}, headers=headers)
    third = await http.post("/v1/projects", json={"request_text": "Another."}, headers=headers)

    assert second.json()["run_id"] == first.json()["run_id"]
    assert third.status_code == 409
    assert _error(third)["param"] == "idempotency-key"


@pytest.mark.parametrize(
    ("body", "content_type", "status", "param"),
    [
        (b'{"request_text": ""}', "application/json", 422, "request_text"),
        (b'{"request_text": "  "}', "application/json", 422, "request_text"),
        (b'{"request_text": "\\ud800"}', "application/json", 422, "request_text"),
        (b'{"request_text": 7}', "application/json", 422, "request_text"),
        (b"{}", "application/json", 422, "request_text"),
        (b"[]", "application/json", 422, None),
        (b"", "application/json", 400, "body"),
        (b'{"request_text": "x", "colour": 1}', "application/json", 422, "colour"),
        (b'{"request_text": "x", "timeout_s": 0}', "application/json", 422, "timeout_s"),
        (b'{"request_text": "x"', "application/json", 400, "body"),
        (b'{"request_text": "\xff\xfe"}', "application/json", 400, "body"),
        (b"[" * 100_000, "application/json", 400, "body"),
        (b'{"request_text": ' + b"9" * 5_000 + b"}", "application/json", 400, "body"),
        (b'{"request_text": "x"}', "text/plain", 415, "content-type"),
        (b'{"request_text": "x"}', "", 415, "content-type"),
        (b'{"request_text": "x"}', "application/json; charset=latin-1", 415, "content-type"),
        (b'{"request_text": "' + b"x" * 1_000_000 + b'"}', "application/json", 413, "body"),
        (b'{"request_text": "' + b"x" * 300_000 + b'"}', "application/json", 413, "request_text"),
    ],
)
@pytest.mark.parametrize("path", ["/process_project", "/v1/projects"])
async def test_bad_input_is_refused_naming_field_and_remedy(
    http: httpx.AsyncClient, path: str, body: bytes, content_type: str, status: int, param: str | None
) -> None:
    """Whatever is wrong with a body, the answer has the one shape and says where and what to do."""
    headers = {"content-type": content_type} if content_type else {}
    response = await http.post(path, content=body, headers=headers)

    assert response.status_code == status
    assert _error(response)["param"] == param


async def test_body_without_a_declared_length_is_bounded_too(http: httpx.AsyncClient, desk: FakeDesk) -> None:
    """A chunked upload cannot get past the bound."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 20_000

    response = await http.post("/v1/projects", content=endless(), headers={"content-type": "application/json"})

    assert response.status_code == 413
    assert not desk.runs


async def test_full_house_says_when_to_come_back(http: httpx.AsyncClient, desk: FakeDesk) -> None:
    """503 carries Retry-After, rounded up to whole seconds."""
    desk.failing["start"] = CapacityError("every account is full", retry_after_s=7.2)
    response = await http.post("/process_project", json={"request_text": TEXT})

    assert response.status_code == 503
    assert response.headers["retry-after"] == "8"
    assert _error(response)["type"] == "capacity_error"


async def test_list_pages_through_projects_newest_first(http: httpx.AsyncClient) -> None:
    """``next_before_s`` of one page is ``before_s`` of the next."""
    for _ in range(3):
        await http.post("/v1/projects", json={"request_text": TEXT})
    first = ProjectListOut.model_validate((await http.get("/v1/projects?limit=2")).json())
    second = ProjectListOut.model_validate(
        (await http.get(f"/v1/projects?limit=2&before_s={first.next_before_s!r}")).json()
    )

    assert [row.run_id for row in first.data] == ["run-3", "run-2"]
    assert [row.run_id for row in second.data] == ["run-1"]
    assert second.next_before_s is None


async def test_project_shows_request_plan_and_document(http: httpx.AsyncClient) -> None:
    """One look gives everything, in the documented shape, and not the caller's idempotency key."""
    await http.post("/process_project", json={"request_text": TEXT}, headers={"idempotency-key": "secret-key"})
    response = await http.get("/v1/projects/run-1")
    project = ProjectOut.model_validate(response.json(), strict=True)

    assert project.request.text == TEXT
    assert project.plan is not None
    assert project.document is not None
    assert "secret-key" not in response.text


async def test_answers_let_a_run_go_on(http: httpx.AsyncClient) -> None:
    """A paused run is answered over HTTP and completes."""
    asked = await http.post("/process_project", json={"request_text": f"A guide for {ASK_WORD}."})
    run_id = asked.json()["run_id"]
    wrong = await http.post(f"/v1/projects/{run_id}/answers", json={"answers": {"q9": "x"}})
    right = await http.post(f"/v1/projects/{run_id}/answers", json={"answers": {"q1": "Hanoi"}})
    late = await http.post(f"/v1/projects/{run_id}/answers", json={"answers": {"q1": "Hanoi"}})

    assert wrong.status_code == 400
    assert _error(wrong)["param"] == "answers"
    assert right.json()["answers"] == {"q1": "Hanoi"}
    assert late.status_code == 409
    async with http.stream("GET", f"/v1/projects/{run_id}/events") as stream:
        assert b"run.finished" in await stream.aread()


async def test_cancel_ends_the_run(http: httpx.AsyncClient) -> None:
    """Cancelling twice is not an error."""
    await http.post("/v1/projects", json={"request_text": TEXT})
    first = await http.post("/v1/projects/run-1/cancel")
    second = await http.post("/v1/projects/run-1/cancel")

    assert first.json()["status"] == second.json()["status"] == "cancelled"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/projects/run-9"),
        ("GET", "/v1/projects/run-9/events"),
        ("POST", "/v1/projects/run-9/answers"),
        ("POST", "/v1/projects/run-9/cancel"),
        ("GET", "/nowhere"),
    ],
)
async def test_unknown_things_are_404_in_the_one_shape(http: httpx.AsyncClient, method: str, path: str) -> None:
    """A wrong id and a wrong path are both told apart from our own failures."""
    response = await http.request(method, path, json={} if path.endswith("answers") else None)

    assert response.status_code == 404
    assert _error(response)["type"] == "not_found_error"


async def test_wrong_method_is_405_and_names_the_right_one(http: httpx.AsyncClient) -> None:
    """The remedy names the method that is offered."""
    response = await http.get("/process_project")

    assert response.status_code == 405
    assert "POST" in _error(response)["remedy"]


def _messages(raw: bytes) -> list[dict[str, str]]:
    found = []
    for block in raw.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in fields:
            found.append(fields)
    return found


async def test_events_resume_without_loss_after_any_event(http: httpx.AsyncClient) -> None:
    """Wherever a stream breaks, ``Last-Event-ID`` gives exactly what is missing."""
    await http.post("/v1/projects", json={"request_text": TEXT})
    whole = _messages((await http.get("/v1/projects/run-1/events")).content)
    resumed = [
        _messages((await http.get("/v1/projects/run-1/events", headers={"last-event-id": message["id"]})).content)
        for message in whole[:-1]
    ]

    assert [int(message["id"]) for message in whole] == list(range(1, len(whole) + 1))
    assert whole[-1]["event"] == "run.finished"
    assert json.loads(whole[0]["data"])["kind"] == "run.accepted"
    assert resumed == [whole[number:] for number in range(1, len(whole))]


async def test_events_answer_204_when_nothing_is_left(http: httpx.AsyncClient) -> None:
    """An EventSource that has everything must stop reconnecting."""
    await http.post("/process_project", json={"request_text": TEXT})
    whole = _messages((await http.get("/v1/projects/run-1/events")).content)
    response = await http.get("/v1/projects/run-1/events", headers={"last-event-id": whole[-1]["id"]})

    assert response.status_code == 204


async def test_events_keep_the_connection_alive_while_a_run_waits(http: httpx.AsyncClient) -> None:
    """A run that waits for answers says nothing; the stream still does, and goes on once it is answered."""
    asked = await http.post("/process_project", json={"request_text": f"A guide for {ASK_WORD}."})
    run_id = asked.json()["run_id"]
    async with http.stream("GET", f"/v1/projects/{run_id}/events") as stream:
        raw = b""
        async for chunk in stream.aiter_bytes():
            raw += chunk
            if raw.endswith(b": keep-alive\n\n"):
                await http.post(f"/v1/projects/{run_id}/answers", json={"assume_rest": True})

    assert b": keep-alive\n\n" in raw
    assert [message["event"] for message in _messages(raw)][-1] == "run.finished"


async def test_events_end_with_an_error_message_when_the_cluster_fails(http: httpx.AsyncClient, desk: FakeDesk) -> None:
    """After the first byte a failure is the last message; it has no id, so a client resumes where it was."""
    await http.post("/v1/projects", json={"request_text": TEXT})
    desk.failing["events"] = InternalError("the store does not answer")
    messages = _messages((await http.get("/v1/projects/run-1/events")).content)

    assert [message["event"] for message in messages] == ["error"]
    assert "id" not in messages[0]
    assert json.loads(messages[0]["data"])["error"]["type"] == "unavailable_error"


async def test_events_stop_being_read_when_the_client_leaves(http: httpx.AsyncClient, desk: FakeDesk) -> None:
    """A stream that nobody reads any more ends; the transport fails the test where it does not."""
    asked = await http.post("/process_project", json={"request_text": f"A guide for {ASK_WORD}."})
    async with http.stream("GET", f"/v1/projects/{asked.json()['run_id']}/events"):
        pass
    await asyncio.sleep(0)

    assert desk.runs["run-1"].status is RunStatus.NEEDS_ANSWERS


@pytest.mark.parametrize("value", ["abc", "-1", "1.5", "９", "9" * 30])
async def test_wrong_last_event_id_is_refused(http: httpx.AsyncClient, value: str) -> None:
    """Guessing where to go on would lose events in silence."""
    await http.post("/v1/projects", json={"request_text": TEXT})
    response = await http.get("/v1/projects/run-1/events", headers={b"last-event-id": value.encode()})

    assert response.status_code == 400
    assert _error(response)["param"] == "last-event-id"


async def test_going_on_from_a_run_is_refused_by_name_where_it_cannot_be(http: httpx.AsyncClient) -> None:
    """A task that is not there, text that is none, and a run that still works."""
    started = (await http.post("/v1/projects", json={"request_text": TEXT})).json()["run_id"]
    path = f"/v1/projects/{started}"
    working = await http.post(f"{path}/retry", json={"task_id": "t1"})
    async with http.stream("GET", f"{path}/events") as events:
        await events.aread()
    missing = await http.post(f"{path}/fork", json={"from_task": "\x00t9"})
    broken = await http.post(
        f"{path}/fork", content=b'{"from_task": "t1", "input": "\\ud800"}', headers={"content-type": "application/json"}
    )

    assert (working.status_code, missing.status_code, broken.status_code) == (409, 400, 422)
    assert (_error(missing)["param"], _error(broken)["param"]) == ("task_id", "input")
