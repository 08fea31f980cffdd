"""The books of a running server: what clients bought is there to the token, live, stored and on the command line."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.storage.place import FILE_NAME
from tests.acceptance.conftest import ServeIt, Server
from tests.fakes import gateway_pool
from tests.fakes.gateway_pool import EMBEDDER, MODELS, PAIRS, SHARED
from tests.fakes.simulated import Simulator

pytestmark = [pytest.mark.ray, pytest.mark.timeout(200)]
HTTP = httpx.Client(timeout=30)
GREET = [{"role": "user", "content": "please greet"}]
SHOP, POOR, KEEPER = "key-of-the-shop", "key-of-the-poor", "key-of-the-keeper"
FRESH, EARLY, LATE = "key-never-used", "key-used-in-time", "key-used-too-late"
POOR_USD = Decimal("0.0008")
NANO_PER_USD = 10**9
TWICE = PAIRS["http_500"]
"""Served by two accounts of its own."""
BOOKED_WITHIN_S = 20.0
DISK_MB = 64
SLOW_S = 3
"""Long enough to fill the disk meanwhile."""


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """The simulator behind the server."""
    with gateway_pool.running_pool(tmp_path_factory.mktemp("provider")) as running:
        yield running


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    """A small file system for the server's data; None where there is no right to mount one."""
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tutti-test", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    yield folder if mounted else None
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def server(disk: Path | None, serve_it: ServeIt, provider: Simulator) -> Server:
    """One server for all tests of the module; each of them has accounts of its own."""
    configuration = gateway_pool.configuration(provider.url)
    if disk is not None:
        configuration["data_dir"] = str(disk / "data")
    served = {*MODELS.values(), EMBEDDER, SHARED, TWICE}
    configuration["accounts"] = [one for one in configuration["accounts"] if served.issuperset(one["models"])]
    configuration["auth"] = {
        "keys": [
            {"name": "shop", "key": SHOP, "team": "sales"},
            {"name": "poor", "key": POOR, "team": "sales"},
            {"name": "fresh", "key": FRESH},
            {"name": "early", "key": EARLY},
            {"name": "late", "key": LATE},
            {"name": "keeper", "key": KEEPER, "admin": True},
        ]
    }
    configuration["budgets"] = [
        {"for": "key:poor", "window": "month", "usd": str(POOR_USD)},
        {"for": "team:sales", "window": "day", "usd": 100, "tokens": 10_000_000},
    ]
    configuration["gateway"] = {"retry_ratio": 1.0, "cache": {"enabled": True}}
    return serve_it(configuration)


@pytest.fixture
def url(server: Server, provider: Simulator) -> str:
    """The server's address, with a provider that has no faults and counts from zero."""
    gateway_pool.renew(provider)
    return server.url


def ask(url: str, path: str, key: str = SHOP, **body: Any) -> httpx.Response:
    """Post JSON for a user; nothing out of the cache."""
    headers = {"authorization": f"Bearer {key}", "x-tutti-user": "ann", "cache-control": "no-store"}
    return HTTP.post(f"{url}{path}", json=body, headers=headers)


def told(url: str, path: str, secret: str = KEEPER, **params: Any) -> dict[str, Any]:
    """Return what a route of the books answers."""
    answer = HTTP.get(f"{url}/api/v1/{path}", params=params, headers={"authorization": f"Bearer {secret}"})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def until_booked(url: str, calls: int, **params: Any) -> dict[str, Any]:
    """Return the sums once they hold so many calls."""
    until_s = time.monotonic() + BOOKED_WITHIN_S
    while (document := told(url, "usage/stats", **params))["total"]["calls"] < calls:
        assert time.monotonic() < until_s, document["total"]
        time.sleep(0.2)
    return document


def nano(usd: str | None) -> int:
    """Return an amount that must be known, in nano-dollars."""
    assert usd is not None
    return int(Decimal(usd) * NANO_PER_USD)


def billed_nano(billed: dict[str, int], *, vectors: int = 0) -> int:
    """Return what the provider's own counts cost: 1 and 4 USD a million tokens, 0.02 for tokens of embeddings."""
    spoken = (billed["billed_input_tokens"] - vectors) * 1_000 + billed["billed_output_tokens"] * 4_000
    return spoken + vectors * 20


class Watcher:
    """Reads entries as they are booked, until there are so many."""

    def __init__(self, url: str, entries: int) -> None:
        self.seen: list[dict[str, Any]] = []
        self._entries = entries
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(f"{url}/api/v1/usage/live",), daemon=True)
        self._thread.start()
        assert self._ready.wait(BOOKED_WITHIN_S), "the stream did not begin"

    def _read(self, address: str) -> None:
        event = ""
        with HTTP.stream("GET", address, headers={"authorization": f"Bearer {KEEPER}"}) as answer:
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    event = line.removeprefix("event: ")
                    if event == "ready":
                        self._ready.set()
                elif line.startswith("data: ") and event == "usage":
                    self.seen.append(json.loads(line.removeprefix("data: ")))
                if len(self.seen) >= self._entries:
                    return

    def all(self) -> list[dict[str, Any]]:
        """Return the entries, once they are there."""
        self._thread.join(BOOKED_WITHIN_S)
        assert len(self.seen) == self._entries, self.seen
        return self.seen


def today() -> str:
    """Return the day in UTC; just before its end, wait for the next."""
    left_s = 86_400 - time.time() % 86_400
    time.sleep(left_s + 1 if left_s < 90 else 0)
    return datetime.now(UTC).date().isoformat()


def test_what_was_bought_is_in_the_books_to_the_token_wherever_one_looks(
    url: str, server: Server, provider: Simulator
) -> None:
    """Three providers, whole and streamed, and vectors: live, sums, CSV, the command line and an export agree."""
    day, calls = today(), 2 * len(MODELS) + 1
    live = Watcher(url, calls)
    for model in MODELS.values():
        for stream in (False, True):
            assert ask(url, "/v1/chat/completions", model=model, messages=GREET, stream=stream).status_code == 200
    vectors = ask(url, "/v1/embeddings", model=EMBEDDER, input="please greet").json()["usage"]["prompt_tokens"]
    models = [*MODELS.values(), EMBEDDER]
    document = until_booked(url, calls, team="sales", key="shop", model=models, group_by="account")
    bills = provider.stats()
    total, entries = document["total"], live.all()

    tokens = bills["total"]["billed_input_tokens"], bills["total"]["billed_output_tokens"]
    assert (total["calls"], total["unpriced"]) == (calls, 0)
    assert (total["input_tokens"], total["output_tokens"]) == tokens
    assert nano(total["cost_usd"]) == billed_nano(bills["total"], vectors=vectors)
    for row in document["data"]:
        of_key = bills["keys"][f"sk-{row['group']['account']}"]
        counted = of_key["billed_input_tokens"], of_key["billed_output_tokens"]
        assert (row["input_tokens"], row["output_tokens"]) == counted
    assert sum(nano(entry["cost_usd"]) for entry in entries) == nano(total["cost_usd"])
    assert {(entry["user"], entry["team"], entry["ending"], entry["usage_source"]) for entry in entries} == {
        ("ann", "sales", "answered", "provider")
    }
    assert all(entry["price_id"] for entry in entries)

    printed = server.tutti("usage", "--by", "account", "--where", "key=shop", "--json")
    assert json.loads(printed.stdout)["total"]["cost_usd"] == total["cost_usd"], printed.stderr
    assert server.tutti("books", "verify").returncode == 0
    export = server.home / "export.csv"
    of_gemini = bills["keys"]["sk-g"]
    figures = of_gemini["billed_input_tokens"], of_gemini["billed_output_tokens"]
    amount = Decimal(billed_nano(of_gemini)) / NANO_PER_USD
    for more, status in ((0, 0), (1, 1)):
        line = f"{day},{MODELS['gemini']},{figures[0] + more},{figures[1]},{amount}\n"
        export.write_text(f"date,model,input_tokens,output_tokens,cost\n{line}")
        compared = server.tutti("books", "reconcile", str(export), "--account", "g", "--tolerance", "0")
        assert compared.returncode == status, compared.stdout + compared.stderr


def test_a_budget_is_used_to_its_end_and_not_beyond(url: str, server: Server, provider: Simulator) -> None:
    """What does not fit is refused in OpenAI's words, before it is bought; the key sees how its budget stands."""
    body = {"model": SHARED, "messages": GREET, "max_tokens": 15}
    answered = 0
    refused: list[int] = []
    # What calls held and did not need is given back within a second: until then the books have no room for another.
    while len(refused) < 2 or refused[-2] < answered:
        answer = ask(url, "/v1/chat/completions", POOR, **body)
        if answer.status_code == 200:
            answered += 1
            continue
        assert (answer.status_code, answer.json()["error"]["type"]) == (429, "insufficient_quota")
        assert answer.headers["x-should-retry"] == "false"
        assert "key 'poor'" in answer.json()["error"]["message"]
        refused.append(answered)
        time.sleep(1.5)
    bought = until_booked(url, answered, key="poor")["total"]
    bills = provider.stats()["total"]
    own = {(one["kind"], one["name"]): one for one in told(url, "budgets", POOR)["data"]}
    printed = json.loads(server.tutti("budgets", "--json").stdout)["data"]

    assert bills["requests"] == answered > 5
    assert nano(bought["cost_usd"]) == billed_nano(bills)
    # A further call might fit by what it costs, but not by what it may cost.
    assert POOR_USD * NANO_PER_USD * Decimal("0.8") < nano(bought["cost_usd"]) <= POOR_USD * NANO_PER_USD
    assert set(own) == {("key", "poor")}
    assert {(one["kind"], one["name"], one["unit"]) for one in printed} >= {
        ("key", "poor", "usd"),
        ("team", "sales", "usd"),
        ("team", "sales", "tokens"),
    }


def test_every_attempt_has_its_entry(url: str, provider: Simulator) -> None:
    """One that failed and was billed, the one that answered instead, and an answer from the cache that cost nothing."""
    fault = {"match": {"model": TWICE}, "first": 1, "kind": "bill_then_500"}
    gateway_pool.renew(provider, fault)
    body = {"model": TWICE, "messages": GREET, "max_tokens": 40}
    kept = {"authorization": f"Bearer {SHOP}"}
    first = HTTP.post(f"{url}/v1/chat/completions", json=body, headers=kept)
    again = HTTP.post(f"{url}/v1/chat/completions", json=body, headers=kept)
    document = until_booked(url, 3, model=TWICE, group_by="ending")
    rows = {row["group"]["ending"]: row for row in document["data"]}
    bills = provider.stats()["total"]

    assert (first.status_code, again.status_code, again.headers.get("x-tutti-cache")) == (200, 200, "hit")
    assert {"answered", "cache_hit"} < set(rows)
    assert {row["calls"] for row in rows.values()} == {1}
    assert len(rows) == 3
    assert (rows["cache_hit"]["cost_usd"], rows["cache_hit"]["input_tokens"]) == ("0", 0)
    assert nano(rows["cache_hit"]["savings_usd"]) == nano(rows["answered"]["cost_usd"])
    assert bills["billed_requests"] == 2
    assert nano(document["total"]["cost_usd"]) >= billed_nano(bills)


def test_nothing_is_bought_while_the_books_cannot_be_written(url: str, server: Server, provider: Simulator) -> None:
    """Another program locks the database: a clear refusal before anything is paid for, and no restart afterwards."""
    body = {"model": SHARED, "messages": GREET, "max_tokens": 15}
    with closing(sqlite3.connect(server.data_dir / FILE_NAME, timeout=30, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        refused = ask(url, "/v1/chat/completions", FRESH, **body)
        bought = provider.stats()["total"]["requests"]
        other.execute("ROLLBACK")
    until_s = time.monotonic() + BOOKED_WITHIN_S
    while (answer := ask(url, "/v1/chat/completions", FRESH, **body)).status_code != 200:
        assert time.monotonic() < until_s, answer.text

    assert (refused.status_code, bought) == (503, 0), refused.text
    assert "another program keeps it locked" in refused.json()["error"]["message"]
    assert server.tutti("books", "verify").returncode == 0


def test_nothing_is_bought_while_the_disk_is_full(
    url: str, server: Server, provider: Simulator, disk: Path | None
) -> None:
    """ENOSPC: calls and runs are refused, with the remedy, until there is room; what was under way is booked then."""
    if disk is None:
        pytest.skip("no right to mount a small file system")
    gateway_pool.renew(provider, {"match": {"model": TWICE}, "kind": "slow_first", "seconds": SLOW_S})
    with ThreadPoolExecutor(4) as clients:
        under_way = clients.submit(ask_for_little, url, EARLY, TWICE)
        until(lambda: provider.stats()["total"]["in_flight"] == 1)
        fill(disk / "ballast", server.data_dir / FILE_NAME)
        asked = [clients.submit(ask_for_little, url, LATE, SHARED) for _ in range(2)]
        run = begin_a_run(url)
        calls = [one.result() for one in asked]
        begun_before = under_way.result()
    sent = provider.stats()["total"]["requests"]
    (disk / "ballast").unlink()
    until(lambda: ask_for_little(url, LATE, SHARED).status_code == 200)
    accepted = begin_a_run(url)
    until(lambda: is_resting(url, accepted.json()["run_id"]))
    bills = provider.stats()["total"]
    bought = until_booked(url, bills["requests"], key=["early", "late"])["total"]

    assert [one.status_code for one in (*calls, run, begun_before, accepted)] == [503, 503, 503, 200, 202]
    for one in (*calls, run):
        assert "its disk is full" in one.text
        assert "free space there; Tutti goes on by itself then" in one.text
    assert sent == 1
    assert bills["requests"] == bought["calls"] > 2
    assert nano(bought["cost_usd"]) == billed_nano(bills)
    assert server.tutti("books", "verify").returncode == 0


def ask_for_little(url: str, key: str, model: str) -> httpx.Response:
    """Call a model; of a key that was not used before, no hold covers the call ahead."""
    return ask(url, "/v1/chat/completions", key, model=model, messages=GREET, max_tokens=15)


def begin_a_run(url: str) -> httpx.Response:
    """Ask for a run."""
    return ask(url, "/v1/projects", LATE, request_text="Describe tea.")


def is_resting(url: str, run_id: str) -> bool:
    """Tell whether that run has ended or asks for something."""
    answer = HTTP.get(f"{url}/v1/projects/{run_id}", headers={"authorization": f"Bearer {LATE}"})
    return answer.json()["document"] is not None


def until(holds: Callable[[], bool]) -> None:
    """Wait until ``holds``."""
    until_s = time.monotonic() + BOOKED_WITHIN_S
    while not holds():
        assert time.monotonic() < until_s, "it never came"
        time.sleep(0.1)


def fill(ballast: Path, journal: Path) -> None:
    """Take all room there is left, also that inside the journal's log."""
    with closing(sqlite3.connect(journal, timeout=30)) as other:
        assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(descriptor, bytes(4096))
    os.close(descriptor)
