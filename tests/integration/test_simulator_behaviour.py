"""The simulator over real sockets: limits to the exact count, faults, bills, scripts, and its own process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
import yaml
from google.genai import errors

from tests.fakes.simulator_process import (
    BASE,
    HELLO,
    HTTP,
    KEY,
    Sim,
    ask_anthropic,
    ask_gemini,
    ask_openai,
    started,
)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    sim = started(tmp_path_factory.mktemp("sim"))
    yield sim
    sim.end()


@pytest.fixture
def sim(process: Sim) -> Sim:
    return process.fresh()


async def _storm(sim: Sim, key: str, count: int, **fields: Any) -> list[int]:
    """Send ``count`` requests at once and return their statuses."""
    body = {"model": "m", "messages": HELLO, "max_tokens": 8, **fields}
    async with httpx.AsyncClient(verify=False, headers={"authorization": f"Bearer {key}"}, timeout=20) as client:
        answers = await asyncio.gather(
            *(client.post(f"{sim.url}/v1/chat/completions", json=body) for _ in range(count))
        )
    return [answer.status_code for answer in answers]


async def test_limits_admit_exactly_their_number_of_simultaneous_requests(sim: Sim) -> None:
    """Each limit alone, 60 at once; a request has 2 prompt tokens and asks for 8."""
    rows: list[tuple[dict[str, Any], int, str]] = [
        ({"rpm": 17}, 17, "rpm"),
        ({"rpd": 11}, 11, "rpd"),
        ({"tpm": 100}, 10, "tpm"),
        ({"itpm": 25}, 12, "itpm"),
        ({"otpm": 33}, 4, "otpm"),
    ]
    for number, (limits, admitted, kind) in enumerate(rows):
        key = f"sk-limit-{number}"
        sim.control(keys={key: {"limits": {**limits, "window": "sliding"}}})
        statuses = await _storm(sim, key, 60)
        told = sim.stats()["keys"][key]

        assert (statuses.count(200), statuses.count(429)) == (admitted, 60 - admitted), limits
        assert (told["accepted"], told["rejected"]) == (admitted, {kind: 60 - admitted})


async def test_bucket_admits_its_burst_and_then_its_rate(sim: Sim) -> None:
    """600 a minute with a burst of one second: 10 at once, one more every 100 ms."""
    sim.control(keys={"sk-bucket": {"limits": {"rpm": 600, "burst_s": 1}}})
    begun = time.monotonic()
    first = (await _storm(sim, "sk-bucket", 40)).count(200)
    burst_s = time.monotonic() - begun
    await asyncio.sleep(0.35)
    second = (await _storm(sim, "sk-bucket", 40)).count(200)
    spent_s = time.monotonic() - begun

    assert 10 <= first <= 10 + burst_s * 10
    assert 13 <= first + second <= 10 + spent_s * 10


async def test_concurrency_is_refused_above_its_limit_and_freed_at_the_end(sim: Sim) -> None:
    """The account's, whatever the number of its keys."""
    both: dict[str, Any] = {"group": "c", "limits": {"concurrency": 3}}
    sim.control(keys={"sk-c1": both, "sk-c2": {"group": "c"}}, profile={"latency": {"mean_s": 0.3}})
    first, second = await asyncio.gather(_storm(sim, "sk-c1", 5), _storm(sim, "sk-c2", 5))
    again = await _storm(sim, "sk-c2", 3)
    told = sim.stats()["groups"]["c"]

    assert ((first + second).count(200), again) == (3, [200, 200, 200])
    assert (told["in_flight_max"], told["rejected"], told["in_flight"]) == (3, {"concurrency": 7}, 0)


def test_rate_limit_headers_and_errors_of_each_provider(sim: Sim) -> None:
    """Go durations at OpenAI, RFC 3339 at Anthropic, RetryInfo at Gemini; nothing where headers are off."""
    limits = {"rpm": 2, "tpm": 1000, "window": "sliding"}
    sim.control(keys={key: {"limits": limits} for key in ("sk-o", "sk-a", "sk-g")})
    sim.control(keys={"sk-d": {"limits": {"rpm": 1}, "headers": False}})
    raw = sim.openai("sk-o").chat.completions.with_raw_response.create(model="m", messages=HELLO, max_tokens=8)
    ask_openai(sim, "sk-o")
    with pytest.raises(openai.RateLimitError, match=r"requests per min \(RPM\): Limit 2, Used 2, Requested 1") as over:
        ask_openai(sim, "sk-o")
    claude = sim.anthropic("sk-a").messages.with_raw_response.create(model="m", messages=HELLO, max_tokens=8)
    ask_gemini(sim, "sk-g")
    ask_gemini(sim, "sk-g")
    with pytest.raises(errors.ClientError) as quota:
        ask_gemini(sim, "sk-g")
    ask_openai(sim, "sk-d")
    with pytest.raises(openai.RateLimitError) as silent:
        ask_openai(sim, "sk-d")

    assert raw.headers["x-ratelimit-remaining-requests"] == "1"
    assert raw.headers["x-ratelimit-remaining-tokens"] == "990"
    assert re.fullmatch(r"1m0s|59(\.\d+)?s", raw.headers["x-ratelimit-reset-requests"])
    assert over.value.code == "rate_limit_exceeded"
    assert 55 <= int(over.value.response.headers["retry-after"]) <= 60
    assert 55_000 <= int(over.value.response.headers["retry-after-ms"]) <= 60_000
    assert claude.headers["anthropic-ratelimit-requests-remaining"] == "1"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", claude.headers["anthropic-ratelimit-requests-reset"])
    details = {item["@type"].rpartition(".")[2]: item for item in quota.value.details["error"]["details"]}
    assert details["QuotaFailure"]["violations"][0]["quotaValue"] == "2"
    assert re.fullmatch(r"5\d\.\d+s|60\.000s", details["RetryInfo"]["retryDelay"])
    assert not [name for name in silent.value.response.headers if "ratelimit" in name or "retry" in name]


def test_broken_connections_are_what_they_claim_to_be(sim: Sim) -> None:
    """And billed as a provider bills them: output up to the break, nothing for a reset."""
    url, headers = f"{sim.url}/v1/chat/completions", {"authorization": f"Bearer {KEY}"}
    body = {"model": "m", "messages": HELLO, "stream": True, "max_tokens": 20}

    def broken(kind: str, **fields: Any) -> tuple[type[Exception], int]:
        HTTP.post(f"{sim.url}/__reset")
        sim.control(faults=[{"kind": kind, **fields}])
        with pytest.raises(httpx.TransportError) as caught, HTTP.stream("POST", url, json=body, headers=headers) as it:
            list(it.iter_bytes())
        total = sim.settled()
        assert total["failed_by_fault"] == {kind: 1}
        return type(caught.value), total["billed_output_tokens"]

    assert broken("cut_stream", at_chunk=4) == (httpx.RemoteProtocolError, 4)
    assert broken("cut_before_first") == (httpx.RemoteProtocolError, 0)
    assert broken("reset") == (httpx.ReadError, 0)
    assert broken("accept_then_drop") == (httpx.RemoteProtocolError, 20)


def test_error_after_the_first_bytes_of_a_stream(sim: Sim) -> None:
    """HTTP 200 was sent; each client still raises."""
    sim.control(faults=[{"kind": "error_event", "at_chunk": 2, "match": {"stream": True}}])
    with pytest.raises(openai.APIError):
        list(ask_openai(sim, stream=True))
    with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
        list(ask_anthropic(sim, stream=True))
    with pytest.raises(errors.ServerError, match="overloaded"):
        list(sim.gemini().models.generate_content_stream(model="m", contents="hello"))

    assert sim.settled()["billed_output_tokens"] == 6


def test_answers_that_are_billed_and_useless(sim: Sim) -> None:
    """Status 200 or 500, and money spent all the same."""
    sim.control(
        faults=[
            {"kind": "bill_then_500", "first": 1},
            {"kind": "garbage_json", "first": 1},
            {"kind": "blank_content", "first": 1},
        ]
    )
    with pytest.raises(openai.InternalServerError):
        ask_openai(sim, max_tokens=9)
    with pytest.raises(ValueError):
        ask_openai(sim, max_tokens=9)
    blank = ask_openai(sim, max_tokens=9)

    assert (blank.choices[0].message.content, blank.choices[0].finish_reason) == ("", "stop")
    total = sim.settled()
    assert (total["billed_output_tokens"], total["billed_requests"]) == (18, 3)
    assert (total["completed"], total["failed_by_fault"]) == (1, {"bill_then_500": 1, "garbage_json": 1})


def test_hanging_requests_end_when_the_client_leaves_and_cost_nothing(sim: Sim) -> None:
    """How a client's timeout is rehearsed."""
    sim.control(faults=[{"kind": "hang"}])
    with pytest.raises(openai.APITimeoutError):
        sim.openai().with_options(timeout=0.3).chat.completions.create(model="m", messages=HELLO)
    total = sim.settled()

    assert (total["cancelled_by_client"], total["billed_input_tokens"], total["faults"]) == (1, 0, {"hang": 1})


def test_stalls_and_drips_arrive_whole_and_late(sim: Sim) -> None:
    """Only an idle timer notices them."""
    for fault in ({"kind": "stall", "seconds": 0.4}, {"kind": "slow_drip", "seconds": 0.05}):
        sim.control(faults=[fault])
        begun = time.monotonic()
        chunks = list(ask_openai(sim, stream=True, max_tokens=8))

        assert time.monotonic() - begun >= 0.4
        assert len([c for c in chunks if c.choices[0].delta.content]) == 8
    assert sim.settled()["completed"] == 2


def test_refusals_come_in_the_provider_s_own_words(sim: Sim) -> None:
    """A dead key is 401, at Gemini 400; what is too long names the length."""
    sim.control(faults=[{"kind": "dead_key", "first": 3}, {"kind": "no_balance", "first": 1}, {"kind": "too_long"}])
    with pytest.raises(openai.AuthenticationError):
        ask_openai(sim)
    with pytest.raises(anthropic.AuthenticationError):
        ask_anthropic(sim)
    with pytest.raises(errors.ClientError, match="API key not valid"):
        ask_gemini(sim)
    with pytest.raises(openai.RateLimitError) as poor:
        ask_openai(sim)
    with pytest.raises(openai.BadRequestError) as long:
        ask_openai(sim)
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
        ask_anthropic(sim)

    total = sim.settled()
    assert (poor.value.code, long.value.code) == ("insufficient_quota", "context_length_exceeded")
    assert (total["billed_requests"], total["completed"]) == (0, 0)


def test_answer_that_comes_twice_is_billed_once(sim: Sim) -> None:
    """The end of a stream twice, a body twice."""
    sim.control(faults=[{"kind": "duplicate"}])
    url, headers = f"{sim.url}/v1/chat/completions", {"authorization": f"Bearer {KEY}"}
    body = {"model": "m", "messages": HELLO, "max_tokens": 4}
    whole = HTTP.post(url, json=body, headers=headers).content
    stream = HTTP.post(url, json={**body, "stream": True}, headers=headers).text

    assert whole[: len(whole) // 2] == whole[len(whole) // 2 :]
    assert stream.count("[DONE]") == stream.count('"finish_reason":"length"') == 2
    assert sim.settled()["billed_output_tokens"] == 8


def test_answer_may_begin_late_or_end_for_want_of_machines(sim: Sim) -> None:
    """A first byte after a while; DeepSeek's own reason to end half way."""
    sim.control(faults=[{"kind": "slow_first", "seconds": 0.5, "first": 1}, {"kind": "no_resources"}])
    begun = time.monotonic()
    late = ask_openai(sim, max_tokens=8)
    late_s = time.monotonic() - begun
    half = ask_openai(sim, max_tokens=8)

    assert late_s >= 0.5
    assert (late.usage.completion_tokens, half.usage.completion_tokens) == (8, 4)
    assert half.choices[0].finish_reason == "insufficient_system_resource"


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_leaves_is_billed_as_its_provider_does(sim: Sim, stream: bool) -> None:
    """Gemini finishes what is left; OpenAI does where it is not streamed."""
    profile = {**BASE["profile"], "latency": {"mean_s": 5.0}, "output_tokens": {"mean": 50}}
    sim.control(bill_on_disconnect="as_provider", profile=profile)
    parts = [{"role": "user", "parts": [{"text": "hello"}]}]
    verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
    calls: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", {"model": "m", "messages": HELLO, "stream": stream}),
        (f"/v1beta/models/m:{verb}", {"contents": parts}),
    ]
    billed: list[int] = []
    for path, body in calls:
        headers = {"authorization": f"Bearer {KEY}", "x-goog-api-key": KEY}
        with pytest.raises(httpx.ReadTimeout):
            HTTP.post(f"{sim.url}{path}", json=body, headers=headers, timeout=0.5)
        billed.append(sim.settled()["billed_output_tokens"] - sum(billed))

    assert billed == [0 if stream else 50, 50]


@pytest.mark.parametrize(("billing", "least", "most"), [("partial", 3, 60), ("all", 100, 100)])
def test_client_that_leaves_a_stream_stops_it(sim: Sim, billing: str, least: int, most: int) -> None:
    """Generation ends within moments of the departure; the bill is the setting's."""
    sim.control(
        bill_on_disconnect=billing, profile={**BASE["profile"], "output_tokens": {"mean": 500}, "tokens_per_s": 50}
    )
    stream = ask_openai(sim, stream=True, max_tokens=100)
    for _, _chunk in zip(range(4), stream, strict=False):
        pass
    stream.close()
    begun = time.monotonic()
    total = sim.settled()

    assert time.monotonic() - begun < 1.5
    assert total["cancelled_by_client"] == 1
    assert least <= total["billed_output_tokens"] <= most


def test_latency_and_speed_are_kept(sim: Sim) -> None:
    """First byte after the latency, then the rate."""
    sim.control(profile={"latency": {"mean_s": 0.2}, "tokens_per_s": 40})
    begun = time.monotonic()
    stream = iter(ask_openai(sim, stream=True, max_tokens=12))
    next(stream)
    first_s = time.monotonic() - begun
    list(stream)
    total_s = time.monotonic() - begun

    assert 0.2 <= first_s < 2.0
    assert 0.5 <= total_s < 3.0


def test_deepseek_keepalives_come_before_the_answer(sim: Sim) -> None:
    """Comments in a stream, blank lines before JSON; the clients must not mind."""
    sim.control(profile={"latency": {"mean_s": 0.05}, "deepseek_keepalive": True})
    url, headers = f"{sim.url}/chat/completions", {"authorization": f"Bearer {KEY}"}
    whole = HTTP.post(url, json={"model": "m", "messages": HELLO}, headers=headers).text
    stream = HTTP.post(url, json={"model": "m", "messages": HELLO, "stream": True}, headers=headers).text

    assert whole.startswith("\n")
    assert json.loads(whole)["object"] == "chat.completion"
    assert stream.startswith(": keep-alive\n\n")
    assert list(ask_openai(sim, stream=True))


def test_script_answers_a_planner_in_every_format(sim: Sim) -> None:
    """One item per match in the request; the log tells who asked what."""
    template = {"tasks": {"$for_each": r"- (?P<title>[^\n]+)", "$item": {"title": "{title}"}}}
    sim.control(replies=[{"match": {"contains": "plan"}, "json": template}])
    text = "plan:\n- cook\n- eat"
    said = [
        ask_openai(sim, messages=[{"role": "user", "content": text}]).choices[0].message.content,
        ask_anthropic(sim, messages=[{"role": "user", "content": text}]).content[0].text,
        sim.gemini().models.generate_content(model="m", contents=text).text,
    ]
    log = HTTP.get(f"{sim.url}/__stats", params={"log": 1}).json()["log"]

    assert [json.loads(one) for one in said] == [{"tasks": [{"title": "cook"}, {"title": "eat"}]}] * 3
    assert [(row["format"], row["status"], row["text"]) for row in log] == [
        (wire, 200, text) for wire in ("openai", "anthropic", "gemini")
    ]
    assert [row["output_tokens"] for row in log] == [-(-len(said[0]) // 4)] * 3
    assert all(row["end_ns"] > row["at_ns"] for row in log)


def test_control_refuses_nonsense_and_changes_nothing(sim: Sim) -> None:
    """The message names field and remedy."""
    refused = HTTP.post(f"{sim.url}/__control", json={"faults": [{"kind": "reset", "evry": 2}]})

    assert refused.status_code == 400
    assert "faults[0].evry: unknown field" in refused.json()["error"]
    assert ask_openai(sim).choices


def test_simulator_ends_at_once_at_sigterm_with_requests_in_flight(tmp_path: Path) -> None:
    """Nothing is drained: it is no server that anybody's work depends on."""
    sim = started(tmp_path, faults=[{"kind": "hang"}])
    with socket.create_connection(("127.0.0.1", int(sim.url.rpartition(":")[2]))) as hanging:
        body = json.dumps({"model": "m", "messages": HELLO}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
        hanging.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        while not sim.total()["in_flight"]:
            time.sleep(0.02)
        begun = time.monotonic()
        sim.process.send_signal(signal.SIGTERM)
        sim.process.wait(5)

        assert time.monotonic() - begun < 2


def test_simulator_that_cannot_start_says_why_and_exits_2(tmp_path: Path) -> None:
    """A port in use, a wrong file, a missing one; never a traceback."""
    wrong, right = tmp_path / "wrong.yaml", tmp_path / "right.yaml"
    wrong.write_text("prot: 1\n", encoding="utf-8")
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        right.write_text(yaml.safe_dump({"port": taken.getsockname()[1]}), encoding="utf-8")
        said = {}
        for path in (wrong, right, tmp_path / "missing.yaml"):
            command = [sys.executable, "-m", "app.simulator", "--config", str(path)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
            assert (done.returncode, done.stdout) == (2, "")
            assert "Traceback" not in done.stderr
            said[path.name] = done.stderr

    assert "prot: unknown field" in said["wrong.yaml"]
    assert "choose another --port" in said["right.yaml"]
    assert "missing.yaml" in said["missing.yaml"]
