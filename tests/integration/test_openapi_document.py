"""Random requests made from the OpenAPI document of projects and operators: nothing that it does not name comes back.

The gateway's routes are played against a real server (``tests/acceptance/test_gateway.py``), those of the books against
a real store (``test_usage_document.py``).
"""

from __future__ import annotations

import itertools
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
from starlette.testclient import TestClient

from app.http.app import build_app
from tests.fakes.desk import FakeDesk

EXAMPLES = 40
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
RUN = "/v1/projects/{run_id}"
OPERATIONS = (
    ("POST", "/process_project"),
    ("POST", "/v1/projects"),
    ("GET", "/v1/projects"),
    ("GET", RUN),
    ("GET", f"{RUN}/events"),
    ("POST", f"{RUN}/answers"),
    ("POST", f"{RUN}/cancel"),
    ("POST", f"{RUN}/retry"),
    ("POST", f"{RUN}/fork"),
    ("GET", f"{RUN}/export"),
    ("GET", "/v1/accounts"),
    ("POST", "/v1/accounts/check"),
    ("POST", "/v1/reload"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
)


@pytest.fixture
def schema() -> Any:
    """The document of a server that has played one project."""
    desk = FakeDesk()
    app = build_app(lambda: desk, version="1")
    with TestClient(app) as client:
        played = client.post("/process_project", json={"request_text": "Plan a tea house."})
        assert played.status_code == 200, played.text
    return schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_openapi_document_of_projects_and_operators_holds(schema: Any, method: str, path: str) -> None:
    """No 5xx, no status, type or shape that it does not name; half of the calls that name a run name one there is."""
    statuses: set[int] = set()
    numbers = itertools.count()

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(case=schema[path][method].as_strategy())
    def play(case: Any) -> None:
        if case.path_parameters and next(numbers) % 2:
            case.path_parameters["run_id"] = "run-1"
        response = case.call()
        statuses.add(response.status_code)
        case.validate_response(response, checks=CHECKS)

    play()

    print(method, path, sorted(statuses))
    assert statuses


def test_every_operation_is_played(schema: Any) -> None:
    """A new route is played as well."""
    assert {(each.ok().method.upper(), each.ok().path) for each in schema.get_all_operations()} == set(OPERATIONS)


@pytest.mark.parametrize("written", ["ŷ", "a%0d%0aset-cookie:%20b=c", "%F0%9F%8D%B5", "x" * 400])
def test_what_is_no_id_is_no_run_and_not_written_into_a_header(written: str) -> None:
    """Whatever a client writes into the path: not found, in the one shape."""
    with TestClient(build_app(FakeDesk, version="1")) as client:
        answer = client.get(f"/v1/projects/{written}/events")

    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "run_id")
    assert not {"x-tutti-run-id", "set-cookie"} & set(answer.headers)
