"""What a real server tells the real Elasticsearch: one trace id from the client's header to everywhere it should stand,
and dashboards and alert rules that say what happened.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.domain.events.schema import TYPE
from app.domain.kibana.alerts import RULES
from app.domain.kibana.boards import DASHBOARDS
from app.domain.kibana.rules import new_rule_body
from app.domain.kibana.saved_objects import Setting
from tests.acceptance.conftest import ServeIt, Server, run_tutti
from tests.acceptance.test_observability import eventually
from tests.fakes import kibana_reader, panel_answers, pool, rule_reader
from tests.fakes.event_samples import Sample
from tests.fakes.kept_events import kept_samples
from tests.fakes.otlp_receiver import Receiver, running_receiver
from tests.fakes.scripted import ENGLISH
from tests.fakes.simulated import Simulator
from tests.fixtures.elasticsearch_server import ElasticsearchServer, running_elasticsearch
from tests.integration.test_kibana_numbers import Story

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
KEY, KEY_ONCE = "key-of-the-tests", "key-of-one-call-a-day"
HTTP = httpx.Client(timeout=60, headers={"authorization": f"Bearer {KEY}"})
PREFIX = "one-trace"
SPANS_OF_A_CALL = {"POST /v1/chat/completions", "admission", "route", "lease", "chat hand", "settle"}
SPANS_OF_A_RUN = {"POST /v1/projects", "run", "plan", "task", "lease", "chat hand", "judge", "merge", "settle"}
KEYS: list[dict[str, Any]] = [
    {"name": "tests", "key": KEY, "team": "red"},
    {"name": "once", "key": KEY_ONCE, "team": "red", "limits": {"rpd": 1}},
]
BUDGETS: list[dict[str, Any]] = [
    {"for": "tenant", "window": "total", "tokens": 10, "hard": False},
    {"for": "user:poor", "window": "total", "usd": 0.0000001},
]


@pytest.fixture(scope="module")
def elasticsearch() -> Iterator[ElasticsearchServer]:
    with running_elasticsearch() as server:
        yield server


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


@pytest.fixture(scope="module")
def server(
    elasticsearch: ElasticsearchServer,
    serve_it: ServeIt,
    simulator: Simulator,
    receiver: Receiver,
    tmp_path_factory: pytest.TempPathFactory,
) -> Server:
    home = tmp_path_factory.mktemp("installer")
    installed = run_tutti(home, "elastic", "install", "--url", elasticsearch.url, "--prefix", PREFIX)
    assert installed.returncode == 0, installed.stderr
    traces = {"otlp_endpoint": receiver.url, "tell_providers": True}
    events = {"elasticsearch": {"url": elasticsearch.url, "index_prefix": PREFIX}}
    books = {"auth": {"keys": KEYS}, "budgets": BUDGETS}
    telemetry = {"traces": traces}
    return serve_it({**pool.three_accounts(simulator.url), **books, "telemetry": telemetry, "events": events})


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


def finished(url: str, run_id: str) -> dict[str, Any]:
    """Wait until a project rests; return its document."""
    until_s = time.monotonic() + 60
    while (document := HTTP.get(f"{url}/v1/projects/{run_id}").json()["document"]) is None:
        assert time.monotonic() < until_s, f"{run_id} did not end"
        time.sleep(0.2)
    return dict(document)


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


EMPTY = {
    ("reliability", "Lines of logs"),  # a warning may have been written by now, or none
    ("cost", "Calls without a known price"),
    ("runs", "Failed"),
    ("runs", "Tasks done again"),
    ("runs", "Waiting for people"),
    ("reliability", "Parts that died"),
    ("reliability", "Events lost"),
    # Told once a minute.
    ("reliability", "Events that wait to be shipped"),
    ("reliability", "Age of the oldest of them"),
}
"""Panels of what did not happen here."""
ABSENT = {
    ("access.refused", "caller"),
    ("budget.alert", "user"),
    ("budget.refused", "caller"),
    ("budget.refused", "run_id"),
    ("budget.refused", "team"),
    ("call.finished", "savings_nano"),
    ("configuration.changed", "changed"),
    ("log.line", "error_type"),
    ("log.line", "stack_trace"),
    ("request.finished", "reason"),
    # Whoever started the run named no user.
    *((one.name, "user") for one in TYPE.values() if one.dataset == "tutti.runs"),
    # Told once a minute.
    *(("events.backlog", name) for name in TYPE["events.backlog"].fields),
}
"""Declared fields of what did not happen here, by type."""


def play_a_day(server: Server, simulator: Simulator) -> None:
    """Have something of most kinds happen: answers, streams, failures, refusals, a run in which a call fails."""
    url = f"{server.url}/v1/chat/completions"
    body: dict[str, Any] = {"model": "hand", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 50}
    simulator.control({"faults": [{"match": {"model": "hand"}, "first": 1, "kind": "http_429", "retry_after": "8"}]})
    asked: list[tuple[dict[str, Any], dict[str, str], int]] = [
        ({**body, "temperature": 0.5}, {"x-tutti-user": "ann"}, 200),
        ({**body, "stream": True}, {"x-tutti-user": "bob"}, 200),
        ({**body, "model": "none"}, {}, 404),
        (body, {"x-tutti-user": "poor"}, 429),
        (body, {"authorization": f"Bearer {KEY_ONCE}"}, 200),
        (body, {"authorization": f"Bearer {KEY_ONCE}"}, 429),
        (body, {"authorization": "Bearer nobody's"}, 401),
    ]
    answers = [HTTP.post(url, json=document, headers=headers).status_code for document, headers, _ in asked]
    assert answers == [status for _, _, status in asked]
    simulator.control({"faults": [{"match": {"model": "critic"}, "first": 1, "kind": "http_503"}]})
    started = HTTP.post(f"{server.url}/v1/projects", json={"request_text": ENGLISH.request})
    assert finished(server.url, started.json()["run_id"])["status"] == "completed"


def looked_at(elasticsearch: ElasticsearchServer, data_dir: Path) -> Story:
    """Return what is stored now, beside what is kept on the machine."""
    elasticsearch.ask("POST", f"/{PREFIX}-*/_refresh")
    return Story(elasticsearch, Setting(prefix=PREFIX), kept_samples(data_dir), time.time_ns())


def panels(story: Story) -> tuple[list[str], set[tuple[str, str]]]:
    """Return what panels say otherwise than the events, and the panels that are empty."""
    wrong, empty = [], set()
    for board, saved in zip(DASHBOARDS, story.dashboards(), strict=True):
        drawn = [attributes for _, attributes in kibana_reader.lens_panels(saved)]
        answers = story.search([kibana_reader.request_of(attributes) for attributes in drawn])
        for panel, attributes, answer in zip(board.panels, drawn, answers, strict=True):
            said = kibana_reader.rows_of(attributes, answer)
            computed = panel_answers.rows(panel, story.samples, story.now_ns)
            wrong += [f"{board.name}, {panel.title}: {one}" for one in panel_answers.differing(said, computed)]
            if not any(value is not None for row in said.values() for value in row.values()):
                empty.add((board.name, panel.title))
    return wrong, empty


def rules(story: Story) -> tuple[list[str], set[str]]:
    """Return what rules say otherwise than the events, and those that fire."""
    bodies = [json.loads(json.dumps(new_rule_body(rule, story.setting))) for rule in RULES]
    wrong, fired = [], set()
    for rule, body, answer in zip(
        RULES, bodies, story.search([rule_reader.request_of(one) for one in bodies]), strict=True
    ):
        said = rule_reader.figures_of(body, answer)
        computed = panel_answers.figures(rule, story.samples, story.now_ns)
        rows = [{(group,): values for group, values in figures.items()} for figures in (said, computed)]
        wrong += [f"{rule.name}: {one}" for one in panel_answers.differing(*rows)]
        fired |= {rule.name} if rule_reader.fired(body, said) else set()
    return wrong, fired


def absent(samples: Sequence[Sample]) -> set[tuple[str, str]]:
    """Return declared fields that no event of their type has."""
    told: dict[str, set[str]] = {}
    for sample in samples:
        told.setdefault(sample.type, set()).update(sample.values)
    return {(kind, name) for kind, names in told.items() for name in TYPE[kind].fields if name not in names}


@pytest.mark.timeout(480)
def test_dashboards_and_rules_say_what_really_happened(
    server: Server, elasticsearch: ElasticsearchServer, simulator: Simulator
) -> None:
    """All numbers, of events that the product itself told; what is empty, or never filled, is what did not happen."""
    play_a_day(server, simulator)
    found: list[str] = []

    def agree() -> bool:
        # Both sides still grow: what is told is kept, then shipped.
        found[:] = [*panels(story := looked_at(elasticsearch, server.data_dir))[0], *rules(story)[0]]
        return not found and {"run.finished", "account.load", "request.finished"} <= {one.type for one in story.samples}

    # What was just told is on its way: on a busy machine a look takes as long as the next event does to come.
    assert eventually(agree, within_s=300.0), found
    story = looked_at(elasticsearch, server.data_dir)
    assert panels(story)[1] <= EMPTY
    assert rules(story)[1] == {"budget"}
    assert absent(story.samples) <= ABSENT
