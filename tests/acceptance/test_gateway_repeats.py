"""One Idempotency-Key, one purchase: over replicas, over clients that leave, over kills; the provider counts."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
import pytest

from tests.acceptance.conftest import ServeIt
from tests.acceptance.gateway_life import (
    CALLERS,
    FREE,
    GREETING,
    PAUSE_S,
    Cluster,
    body,
    configuration,
    rows_of,
    running_provider,
    until,
)

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]
REPLICAS = 2
EMBEDDER = "embedder"
AT_ONCE = 12
KEY = "sk-free"
_keys = (f"key-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def cluster(serve_it: ServeIt, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A server with two replicas, which also serves embeddings."""
    with running_provider(tmp_path_factory.mktemp("repeats")) as provider:
        document = configuration(provider.url)
        document["accounts"][0]["models"].append(EMBEDDER)
        document["models"][EMBEDDER] = {
            "kind": "embedding",
            "family": "one",
            "input_usd_per_mtok": "0.02",
            "output_usd_per_mtok": 0,
        }
        # Only the key may save a call here.
        document["gateway"]["cache"] = {"enabled": False}
        server = serve_it(document, command=("tests.acceptance.gateway_cluster", "--replicas", str(REPLICAS)))
        running = Cluster(server=server, provider=provider)
        until(lambda: len(running.replicas()) == REPLICAS, within_s=60, what="the replicas are not there")
        yield running


@dataclass
class Client:
    """Asks with one key, each time on a connection of its own, so that any replica may be met."""

    cluster: Cluster
    key: str

    def post(self, path: str, document: dict[str, Any], *, timeout_s: float = 60.0) -> httpx.Response:
        headers = {"authorization": f"Bearer key-of-{CALLERS[0]}", "idempotency-key": self.key}
        return httpx.post(f"{self.cluster.url}{path}", json=document, headers=headers, timeout=timeout_s)

    def chat(self, text: str, *, timeout_s: float = 60.0, **more: Any) -> httpx.Response:
        return self.post("/v1/chat/completions", body(FREE, text, **more), timeout_s=timeout_s)

    def insist(self, text: str) -> str:
        """Ask until there is an answer, as SDKs do."""
        found: list[str] = []

        def answered() -> bool:
            with contextlib.suppress(httpx.TransportError):
                answer = self.chat(text)
                if answer.status_code == 200:
                    found.append(said(answer))
            return bool(found)

        until(answered, within_s=90, pause_s=0.5)
        return found[0]


def said(answer: httpx.Response) -> str:
    """Return the text of an answer."""
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


@pytest.fixture
def client(cluster: Cluster) -> Client:
    """A client with a new key; the provider counts from zero."""
    cluster.renew()
    return Client(cluster, next(_keys))


def bought(client: Client) -> int:
    """Return how many requests reached the provider."""
    return len(rows_of(client.cluster.provider, KEY))


def test_a_key_is_bought_once_by_two_replicas_at_once_and_later(client: Client) -> None:
    """The same answer for all, streamed too, down to its id; another request with the key is refused by each."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda _number: client.chat("hang on"), range(AT_ONCE)))
    answers += [client.chat("hang on") for _ in range(AT_ONCE)]
    streamed = client.chat("hang on", stream=True)
    others = [client.chat("please greet") for _ in range(AT_ONCE)]

    assert bought(client) == 1
    assert {said(answer) for answer in answers} == {"late"}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert '"content":"late"' in streamed.text
    assert "data: [DONE]" in streamed.text
    assert {answer.status_code for answer in others} == {409}
    assert {answer.json()["error"]["param"] for answer in others} == {"idempotency-key"}


def test_a_key_of_embeddings_is_bought_once(client: Client) -> None:
    """The same vectors to the last digit."""
    document = {"model": EMBEDDER, "input": ["trà", "绿茶"]}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda _number: client.post("/v1/embeddings", document), range(AT_ONCE)))

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert bought(client) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_and_comes_again_with_its_key_buys_once(client: Client, stream: bool) -> None:
    """Its call goes on without it."""
    with pytest.raises(httpx.ReadTimeout):
        client.chat("hang on", timeout_s=PAUSE_S / 3, stream=stream)
    until(lambda: bought(client) == 1, within_s=30)
    answers = [said(client.chat("hang on")) for _ in range(4)]

    assert set(answers) == {"late"}
    assert bought(client) == 1


def test_an_answer_survives_the_death_of_every_replica_and_of_the_store(client: Client) -> None:
    """Whoever comes within a day gets the answer that was paid for."""
    first = client.chat("please greet")
    psutil.Process(client.cluster.tell(pid_of="store")["pid"]).kill()
    for replica in client.cluster.replicas():
        replica.kill()

    assert said(first) == GREETING
    assert client.insist("please greet") == GREETING
    assert bought(client) == 1
    until(lambda: len(client.cluster.replicas()) == REPLICAS, within_s=60, what="the replicas are not back")


def test_a_call_whose_replica_dies_is_made_again_once(client: Client) -> None:
    """Nobody knows whether it was billed: it is bought a second time, by one of all who come again."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        leaving = pool.submit(client.chat, "hang on")
        until(lambda: bought(client) == 1, within_s=30)
        for replica in client.cluster.replicas():
            replica.kill()
        with contextlib.suppress(httpx.TransportError):
            leaving.result()
        answers = list(pool.map(lambda _number: client.insist("hang on"), range(AT_ONCE)))

    assert set(answers) == {"late"}
    assert bought(client) == 2
