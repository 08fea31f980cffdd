"""What those who watch a server see: one trace from the client's header to the provider, metrics on Ray's endpoint."""

from __future__ import annotations

import contextlib
import json
import random
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.domain.metric_names import ALL
from tests.acceptance.conftest import ServeIt, Server, gone_within
from tests.acceptance.test_server import finished
from tests.fakes import pool
from tests.fakes.otlp_receiver import ReceivedSpan, Receiver, running_receiver
from tests.fakes.scripted import ENGLISH
from tests.fakes.simulated import Simulator

pytestmark = pytest.mark.slow
HTTP = httpx.Client(timeout=60)
SECRET = "sk-otlp-canary-e3"
PROMPT = "canary-prompt-e3 says hello"


def _quiet_port() -> int:
    """Return a free port below those that the system gives to whoever asks for any."""
    while True:
        port = random.randint(20_000, 29_999)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


METRICS_PORT = _quiet_port()
ROLES = ("clarifier", "planner", "transcriber", "worker", "judge", "merger", "evaluator")


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


@pytest.fixture(scope="module")
def server(serve_it: ServeIt, simulator: Simulator, receiver: Receiver) -> Server:
    traces = {"otlp_endpoint": receiver.url, "headers": {"authorization": f"Bearer {SECRET}"}}
    telemetry = {"metrics_port": METRICS_PORT, "traces": traces}
    return serve_it({**pool.three_accounts(simulator.url), "telemetry": telemetry})


def eventually(holds: Callable[[], bool], *, within_s: float = 40.0) -> bool:
    """Wait until ``holds``; return whether it does."""
    deadline_s = time.monotonic() + within_s
    while not holds() and time.monotonic() < deadline_s:
        time.sleep(0.2)
    return holds()


def ask(url: str, *, trace: str, **more: object) -> httpx.Response:
    body = {"model": "hand", "messages": [{"role": "user", "content": PROMPT}], **more}
    headers = {"traceparent": f"00-{trace}-{'b7' * 8}-01"}
    return HTTP.post(f"{url}/v1/chat/completions", json=body, headers=headers)


def ancestors(span: ReceivedSpan, spans: list[ReceivedSpan]) -> list[str]:
    """Return the names from a span's parent up to the root of what we have."""
    by_id = {each.span_id: each for each in spans}
    names = []
    while (parent := by_id.get(span.parent_id)) is not None:
        names.append(parent.name)
        span = parent
    return names


@pytest.mark.parametrize("stream", [False, True])
def test_gateway_call_is_one_trace_from_the_header_to_the_provider(
    server: Server, receiver: Receiver, stream: bool
) -> None:
    """The client's own trace goes on: request, admission, routing, lease, provider call."""
    trace = f"{'0af7651916cd43dd8448eb211c80319' + ('d' if stream else 'c')}"
    answer = ask(server.url, trace=trace, stream=stream)
    wanted = {"POST /v1/chat/completions", "route", "admission", "lease", "chat hand"}
    arrived = eventually(lambda: wanted <= {each.name for each in receiver.of_trace(trace)})
    spans = receiver.of_trace(trace)
    by_name = {each.name: each for each in spans}

    assert answer.status_code == 200
    assert answer.headers["x-trace-id"] == trace
    assert arrived, sorted(by_name)
    assert by_name["POST /v1/chat/completions"].parent_id == "b7" * 8
    assert by_name["POST /v1/chat/completions"].attributes["http.response.status_code"] == 200
    assert all("POST /v1/chat/completions" in ancestors(by_name[name], spans) for name in wanted if "POST" not in name)
    call = by_name["chat hand"].attributes
    assert (call["gen_ai.operation.name"], call["gen_ai.provider.name"], call["gen_ai.request.model"]) == (
        "chat",
        "openai",
        "hand",
    )
    assert call["tutti.account"] in ("alpha", "beta")
    assert int(str(call["gen_ai.usage.output_tokens"])) > 0


def test_run_is_one_trace_through_coordinator_account_actors_and_provider_calls(
    server: Server, receiver: Receiver, simulator: Simulator
) -> None:
    """Over every actor border: the door's request, the coordinator's stages, the account actors' calls."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-{'c8' * 8}-01"}
    simulator.reset()
    started = HTTP.post(f"{server.url}/v1/projects", json={"request_text": ENGLISH.request}, headers=headers)
    document = finished(server.url, started.json()["run_id"])
    wanted = {"run", "plan", "task", "judge", "merge", "evaluate", "settle"}

    def calls_of(spans: list[ReceivedSpan]) -> list[ReceivedSpan]:
        return [each for each in spans if each.attributes.get("gen_ai.operation.name") == "chat"]

    def complete() -> bool:
        # Each process sends its own on its own beat.
        spans = receiver.of_trace(trace)
        return wanted <= {each.name for each in spans} and len(calls_of(spans)) >= sum(map(simulator.asked, ROLES))

    arrived = eventually(complete)
    spans = receiver.of_trace(trace)
    calls = calls_of(spans)
    roles = {each.role for each in calls}

    assert document["status"] == "completed"
    assert started.headers["x-trace-id"] == trace
    assert arrived, sorted({each.name for each in spans})
    assert {each.role for each in spans if each.name == "run"} == {"coordinator"}
    assert all("run" in ancestors(each, spans) for each in calls)
    assert len(calls) == sum(map(simulator.asked, ROLES))
    assert "coordinator" not in roles
    assert "gateway" not in roles
    assert len({each.instance for each in spans}) >= 3
    assert all("task" in ancestors(each, spans) for each in spans if each.name == "judge")


def test_request_without_a_trace_begins_one_of_ours(server: Server, receiver: Receiver) -> None:
    """And says which; a caller that is not recorded is not recorded here either, but has its id all the same."""
    own = HTTP.get(f"{server.url}/v1/models").headers["x-trace-id"]
    quiet = "ab" * 16
    unsampled = HTTP.get(f"{server.url}/v1/models", headers={"traceparent": f"00-{quiet}-{'c8' * 8}-00"})

    assert eventually(lambda: bool(receiver.of_trace(own)))
    (span,) = receiver.of_trace(own)
    assert (span.name, span.parent_id) == ("GET /v1/models", "")
    assert unsampled.headers["x-trace-id"] == quiet
    assert not receiver.of_trace(quiet)


def series(name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """Return a series' values on Ray's endpoint, by the labels that are ours."""
    text = HTTP.get(f"http://127.0.0.1:{METRICS_PORT}/metrics").text
    found: dict[tuple[tuple[str, str], ...], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name:
                ours = {key: value for key, value in sample.labels.items() if not key.startswith(("otel_", "Node"))}
                foreign = ("Component", "SessionName", "Version", "WorkerId")
                labels = tuple(sorted((key, value) for key, value in ours.items() if key not in foreign))
                found[labels] = found.get(labels, 0.0) + sample.value
    return found


def test_metrics_stand_on_rays_endpoint_in_the_fields_names(server: Server, simulator: Simulator) -> None:
    """What a dashboard asks for is there, and counts what happened."""
    for number in range(5):
        assert ask(server.url, trace=f"{number + 1:032x}", stream=number == 0).status_code == 200

    def counted() -> bool:
        # Each process tells its own on its own beat.
        calls = series("ray_gen_ai_client_operation_duration_seconds_count")
        hands = sum(value for labels, value in calls.items() if ("gen_ai_request_model", "hand") in labels)
        ours = sum(series("ray_tutti_gateway_overhead_seconds_count").values())
        return hands >= 5 and ours >= 5 and bool(series("ray_tutti_account_headroom_ratio"))

    assert eventually(counted)
    requests = series("ray_tutti_gateway_requests_total")
    assert requests[(("route", "/v1/chat/completions"), ("status", "200"))] >= 5
    headroom = series("ray_tutti_account_headroom_ratio")
    assert {dict(labels)["tutti_account"] for labels in headroom} == {"alpha", "beta", "chief"}
    assert all(0 <= value <= 1 for value in headroom.values())
    assert sum(series("ray_tutti_tokens_total").values()) > 0
    assert sum(series("ray_tutti_spend_usd_total").values()) > 0
    text = HTTP.get(f"http://127.0.0.1:{METRICS_PORT}/metrics").text
    names = set(re.findall(r"^(ray_(?:tutti|gen_ai|http)_\w+?)(?=[{ ])", text, re.MULTILINE))
    assert names <= {name for metric in ALL for name in metric.exported}


def test_doctor_finds_nothing_wrong_and_says_where_the_metrics_are(server: Server) -> None:
    """On a server that is well: every part is looked at, on one page."""
    left = server.tutti("doctor", "--json")
    page = json.loads(left.stdout)
    found = {row["part"]: row for row in page["findings"]}

    assert (left.returncode, page["ok"]) == (0, True), left.stdout
    assert {"configuration", "data directory", "store", "server", "traces", "clock", "coordinator", "accounts"} <= set(
        found
    )
    assert f":{METRICS_PORT}/metrics" in found["metrics"]["says"]
    assert found["clock"]["level"] == "ok"


def test_no_secret_and_no_prompt_is_told(server: Server, receiver: Receiver) -> None:
    """A span goes to another system, a metric to anybody who asks the port."""
    ask(server.url, trace="9" * 32, model="no-such-model")
    text = HTTP.get(f"http://127.0.0.1:{METRICS_PORT}/metrics").text
    told = repr(receiver.spans) + text

    assert all(each["authorization"] == f"Bearer {SECRET}" for each in receiver.headers)
    for canary in (SECRET, PROMPT, "canary-prompt", "sk-alpha", "sk-beta", "sk-chief", ENGLISH.request[:20]):
        assert canary not in told


def ray_session(server: Server) -> Path:
    """Return the folder of the server's Ray cluster, with the logs of every process."""
    words = (word for process in server.descendants() for word in process.cmdline())
    return Path(next(word.partition("=")[2] for word in words if word.startswith("--session_dir=")))


def aborted(server: Server, actor: str) -> psutil.Process:
    """End an actor's process as a bug in native code does: SIGABRT, and its own dump on the way."""
    found = [one for one in server.descendants() if one.cmdline()[:1] and one.cmdline()[0].startswith(f"ray::{actor}")]
    assert found, f"no process is called {actor}"
    found[0].send_signal(signal.SIGABRT)
    return found[0]


def test_no_log_error_or_crash_dump_holds_a_secret_or_a_prompt(server: Server, simulator: Simulator) -> None:
    """What every process wrote: of calls that failed, of a stranger's key, and of processes that crashed in a call."""
    told = [ask(server.url, trace="8" * 32, model="no-such-model").text]
    stranger = {"authorization": f"Bearer {SECRET}-stranger"}
    body = {"model": "hand", "messages": [{"role": "user", "content": PROMPT}]}
    told.append(HTTP.post(f"{server.url}/v1/chat/completions", json=body, headers=stranger).text)
    simulator.control({"faults": [{"match": {"model": "hand"}, "kind": "http_500"}]})
    told.append(ask(server.url, trace="8" * 32).text)
    simulator.control({"faults": [{"match": {"model": "hand"}, "kind": "slow_first", "seconds": 3}]})
    with ThreadPoolExecutor(1) as calls:
        under_way = calls.submit(ask, server.url, trace="8" * 32)
        time.sleep(1)
        crashed = [aborted(server, actor) for actor in ("ServeReplica", "AccountActor")]
        gone = gone_within(crashed, 20)
        with contextlib.suppress(httpx.HTTPError):  # its connection is cut, or somebody answers that
            told.append(under_way.result().text)
    logs = ray_session(server) / "logs"
    dumped = eventually(lambda: any("Fatal Python error: Aborted" in text_of(path) for path in logs.rglob("*.err")))
    written = "\n".join(text_of(path) for path in logs.rglob("*") if path.is_file())

    assert gone == []
    assert dumped, "no process left a dump"
    assert len(written) > 10_000
    everything = "\n".join([*told, *server.errors, written])
    for canary in (SECRET, PROMPT, "canary-prompt", "sk-alpha", "sk-beta", "sk-chief", ENGLISH.request[:20]):
        assert canary not in everything, canary


def text_of(path: Path) -> str:
    """Return what a file says, as far as it is text."""
    return path.read_bytes().decode("utf-8", "replace")
