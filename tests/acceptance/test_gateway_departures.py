"""Clients that go away stop a provider where that stops the bill; elsewhere their calls are read to the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from app.domain.accounts import Provider
from app.providers.departures import DEPARTURES
from tests.acceptance.conftest import ServeIt, Server
from tests.fakes.gateway_pool import account, chat_model
from tests.fakes.simulated import Simulator, running_simulator

pytestmark = [pytest.mark.ray, pytest.mark.timeout(150)]
PROVIDERS = ("openai", "anthropic", "deepseek", "qwen", "gemini", "custom")
KEY = "key-of-the-client"
OUTPUT_TOKENS = 120
TOKENS_PER_S = 30
"""A whole answer takes four seconds."""
STAYS_S = 1.2
TRIES = 4
OWN_PROXY = {"RAY_SERVE_ENABLE_HA_PROXY": "0"}
"""Ray Serve's own proxy tells of every client that leaves. HAProxy 2.8 now and then keeps such a connection, which is
not what is judged here."""


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """A simulator that bills a client that leaves as its provider would."""
    path = tmp_path_factory.mktemp("provider") / "sim.yaml"
    profile = {"latency": {"mean_s": 0.01}, "output_tokens": {"mean": OUTPUT_TOKENS}, "tokens_per_s": TOKENS_PER_S}
    document = {"port": 0, "profile": profile, "default_reply": "lorem", "bill_on_disconnect": "as_provider"}
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    with running_simulator(path) as running:
        yield running


@pytest.fixture(scope="module")
def server(serve_it: ServeIt, provider: Simulator) -> Server:
    """One server with an account of every provider, and one client that may have a single call open."""
    models = {name: f"model-{name}" for name in PROVIDERS}
    return serve_it(
        {
            "accounts": [account(provider.url, name, name, model) for name, model in models.items()],
            "coordinator": {"model": models["openai"]},
            "routing": {"general": {"primary": [models["openai"]]}},
            "models": {model: chat_model(model) for model in models.values()},
            "auth": {"keys": [{"name": "client", "key": KEY, "limits": {"concurrency": 1}}]},
            "accounts_per_actor": 32,
        },
        variables=OWN_PROXY,
    )


def leave(server: Server, name: str, *, stream: bool) -> None:
    """Ask for an answer and go away long before it is whole; who is told to wait, waits."""
    body = {"model": f"model-{name}", "messages": [{"role": "user", "content": "please write"}], "max_tokens": 1_000}
    headers = {"authorization": f"Bearer {KEY}"}
    until_s = time.monotonic() + 60.0
    while time.monotonic() < until_s:
        with (
            contextlib.suppress(httpx.ReadTimeout),
            httpx.Client(timeout=STAYS_S) as client,
            client.stream(
                "POST", f"{server.url}/v1/chat/completions", json={**body, "stream": stream}, headers=headers
            ) as answer,
        ):
            if answer.status_code == 429:
                time.sleep(0.3)  # the last one's call is still open
                continue
            assert answer.status_code == 200, answer.read()
            ends_s = time.monotonic() + STAYS_S
            for _chunk in answer.iter_raw():
                if time.monotonic() > ends_s:
                    break
        return
    pytest.fail("the client could not call any more: its reservation stayed")


def counted(server: Server, name: str) -> dict[str, Any]:
    """Return the account's row."""
    answer = httpx.get(f"{server.url}/v1/accounts", headers={"authorization": f"Bearer {KEY}"}, timeout=30)
    rows = answer.raise_for_status().json()["data"]
    return next(row for row in rows if row["account"] == name)


def settled(server: Server, provider: Simulator, name: str) -> dict[str, Any]:
    """Return the provider's counts of an account once nothing of it is open any more."""
    until_s = time.monotonic() + 60.0
    while time.monotonic() < until_s:
        key = provider.stats()["keys"][f"sk-{name}"]
        if not key["in_flight"] and not counted(server, name)["in_flight"]:
            return dict(key)
        time.sleep(0.2)
    pytest.fail("a call stayed open")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", PROVIDERS)
def test_client_that_leaves_stops_the_provider_only_where_that_stops_the_bill(
    server: Server, provider: Simulator, name: str, stream: bool
) -> None:
    """What is read to its end is counted as it is billed; what is stopped is billed in part."""
    departure = DEPARTURES[Provider(name)]
    goes_on = departure.stream_goes_on if stream else departure.whole_goes_on
    httpx.post(f"{provider.url}/__reset", timeout=10).raise_for_status()
    before = counted(server, name)
    for tries in range(1, TRIES + 1):
        leave(server, name, stream=stream)
        told, after = settled(server, provider, name), counted(server, name)
        if told["cancelled_by_client"]:
            break
        spent = {kind: after[kind] - before[kind] for kind in ("input_tokens", "output_tokens")}
        assert told["billed_output_tokens"] == OUTPUT_TOKENS * tries
        assert spent == {kind: told[f"billed_{kind}"] for kind in spent}

    assert bool(told["cancelled_by_client"]) == (not goes_on)
    if not goes_on and stream:
        assert told["billed_output_tokens"] < OUTPUT_TOKENS * tries
