"""What the tests of a replica's life share: a provider with limits, a server with replicas, clients, and its log."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import yaml

from tests.acceptance.conftest import ServeIt, Server
from tests.fakes.simulated import Simulator, running_simulator

FREE = "model-free"
FREE_KEY = "sk-free"
"""Its account has no limit but concurrency."""
TIGHT = "model-tight"
TIGHT_KEY = "sk-tight"
"""Its account has few requests a minute."""
STORM = tuple(f"storm-{letter}" for letter in "abc")
STORMY = "model-stormy"
"""Served by the accounts of ``STORM``, and by nobody else."""
RPM = 300
BURST_S = 5.0
PROVIDER_BURST_S = 6.0
"""What the provider allows beyond ours: one second of requests that overtake each other on their way."""
RETRY_RATIO = 0.2
CALLERS = ("anna", "binh", "chen")
LIMITED = "dana"
"""A caller with a limit of its own."""
LIMITED_CALLS = 4
METERED = "emma"
"""A caller with as many requests a minute as the account of ``TIGHT``."""
LONG_WORDS = 120
TOKENS_PER_S = 30
"""A stream of so many words takes about 7 s."""
PAUSE_S = 6.0
QUEUE_S = 15.0
GREETING = "Good morning."
REPLIES: list[dict[str, Any]] = [
    {
        "match": {"contains": "count slowly"},
        "text": " ".join(f"word{number}" for number in range(LONG_WORDS)),
        "tokens_per_s": TOKENS_PER_S,
    },
    {"match": {"contains": "hang on"}, "text": "late", "latency": {"kind": "constant", "mean_s": PAUSE_S}},
    {"match": {"contains": "greet"}, "text": GREETING},
]


def simulator_file() -> dict[str, Any]:
    """Return the configuration of the provider."""
    tight = {"rpm": RPM, "burst_s": PROVIDER_BURST_S}
    keys = [{"key": "sk-free"}, {"key": "sk-tight", "limits": tight}, *({"key": f"sk-{name}"} for name in STORM)]
    latency = {"kind": "constant", "mean_s": 0.02}
    return {"host": "127.0.0.1", "port": 0, "profile": {"latency": latency}, "keys": keys, "replies": REPLIES}


@contextlib.contextmanager
def running_provider(folder: Path) -> Iterator[Simulator]:
    """Run the provider for as long as the context lasts."""
    path = folder / "provider.yaml"
    path.write_text(yaml.safe_dump(simulator_file()), encoding="utf-8")
    with running_simulator(path) as running:
        yield running


def configuration(url: str) -> dict[str, Any]:
    """Return the server's configuration."""
    accounts = [("free", FREE, {"concurrency": 64}), ("tight", TIGHT, {"rpm": RPM, "burst_s": BURST_S})]
    accounts += [(name, STORMY, {"concurrency": 64}) for name in STORM]
    return {
        "accounts": [
            {
                "name": name,
                "provider": "openai",
                "base_url": f"{url}/v1",
                "api_key": f"sk-{name}",
                "models": [model],
                "limits": limits,
            }
            for name, model, limits in accounts
        ],
        "coordinator": {"model": FREE},
        "routing": {"general": {"primary": [FREE]}},
        "models": {name: MODEL for name in (FREE, TIGHT, STORMY)},
        "auth": {
            "keys": [
                *({"name": name, "key": f"key-of-{name}"} for name in CALLERS),
                {"name": LIMITED, "key": f"key-of-{LIMITED}", "limits": {"concurrency": LIMITED_CALLS}},
                {"name": METERED, "key": f"key-of-{METERED}", "limits": {"rpm": RPM, "burst_s": BURST_S}},
            ]
        },
        "gateway": {"queue_timeout_s": QUEUE_S, "retry_ratio": RETRY_RATIO},
    }


MODEL: dict[str, Any] = {
    "family": "one",
    "tier": "standard",
    "reasoning": False,
    "structured": "schema",
    "context_tokens": 200_000,
    "output_tokens_max": 16_000,
    "input_usd_per_mtok": 1,
    "output_usd_per_mtok": 4,
}


@dataclass
class Cluster:
    """A running server with replicas, and the provider behind it."""

    server: Server
    provider: Simulator

    @property
    def url(self) -> str:
        """Where clients call."""
        return self.server.url

    def tell(self, **command: Any) -> dict[str, Any]:
        """Give ``gateway_cluster`` a command; return its answer."""
        stdin, stdout = self.server.process.stdin, self.server.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(command) + "\n")
        stdin.flush()
        line = ""
        while not line.startswith("{"):  # Ray prints now and then
            line = stdout.readline()
            assert line, "the server has ended"
        answer = dict(json.loads(line))
        assert "error" not in answer, answer
        return answer

    def replicas(self) -> list[psutil.Process]:
        """Return the processes of the replicas that there are."""
        found = []
        for process in self.server.descendants():
            # A process that ends while we look is gone.
            with contextlib.suppress(psutil.NoSuchProcess):
                if "ServeReplica" in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def greet_all(self) -> None:
        """Call until every replica has called the provider: the proxy may learn of one later than we see it."""
        port = urlsplit(self.provider.url).port

        def all_called() -> bool:
            post(self.url, body(FREE, "please greet"))
            return all(
                any(link.raddr and link.raddr.port == port for link in replica.net_connections())
                for replica in self.replicas()
            )

        until(all_called, within_s=60, what="a replica is sent nothing")

    def accounts(self) -> list[dict[str, Any]]:
        """Return the accounts' view as operators see it."""
        key = {"authorization": f"Bearer key-of-{CALLERS[0]}"}
        return list(httpx.get(f"{self.url}/v1/accounts", headers=key, timeout=30).json()["data"])

    def wait_for_arrivals(self, key: str, seconds: float) -> None:
        """Wait until the provider has seen requests of that key for so long, by its own clock."""

        def enough() -> bool:
            arrived = arrivals_s(rows_of(self.provider, key))
            return len(arrived) > 1 and arrived[-1] - arrived[0] > seconds

        until(enough, within_s=3 * seconds + 30, pause_s=1.0)

    def renew(self, *faults: dict[str, Any]) -> None:
        """Set the provider's counts to zero and its faults to these."""
        self.provider.control({"faults": list(faults)})
        httpx.post(f"{self.provider.url}/__reset", timeout=10).raise_for_status()


@contextlib.contextmanager
def running_cluster(
    serve_it: ServeIt, folder: Path, replicas: int, variables: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Cluster]:
    """Start a provider, and a server with so many replicas in front of it."""
    with running_provider(folder) as provider:
        command = ("tests.acceptance.gateway_cluster", "--replicas", str(replicas))
        server = serve_it(configuration(provider.url), command=command, variables=variables)
        yield Cluster(server=server, provider=provider)


def body(model: str, text: str, **more: Any) -> dict[str, Any]:
    """Return a chat request."""
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 200, **more}


def post(url: str, document: dict[str, Any], *, caller: str = CALLERS[0], timeout_s: float = 60.0) -> httpx.Response:
    """Ask once, on a connection of its own."""
    headers = {"authorization": f"Bearer key-of-{caller}"}
    return httpx.post(f"{url}/v1/chat/completions", json=document, headers=headers, timeout=timeout_s)


@dataclass
class Streamed:
    """What a client saw of one stream."""

    words: list[str] = field(default_factory=list)
    done: bool = False
    error: str = ""

    def read(self, url: str, text: str, *, words_max: int = 10_000) -> None:
        """Read a stream to its end, or leave after so many words."""
        headers = {"authorization": f"Bearer key-of-{CALLERS[0]}"}
        document = body(FREE, text, stream=True, max_tokens=2_000)
        try:
            with httpx.stream(
                "POST", f"{url}/v1/chat/completions", json=document, headers=headers, timeout=60
            ) as answer:
                for line in answer.iter_lines():
                    self._take(line)
                    if len(self.words) >= words_max:
                        return
        except httpx.HTTPError as error:
            self.error = repr(error)

    def _take(self, line: str) -> None:
        if line == "data: [DONE]":
            self.done = True
        elif line.startswith("data: "):
            document = json.loads(line.removeprefix("data: "))
            if "error" in document:
                self.error = str(document)
            elif document["choices"] and (word := document["choices"][0]["delta"].get("content")):
                self.words.append(word)


class Streams:
    """Streams of several seconds, each read by a thread of its own."""

    def __init__(self, url: str, count: int) -> None:
        self.read = [Streamed() for _ in range(count)]
        self._threads = [threading.Thread(target=stream.read, args=(url, "count slowly")) for stream in self.read]

    def begin(self) -> Streams:
        """Start all; return when each has said its first word."""
        for thread in self._threads:
            thread.start()
        until(lambda: all(stream.words or stream.error for stream in self.read), within_s=30)
        return self

    def end(self) -> None:
        """Wait for all."""
        for thread in self._threads:
            thread.join(90)

    def lost(self) -> list[str]:
        """Return what went wrong, a line per stream that is not whole."""
        whole = " ".join(f"word{number}" for number in range(LONG_WORDS))
        return [
            f"{stream.error or 'cut'} after {len(stream.words)} words"
            for stream in self.read
            if not stream.done or "".join(stream.words) != whole
        ]


class Hammer:
    """Callers that ask one model in closed loops, more than it can serve.

    A request that fails with its server is asked again, as clients do; the answers' statuses are counted.
    """

    def __init__(self, url: str, model: str, *, clients: int, callers: Sequence[str] = CALLERS) -> None:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.statuses: dict[int, int] = {}
        self.retry_after: list[str | None] = []
        """Of every 429."""
        self._threads = [
            threading.Thread(target=self._ask, args=(url, model, callers[number % len(callers)]), daemon=True)
            for number in range(clients)
        ]

    def __enter__(self) -> Hammer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self, url: str, model: str, caller: str) -> None:
        headers = {"authorization": f"Bearer key-of-{caller}"}
        document = body(model, "please greet", max_tokens=20)
        with httpx.Client(timeout=60, headers=headers) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post(f"{url}/v1/chat/completions", json=document)
                except httpx.TransportError:
                    self._count(0)
                    time.sleep(0.1)
                    continue
                self._count(answer.status_code, answer.headers.get("retry-after"))
                if answer.status_code != 200:
                    time.sleep(0.1)

    def _count(self, status: int, retry_after: str | None = None) -> None:
        with self._lock:
            self.statuses[status] = self.statuses.get(status, 0) + 1
            if status == 429:
                self.retry_after.append(retry_after)


def rows_of(provider: Simulator, key: str) -> list[dict[str, Any]]:
    """Return the provider's log of one key, by arrival."""
    rows = [row for row in provider.stats(log=True)["log"] if row["key"] == key]
    return sorted(rows, key=lambda row: int(row["at_ns"]))


def arrivals_s(rows: list[dict[str, Any]]) -> list[float]:
    """Return when these requests came, by the provider's clock."""
    return [row["at_ns"] / 1e9 for row in rows]


def assert_never_more(rows: list[dict[str, Any]]) -> None:
    """Recompute every interval between two requests against the limit that the provider was told to enforce."""
    arrivals = arrivals_s(rows)
    for index, first_s in enumerate(arrivals):
        for count, last_s in enumerate(arrivals[index:], start=1):
            most = math.ceil(RPM * (last_s - first_s + PROVIDER_BURST_S) / 60)
            assert count <= most, f"{count} requests in {last_s - first_s:.3f} s, at most {most} are allowed"


def used(rows: list[dict[str, Any]], *, since_s: float, seconds: float) -> float:
    """Return which share of the limit arrived in the ``seconds`` from ``since_s`` (of the provider's clock)."""
    arrived = sum(since_s <= at_s < since_s + seconds for at_s in arrivals_s(rows))
    return arrived / (RPM * seconds / 60)


def longest_gap_s(rows: list[dict[str, Any]]) -> float:
    """Return the longest time without a request."""
    arrivals = arrivals_s(rows)
    return max(later - sooner for sooner, later in itertools.pairwise(arrivals))


def until(holds: Callable[[], bool], *, within_s: float, what: str = "it never came", pause_s: float = 0.2) -> None:
    """Wait until ``holds``, looking now and then."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(pause_s)


def open_calls(stats: Mapping[str, Any]) -> int:
    """Return how many calls the provider has open, by its own count."""
    return int(stats["total"]["in_flight"])
