"""One trace id, followed from the client's header to everywhere it should stand, with the real Elasticsearch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.acceptance.conftest import ServeIt, Server
from tests.acceptance.test_observability import eventually
from tests.acceptance.test_server import finished
from tests.fakes import pool
from tests.fakes.otlp_receiver import Receiver, running_receiver
from tests.fakes.scripted import ENGLISH
from tests.fakes.simulated import Simulator
from tests.fixtures.elasticsearch_server import ElasticsearchServer, running_elasticsearch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
HTTP = httpx.Client(timeout=60)
PREFIX = "one-trace"
SPANS_OF_A_CALL = {"POST /v1/chat/completions", "admission", "route", "lease", "chat hand", "settle"}
SPANS_OF_A_RUN = {"POST /v1/projects", "run", "plan", "task", "lease", "chat hand", "judge", "merge", "settle"}


@pytest.fixture(scope="module")
def elasticsearch() -> Iterator[ElasticsearchServer]:
    with running_elasticsearch() as server:
        yield server


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


@pytest.fixture(scope="module")
def server(elasticsearch: ElasticsearchServer, serve_it: ServeIt, simulator: Simulator, receiver: Receiver) -> Server:
    traces = {"otlp_endpoint": receiver.url, "tell_providers": True}
    events = {"elasticsearch": {"url": elasticsearch.url, "index_prefix": PREFIX}}
    return serve_it({**pool.three_accounts(simulator.url), "telemetry": {"traces": traces}, "events": events})


def stored(elasticsearch: ElasticsearchServer, trace: str) -> list[str]:
    """Return the kinds of events of a trace in Elasticsearch."""
    sources = elasticsearch.sources(f"{PREFIX}-*")
    return [str(source["event.action"]) for source in sources if source.get("trace.id") == trace]


def provider_spans(simulator: Simulator, trace: str) -> list[str]:
    """Return the parents that the provider was told of in a trace, one for each request."""
    log = HTTP.get(f"{simulator.url}/__stats", params={"log": "1"}).json()["log"]
    return [row["traceparent"].split("-")[2] for row in log if trace in row["traceparent"]]


def all_there(found: Callable[[], set[str]], wanted: set[str]) -> set[str]:
    """Wait for what is wanted; return what is missing."""
    eventually(lambda: wanted <= found(), within_s=90.0)
    return wanted - found()


def test_call_of_the_gateway_is_one_trace_everywhere(
    server: Server, elasticsearch: ElasticsearchServer, simulator: Simulator, receiver: Receiver
) -> None:
    """Answer, spans, the provider's request, and documents; the provider's parent is the span of its own call."""
    trace = "5e" * 16
    body = {"model": "hand", "messages": [{"role": "user", "content": "hello"}]}
    headers = {"traceparent": f"00-{trace}-{'b7' * 8}-01"}
    answer = HTTP.post(f"{server.url}/v1/chat/completions", json=body, headers=headers)
    missing_spans = all_there(lambda: {each.name for each in receiver.of_trace(trace)}, SPANS_OF_A_CALL)
    missing_events = all_there(lambda: set(stored(elasticsearch, trace)), {"call.finished"})
    (call,) = [each for each in receiver.of_trace(trace) if each.name == "chat hand"]

    assert (answer.status_code, answer.headers["x-trace-id"]) == (200, trace)
    assert (missing_spans, missing_events) == (set(), set())
    assert provider_spans(simulator, trace) == [call.span_id]


def test_run_is_one_trace_everywhere(
    server: Server, elasticsearch: ElasticsearchServer, simulator: Simulator, receiver: Receiver
) -> None:
    """The coordinator's and the account actors' work, every request at providers, and documents of run and calls."""
    trace = "6f" * 16
    headers = {"traceparent": f"00-{trace}-{'c8' * 8}-01"}
    started = HTTP.post(f"{server.url}/v1/projects", json={"request_text": ENGLISH.request}, headers=headers)
    run_id = started.json()["run_id"]
    document = finished(server.url, run_id)
    wanted = {"run.accepted", "plan.ready", "call.finished", "task.judged", "task.finished", "run.finished"}
    missing = all_there(lambda: set(stored(elasticsearch, trace)), wanted)
    missing_spans = all_there(lambda: {each.name for each in receiver.of_trace(trace)}, SPANS_OF_A_RUN)

    def called() -> set[str]:
        spans = receiver.of_trace(trace)
        return {each.span_id for each in spans if each.attributes.get("gen_ai.operation.name") == "chat"}

    told = set(provider_spans(simulator, trace))
    roles = {each.role for each in receiver.of_trace(trace)}

    assert document["status"] == "completed"
    assert HTTP.get(f"{server.url}/v1/projects/{run_id}").json()["trace_id"] == trace
    assert (missing, missing_spans) == (set(), set())
    assert len(told) > 5
    assert all_there(called, told) == set()
    assert stored(elasticsearch, trace).count("call.finished") == len(told)
    assert "coordinator" in roles
    assert any(role.startswith("account-") for role in roles)


def test_every_request_of_the_shipper_is_a_trace_of_its_own(server: Server, receiver: Receiver) -> None:
    """Of both sources, with how much and what was answered; nothing that is shipped belongs under it."""

    def shipped() -> set[str]:
        return {str(each.attributes.get("tutti.events.source")) for each in receiver.spans if each.name == "ship"}

    body = {"model": "hand", "messages": [{"role": "user", "content": "hello"}]}
    assert HTTP.post(f"{server.url}/v1/chat/completions", json=body).status_code == 200
    assert all_there(shipped, {"spool", "outbox"}) == set()
    spans = [each for each in list(receiver.spans) if each.name == "ship"]
    assert {each.role for each in spans} == {"log_shipper"}
    assert {each.parent_id for each in spans} == {""}
    assert len({each.trace_id for each in spans}) == len(spans)
    assert all(each.attributes["http.response.status_code"] == 200 for each in spans)
    assert all(int(str(each.attributes["tutti.events.count"])) > 0 for each in spans)
