"""`tutti serve` as a user runs it: HTTP from outside, disconnects, two servers, signals. Models are simulated."""

from __future__ import annotations

import itertools
import json
import signal
import socket
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.acceptance.conftest import ServeIt, Server, free_port, gone_within, run_tutti
from tests.fakes import pool
from tests.fakes.pool import MODELS
from tests.fakes.scripted import ASSUMED, CHINESE, ENGLISH, QUESTION, VAGUE, VIETNAMESE, worker_rule
from tests.fakes.simulated import Simulator

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]
DRAIN_WITHIN_S = 30
"""The promised 20 s, and what a busy machine takes to notice."""
LONG_WORK_S = 2.0
"""Long enough to kill somebody meanwhile."""
HTTP = httpx.Client(timeout=60)


@pytest.fixture(scope="module")
def server(serve_it: ServeIt, simulator: Simulator) -> Server:
    """One server for the tests that leave it running: it asks about calls that were lost."""
    careful = pool.three_accounts(simulator.url)
    careful["coordinator"]["on_unknown"] = "hold"
    return serve_it(careful)


@pytest.fixture
def url(server: Server, simulator: Simulator) -> str:
    """The server's address, with the simulator as new."""
    simulator.reset()
    return server.url


def post(address: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    """Post JSON."""
    return HTTP.post(address, json=body, headers=headers)


def finished(url: str, run_id: str, *, within_s: float = 60.0) -> dict[str, Any]:
    """Wait until a project rests; return its document."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        project = HTTP.get(f"{url}/v1/projects/{run_id}").json()
        if project["document"] is not None:
            return dict(project["document"])
        time.sleep(0.2)
    raise AssertionError(f"{run_id} did not end")


def read_events(url: str, run_id: str, *, after: int | None = None, at_most: int = 1_000) -> list[dict[str, Any]]:
    """Read the event stream until it ends, or disconnect after ``at_most`` events."""
    found: list[dict[str, Any]] = []
    headers = {} if after is None else {"last-event-id": str(after)}
    with HTTP.stream("GET", f"{url}/v1/projects/{run_id}/events", headers=headers) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                found.append(json.loads(line.removeprefix("data: ")))
            if len(found) >= at_most:
                break
    return found


def test_server_says_that_it_is_ready_and_where(server: Server, url: str) -> None:
    """The ready file names the process and its address; health and readiness answer; docs show every route."""
    ready = json.loads(next(server.data_dir.glob("*ready*")).read_text(encoding="utf-8"))
    paths = HTTP.get(f"{url}/openapi.json").json()["paths"]

    assert ready["url"] == url
    assert ready["pid"] == server.process.pid
    assert HTTP.get(f"{url}/healthz").json()["status"] == "ok"
    assert HTTP.get(f"{url}/readyz").json()["status"] == "ready"
    assert HTTP.get(f"{url}/docs").status_code == 200
    assert {"/process_project", "/v1/projects", "/v1/projects/{run_id}/events", "/healthz", "/readyz"} <= set(paths)


def test_server_without_keys_is_reached_from_this_machine_alone(server: Server, url: str) -> None:
    """HAProxy, the replicas' own ports and the proxy beside them are on loopback; no other port answers as they do."""
    processes = [psutil.Process(server.process.pid), *server.descendants()]
    listening = [
        (ip_address(link.laddr.ip).is_loopback, link.laddr.port)
        for process in processes
        for link in process.net_connections("tcp")
        if link.status == psutil.CONN_LISTEN
    ]

    def is_door(port: int) -> bool:
        try:
            return bool(httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5).json()["status"] == "ok")
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return False

    with ThreadPoolExecutor(8) as pool:
        answering = list(pool.map(is_door, [port for _is_loopback, port in listening]))
    doors = set(itertools.compress(listening, answering))

    assert (True, urlsplit(url).port) in doors
    assert len(doors) >= 2, "the replica's own port was not found"
    assert {port for is_loopback, port in doors if not is_loopback} == set()


@pytest.mark.parametrize("story", [ENGLISH, VIETNAMESE, CHINESE], ids=["en", "vi", "zh"])
def test_process_project_answers_with_the_result_document(url: str, story: Any) -> None:
    """One synchronous request gives the whole document, in the language it was asked in."""
    answer = post(f"{url}/process_project", {"request_text": story.request})
    document = answer.json()

    assert answer.status_code == 200
    assert document["status"] == "completed"
    assert document["answer"] == story.answer
    assert document["run_id"] == answer.headers["x-tutti-run-id"]
    assert set(document) >= {"tasks", "results", "evaluation", "assumptions", "questions", "usage", "schedule"}


def test_idempotency_key_starts_one_project(url: str, simulator: Simulator) -> None:
    """A retried request is the same project; the key with another request is refused."""
    first = post(f"{url}/v1/projects", {"request_text": ENGLISH.request}, **{"Idempotency-Key": "abc"})
    second = post(f"{url}/v1/projects", {"request_text": ENGLISH.request}, **{"Idempotency-Key": "abc"})
    other = post(f"{url}/v1/projects", {"request_text": "Something else."}, **{"Idempotency-Key": "abc"})
    finished(url, first.json()["run_id"])

    assert (first.status_code, second.status_code, other.status_code) == (202, 202, 409)
    assert first.headers["location"] == f"/v1/projects/{first.json()['run_id']}"
    assert second.json()["run_id"] == first.json()["run_id"]
    assert other.json()["error"]["type"] == "conflict_error"
    assert simulator.asked("planner") == 1


def test_event_stream_resumes_without_loss(url: str) -> None:
    """A client that lost its connection twice has every event once, in order."""
    run_id = post(f"{url}/v1/projects", {"request_text": ENGLISH.request}).json()["run_id"]
    events = read_events(url, run_id, at_most=4)
    events += read_events(url, run_id, after=events[-1]["seq"], at_most=7)
    events += read_events(url, run_id, after=events[-1]["seq"])
    again = HTTP.get(f"{url}/v1/projects/{run_id}/events", headers={"last-event-id": str(events[-1]["seq"])})

    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["kind"] == "run.finished"
    assert again.status_code == 204


def test_questions_are_answered_over_http(url: str) -> None:
    """A project that cannot be planned pauses, is answered, and goes on."""
    asking = post(f"{url}/process_project", {"request_text": VAGUE}).json()
    run_id = asking["run_id"]
    wrong = post(f"{url}/v1/projects/{run_id}/answers", {"answers": {"q9": "x"}})
    taken = post(f"{url}/v1/projects/{run_id}/answers", {"answers": {"q1": "Hue"}})
    document = finished(url, run_id)

    assert asking["status"] == "needs_answers"
    assert [question["question"] for question in asking["questions"]] == [QUESTION]
    assert (wrong.status_code, taken.status_code) == (400, 200)
    assert "q1" in wrong.json()["error"]["remedy"]
    assert document["status"] == "completed"
    assert post(f"{url}/v1/projects/{run_id}/answers", {"answers": {"q1": "Hue"}}).status_code == 409


def test_questions_are_answered_by_the_command_line(server: Server, url: str) -> None:
    """`tutti projects answer` finds the running server by its data directory."""
    run_id = post(f"{url}/v1/projects", {"request_text": VAGUE}).json()["run_id"]
    finished(url, run_id)
    listed = server.tutti("projects", "list", "--json")
    without = server.tutti("projects", "answer", run_id)
    answered = server.tutti("projects", "answer", run_id, "q1=Hue")
    watched = server.tutti("projects", "watch", run_id, "--json")

    assert run_id in {row["run_id"] for row in json.loads(listed.stdout)}
    assert (without.returncode, answered.returncode, watched.returncode) == (3, 0, 0), answered.stderr
    assert QUESTION in without.stderr
    assert json.loads(watched.stdout)["status"] == "completed"


def test_project_is_done_again_forked_and_exported_by_the_command_line(
    server: Server, url: str, simulator: Simulator
) -> None:
    """Only the task that is named is bought again, in its run and in a run of its own; the zip has all and no key."""
    document = post(f"{url}/process_project", {"request_text": ENGLISH.request}).json()
    run_id, tasks = document["run_id"], document["tasks"]
    needed = {name for task in tasks for name in task["depends_on"]}
    last = next(task["id"] for task in tasks if task["id"] not in needed)
    bought = simulator.asked("worker")
    retried = server.tutti("projects", "retry", run_id, last)
    again = server.tutti("projects", "watch", run_id, "--json")
    forked = server.tutti("projects", "fork", run_id, "--from", last, "--input", "Be brief.", "--json")
    fork_id = json.loads(forked.stdout)["run_id"]
    watched = server.tutti("projects", "watch", fork_id, "--json")
    refused = server.tutti("projects", "resume", run_id, "--buy-again")
    saved = server.tutti("projects", "export", fork_id, str(server.home / "run.zip"))
    with zipfile.ZipFile(server.home / "run.zip") as packed:
        files = {name.rpartition("/")[2]: packed.read(name) for name in packed.namelist()}

    assert [done.returncode for done in (retried, again, forked, watched, saved)] == [0] * 5, forked.stderr
    assert [json.loads(done.stdout)["status"] for done in (again, watched)] == ["completed"] * 2
    assert simulator.asked("worker") == bought + 2
    assert simulator.asked("planner") == 1
    assert (refused.returncode, "no decision about a lost call" in refused.stderr) == (2, True)
    assert json.loads(files["run.json"])["forked_from"] == run_id
    assert files["calls.jsonl"].count(b"\n") == files["entries.jsonl"].count(b"\n") > 0
    assert not [name for name, data in files.items() if b"sk-" in data]


@pytest.mark.parametrize("killed", ["AccountActor", "Coordinator"])
def test_a_call_that_was_lost_is_bought_again_when_the_command_line_says_so(
    server: Server, url: str, simulator: Simulator, killed: str
) -> None:
    """SIGKILL while the last task's call is at its provider: a question and nothing bought until it is answered."""
    last = ENGLISH.step("t4")
    simulator.reset(worker_rule(last, text=last.result, latency={"kind": "constant", "mean_s": LONG_WORK_S}))
    run_id = post(f"{url}/v1/projects", {"request_text": ENGLISH.request}).json()["run_id"]
    wait_for(lambda: simulator.asked("worker") == len(ENGLISH.steps))
    victims = [one for one in server.descendants() if " ".join(one.cmdline()).startswith(f"ray::{killed}")]
    assert victims
    for victim in victims:
        victim.kill()
    asking = finished(url, run_id)
    wait_for(lambda: simulator.stats()["total"]["in_flight"] == 0)
    *others, lost = bills_of(simulator)
    (unknown,) = unknown_of(url, run_id)
    known = bought_by(url, run_id)
    resumed = server.tutti("projects", "resume", run_id, "--buy-again")
    watched = server.tutti("projects", "watch", run_id, "--json")
    bills, bought = bills_of(simulator), bought_by(url, run_id)

    assert (asking["status"], len(asking["questions"])) == ("needs_answers", 1)
    assert "t4" in asking["questions"][0]["question"]
    assert known == summed(others)
    assert unknown["tokens"] >= lost[0] > 0
    assert nano(unknown["usd"]) >= lost[1] > 0
    assert (resumed.returncode, watched.returncode) == (0, 0), resumed.stderr + watched.stderr
    assert json.loads(watched.stdout)["answer"] == ENGLISH.answer
    assert simulator.asked("worker") == len(ENGLISH.steps) + 1
    assert bought == summed([*others, *bills[len(others) + 1 :]])
    assert unknown_of(url, run_id)[0]["hold_id"] == unknown["hold_id"]

    usd = Decimal(lost[1]) / 10**9
    invoice = ("--usd", str(usd), "--tokens", str(lost[0]), "--reason", "the provider's log")
    settled = server.tutti("books", "settle", unknown["hold_id"], *invoice)
    assert settled.returncode == 0, settled.stderr
    assert bought_by(url, run_id) == summed(bills)
    assert unknown_of(url, run_id) == []


def bills_of(simulator: Simulator) -> list[tuple[int, int]]:
    """Return what the provider billed for each request, in the order of arrival: tokens and nano-dollars."""
    rows = simulator.stats(log=True)["log"]
    return [(row["input_tokens"] + row["output_tokens"], cost_nano(row)) for row in rows]


def cost_nano(row: dict[str, Any]) -> int:
    """Return what one request costs, in nano-dollars."""
    model = MODELS[row["model"]]
    read, written = nano(model["input_usd_per_mtok"]), nano(model["output_usd_per_mtok"])
    return int(row["input_tokens"] * read + row["output_tokens"] * written) // 10**6


def summed(bills: list[tuple[int, int]]) -> tuple[int, int]:
    """Return tokens and nano-dollars of all."""
    return sum(tokens for tokens, _nano in bills), sum(amount for _tokens, amount in bills)


def bought_by(url: str, run_id: str) -> tuple[int, int]:
    """Return what the books say that a run bought: tokens and nano-dollars."""
    total = HTTP.get(f"{url}/api/v1/usage/stats", params={"run": run_id}).json()["total"]
    return total["input_tokens"] + total["output_tokens"], nano(total["cost_usd"])


def unknown_of(url: str, run_id: str) -> list[dict[str, Any]]:
    """Return the holds of a run of which nobody knows what was bought."""
    rows = HTTP.get(f"{url}/api/v1/books/unknown").json()["data"]
    return [row for row in rows if row["run"] == run_id]


def nano(usd: str | float) -> int:
    """Return an amount in nano-dollars."""
    return int(Decimal(str(usd)) * 10**9)


def test_defaults_are_assumed_when_asked_to(url: str) -> None:
    """A client that cannot answer gets an answer with its assumptions written down."""
    document = post(f"{url}/process_project", {"request_text": VAGUE, "assume_defaults": True}).json()

    assert document["status"] == "completed"
    assert any(ASSUMED in text for text in document["assumptions"])


def test_cancel_stops_the_project_and_its_calls(url: str, simulator: Simulator) -> None:
    """Cancelling over HTTP reaches the provider."""
    slow = {"latency": {"kind": "constant", "mean_s": 60}}
    simulator.reset(*(worker_rule(ENGLISH.step(name), **slow) for name in ("t1", "t2")))
    run_id = post(f"{url}/v1/projects", {"request_text": ENGLISH.request}).json()["run_id"]
    wait_for(lambda: simulator.stats()["total"]["in_flight"] == 2)
    cancelled = HTTP.post(f"{url}/v1/projects/{run_id}/cancel")
    wait_for(lambda: simulator.stats()["total"]["in_flight"] == 0)

    assert cancelled.status_code == 200
    assert finished(url, run_id)["status"] == "cancelled"
    assert simulator.stats()["total"]["cancelled_by_client"] == 2


def test_client_that_disconnects_loses_nothing(url: str, simulator: Simulator) -> None:
    """The run of a client that went away goes on under the id it was told."""
    with HTTP.stream("POST", f"{url}/process_project", json={"request_text": ENGLISH.request}) as answer:
        run_id = answer.headers["x-tutti-run-id"]
    document = finished(url, run_id)

    assert document["status"] == "completed"
    assert document["answer"] == ENGLISH.answer
    assert simulator.stats()["total"]["cancelled_by_client"] == 0


WRONG: dict[str, tuple[bytes, int, str]] = {
    "empty text": (b'{"request_text": "  "}', 422, "request_text"),
    "no text": (b"{}", 422, "request_text"),
    "empty body": (b"", 400, "body"),
    "one megabyte": (json.dumps({"request_text": "word " * 200_000}).encode(), 413, "body"),
    "not UTF-8": (b'{"request_text": "caf\xe9"}', 400, "body"),
    "not JSON": (b'{"request_text": "x"', 400, "body"),
    "unknown field": (b'{"request_text": "x", "colour": "red"}', 422, "colour"),
    "wrong type": (b'{"request_text": "x", "timeout_s": "soon"}', 422, "timeout_s"),
    "negative": (b'{"request_text": "x", "max_tokens_total": -1}', 422, "max_tokens_total"),
}


@pytest.mark.parametrize("path", ["/process_project", "/v1/projects"])
@pytest.mark.parametrize("name", WRONG)
def test_bad_request_is_named_with_field_and_remedy(url: str, simulator: Simulator, name: str, path: str) -> None:
    """Every mistake gets its status, its field and its remedy, in the one shape, and buys nothing."""
    body, status, param = WRONG[name]
    answer = HTTP.post(f"{url}{path}", content=body, headers={"content-type": "application/json"})
    error = answer.json()["error"]

    assert answer.status_code == status
    assert set(error) == {"type", "message", "param", "remedy"}
    assert error["param"] == param
    assert error["message"]
    assert error["remedy"]
    assert "Traceback" not in answer.text
    assert simulator.stats()["total"]["requests"] == 0


@pytest.mark.parametrize("path", ["/v1/projects/run-none", "/nowhere"])
def test_unknown_address_is_a_clear_error(url: str, path: str) -> None:
    """What is not there says so in the one shape."""
    answer = HTTP.get(f"{url}{path}")

    assert answer.status_code == 404
    assert set(answer.json()["error"]) == {"type", "message", "param", "remedy"}


def test_operators_see_reload_and_check_the_accounts(server: Server, url: str) -> None:
    """The operators' commands work on the running server."""
    table = server.tutti("accounts", "--by", "identity", "--json")
    live = server.tutti("check", "--live", "--json")
    reloaded = server.tutti("reload", "--json")

    assert {row["account"] for row in json.loads(table.stdout)} == {"alpha", "beta", "chief"}
    assert {row["account"]: row["ok"] for row in json.loads(live.stdout)["live"]} == {
        "alpha": True,
        "beta": True,
        "chief": True,
    }
    assert json.loads(reloaded.stdout)["notes"] == ["nothing changed"]


def test_second_server_on_the_data_directory_is_refused(server: Server, url: str) -> None:
    """Two servers on one data directory would write one journal: the second says who holds it, and leaves."""
    started = time.monotonic()
    second = server.tutti("serve", "--port", str(free_port()))

    assert second.returncode == 2
    assert str(server.data_dir) in second.stderr
    assert "in use" in second.stderr
    assert "Traceback" not in second.stderr
    assert second.stdout == ""
    assert time.monotonic() - started < 20
    assert HTTP.get(f"{url}/readyz").status_code == 200


def test_second_server_on_the_port_is_refused(server: Server, url: str) -> None:
    """A taken port is named before anything is started."""
    port = url.rpartition(":")[2]
    second = run_tutti(server.home, "serve", "--port", port)

    assert second.returncode == 2
    assert port in second.stderr
    assert "--port" in second.stderr


def test_signals_end_all_that_was_started_and_the_journal_survives(serve_it: ServeIt, simulator: Simulator) -> None:
    """SIGTERM drains; a server on the same data directory has the old projects, and SIGKILL leaves nothing of it."""
    simulator.reset()
    first = serve_it(pool.three_accounts(simulator.url))
    run_id = post(f"{first.url}/process_project", {"request_text": ENGLISH.request}).json()["run_id"]
    started = first.descendants()
    first.process.send_signal(signal.SIGTERM)

    assert first.process.wait(DRAIN_WITHIN_S) == 0
    assert gone_within(started, 10) == []
    assert not list(first.data_dir.glob("*ready*"))
    assert "Traceback" not in "".join(first.errors)

    second = serve_it({**pool.three_accounts(simulator.url), "data_dir": str(first.data_dir)})
    kept = HTTP.get(f"{second.url}/v1/projects/{run_id}").json()
    started = second.descendants()
    second.process.kill()

    assert kept["document"]["answer"] == ENGLISH.answer
    assert len(started) > 5
    assert gone_within(started, 30) == []
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", int(second.url.rpartition(":")[2])))


def wait_for(holds: Callable[[], bool], *, within_s: float = 20.0) -> None:
    """Wait until ``holds``."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.1)
