"""Every fault of a provider, by real calls: what the client gets, what is bought, what becomes of the account.

The cells run against one real server; what they show must be what ``recorded/fault_matrix.json`` says, from which
``docs/fault-matrix.md`` is generated. Counts and bills are the simulator's.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
import yaml

from app.simulator.config import FaultKind
from tests.acceptance.conftest import ServeIt, Server
from tests.fakes import fault_cells
from tests.fakes.fault_cells import CELLS, FAULTS, FINE, OUTPUT_TOKENS, PROMPT, WHOLE, Cell
from tests.fakes.simulated import Simulator, running_simulator

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
RECORD = Path(__file__).parent / "recorded" / "fault_matrix.json"
AT_ONCE = 8
SEVERITY = ("healthy", "half_open", "cooling_minute", "cooling_day", "dead")
LOOK_EVERY_S = 0.1
SETTLED_WITHIN_S = 30.0


@dataclass
class Looker:
    """Looks at the accounts all the time and keeps the worst that it saw of each."""

    url: str
    worst: dict[str, str] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with httpx.Client(timeout=30, headers={"authorization": f"Bearer {CELLS[0].key}"}) as client:
            while not self.stopped.wait(LOOK_EVERY_S):
                answer = client.get(f"{self.url}/v1/accounts")
                for row in answer.json()["data"] if answer.status_code == 200 else ():
                    name = row["account"]
                    self.rows[name] = row
                    self.worst[name] = max(self.worst.get(name, "healthy"), row["state"], key=SEVERITY.index)


@dataclass
class Ran:
    """All cells, and the state of everything afterwards."""

    seen: dict[str, dict[str, Any]]
    """By cell: what the record says."""
    counted: dict[str, tuple[int, int]]
    """By account: tokens in and out, as Tutti counted them."""
    billed: dict[str, tuple[int, int]]
    """By account: as the provider billed them."""
    served: dict[str, str]
    """By cell: the account that gave a whole answer."""
    in_flight: dict[str, int]
    open_upstream: int
    refused: list[str]
    """Cells whose client cannot call any more: its reservation stayed."""


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """The simulator with every fault."""
    path = tmp_path_factory.mktemp("provider") / "faults.yaml"
    path.write_text(yaml.safe_dump(fault_cells.simulator_file()), encoding="utf-8")
    with running_simulator(path) as running:
        yield running


@pytest.fixture(scope="module")
def ran(serve_it: ServeIt, provider: Simulator) -> Ran:
    """Run every cell once."""
    server = serve_it(fault_cells.configuration(provider.url))
    looker = Looker(server.url)
    looking = threading.Thread(target=looker.run, daemon=True)
    looking.start()
    try:
        text = ask(server, CELLS[0], FINE).text
        with ThreadPoolExecutor(AT_ONCE) as pool:
            given = dict(
                zip((cell.name for cell in CELLS), pool.map(lambda cell: ask(server, cell), CELLS), strict=True)
            )
        with ThreadPoolExecutor(AT_ONCE) as pool:
            free = pool.map(lambda cell: may_call(server, cell), CELLS)
            refused = [cell.name for cell, is_free in zip(CELLS, free, strict=True) if not is_free]
            failing = set(itertools.chain.from_iterable(pool.map(lambda cell: in_trouble(server, cell), CELLS)))
        until_s = time.monotonic() + SETTLED_WITHIN_S
        while time.monotonic() < until_s and (
            provider.stats()["total"]["in_flight"] or any(row["in_flight"] for row in looker.rows.values())
        ):
            time.sleep(0.2)
    finally:
        looker.stopped.set()
        looking.join(30)
    for name in failing:
        # A pause of a second may pass between two looks; that there was trouble is remembered for longer.
        looker.worst[name] = max(looker.worst[name], "cooling_minute", key=SEVERITY.index)
    return judged(provider, looker, given, text, refused)


@dataclass
class Given:
    """What a client got."""

    status: int
    text: str = ""
    error: str = ""
    late: bool = False
    """The error came after the status."""
    ended: bool = False
    retry_after: bool = False
    account: str = ""


def ask(server: Server, cell: Cell, model: str | None = None) -> Given:
    """Make the cell's call, as a client that does not ask for usage."""
    body = {"model": model or cell.model, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 100}
    headers = {"authorization": f"Bearer {cell.key}", "x-tutti-timeout": "25"}
    url = f"{server.url}/v1/chat/completions"
    answer = httpx.post(url, json={**body, "stream": cell.mode != WHOLE}, headers=headers, timeout=60)
    given = Given(status=answer.status_code, retry_after="retry-after" in answer.headers)
    given.account = answer.headers.get("x-tutti-account", "")
    if answer.status_code != 200:
        given.error = answer.json()["error"]["type"]
    elif cell.mode == WHOLE:
        given.text, given.ended = answer.json()["choices"][0]["message"]["content"] or "", True
    else:
        read(answer.text, given)
    return given


def read(events: str, given: Given) -> None:
    """Read a stream of chunks."""
    for line in events.splitlines():
        if line == "data: [DONE]":
            given.ended = True
        elif line.startswith("data: "):
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                given.error, given.late = event["error"]["type"], True
            else:
                given.text += "".join(choice["delta"].get("content") or "" for choice in event["choices"])


def may_call(server: Server, cell: Cell) -> bool:
    """Tell whether the cell's client, whose key takes one call at a time, is free again."""
    body = {"model": FINE, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 1}
    until_s = time.monotonic() + SETTLED_WITHIN_S
    while time.monotonic() < until_s:
        headers = {"authorization": f"Bearer {cell.key}"}
        if httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=60).status_code == 200:
            return True
        time.sleep(0.2)
    return False


def in_trouble(server: Server, cell: Cell) -> list[str]:
    """Return the cell's accounts that have failed in a way that pauses them."""
    body = {"model": cell.model, "messages": [{"role": "user", "content": PROMPT}]}
    headers = {"authorization": f"Bearer {cell.key}"}
    answer = httpx.post(f"{server.url}/v1/route/explain", json=body, headers=headers, timeout=60)
    rows = [row for candidate in answer.json()["candidates"] for row in candidate["accounts"]]
    return [row["account"] for row in rows if row.get("error_rate")]


def judged(provider: Simulator, looker: Looker, given: dict[str, Given], text: str, refused: list[str]) -> Ran:
    """Put together what was seen."""
    stats = provider.stats(log=True)
    billed = {
        name.removeprefix("sk-"): (counts["billed_input_tokens"], counts["billed_output_tokens"])
        for name, counts in stats["keys"].items()
    }
    asked = [row["key"].removeprefix("sk-") for row in sorted(stats["log"], key=lambda row: row["at_ns"])]
    seen, served = {}, {}
    for cell in CELLS:
        tried = [name for name in asked if name in cell.accounts]
        got = given[cell.name]
        bought = [billed.get(name, (0, 0)) for name in cell.accounts]
        seen[cell.name] = {
            "client": told(got, text, elsewhere=got.account not in ("", tried[0])),
            "attempts": len(tried),
            "billed": f"{sum(tokens for tokens, _ in bought)} + {sum(tokens for _, tokens in bought)}",
            "account": looker.worst[tried[0]],
        }
        if got.ended and not got.error:
            served[cell.name] = got.account
    return Ran(
        seen=seen,
        counted={name: (row["input_tokens"], row["output_tokens"]) for name, row in looker.rows.items()},
        billed=billed,
        served=served,
        in_flight={name: row["in_flight"] for name, row in looker.rows.items() if row["in_flight"]},
        open_upstream=stats["total"]["in_flight"],
        refused=refused,
    )


def told(got: Given, text: str, *, elsewhere: bool) -> str:
    """Return in words what a client got."""
    if got.status != 200:
        return f"{got.status} `{got.error}`" + (", `retry-after`" if got.retry_after else "")
    if got.text == text:
        what = "the answer, from the other account" if elsewhere else "the answer"
    elif not got.text:
        what = "nothing"
    else:
        what = "part of the answer" if text.startswith(got.text) else "another text"
    return f"{what}, then error event `{got.error}`" if got.error else what + ("" if got.ended else ", without an end")


def test_faults_are_answered_billed_and_remembered_as_recorded(ran: Ran, tmp_path: Path) -> None:
    """The page in docs/ is what a real run shows."""
    recorded = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    shown = tmp_path / RECORD.name
    shown.write_text(json.dumps(ran.seen, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    different = {name: (recorded.get(name), now) for name, now in ran.seen.items() if recorded.get(name) != now}

    assert not different, f"if this is meant: cp {shown} {RECORD}; make docs"
    assert set(recorded) == set(ran.seen)


def test_every_fault_of_the_simulator_has_its_row() -> None:
    """A new way to fail is shown as well."""
    assert {fault.kind for fault in FAULTS if fault.kind} == set(get_args(FaultKind))


def test_faults_leave_no_reservation(ran: Ran) -> None:
    """Neither at an account, nor of the caller, nor an open connection at the provider."""
    assert (ran.in_flight, ran.refused, ran.open_upstream) == ({}, [], 0)


def test_usage_of_answers_is_counted_as_it_is_billed(ran: Ran) -> None:
    """To the token, though no client asked for usage; also where the provider says it twice."""
    wrong = {
        name: (ran.counted[account], ran.billed[account])
        for name, account in ran.served.items()
        if ran.counted[account] != ran.billed[account]
    }

    assert len(ran.served) > len(CELLS) / 3
    assert wrong == {}


def test_nothing_is_billed_twice_to_a_client_that_got_its_answer(ran: Ran) -> None:
    """At most what the failed try had cost before it failed; never a third try."""
    tries = Counter(seen["attempts"] for seen in ran.seen.values())
    dear = [name for name, seen in ran.seen.items() if int(seen["billed"].split("+")[1]) > 2 * OUTPUT_TOKENS + 20]

    assert set(tries) <= {1, 2}
    assert dear == []
