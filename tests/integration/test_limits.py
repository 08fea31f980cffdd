"""No account exceeds its limits at any concurrency or across deaths; every count is the simulator's, never ours."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from actors.desk_handle import DeskHandle
from app.domain.hosting import host_name
from app.domain.run import RunRequest
from tests.fakes import pool, scripted
from tests.fakes.simulated import Simulator
from tests.integration.conftest import OpenDesk, Simulate, ended, until

pytestmark = pytest.mark.ray
BURST_S = 3.0
PROVIDER_BURST_S = 4.0
"""What the simulated provider allows beyond ours: one second of requests that overtake each other on their way."""
RUNS = 3
NOTES = 24
LIMITS: dict[str, dict[str, Any]] = {
    "alpha": {"rpm": 150, "concurrency": 2},
    "beta": {"tpm": 60_000},
    "epsilon": {"rpm": 8, "window": "sliding"},
    "zeta": {"rpd": 5, "rpm": 120},
    "team": {"rpm": 200, "concurrency": 6},
}
"""By account or quota group."""
OWNER = {"sk-gamma": "team", "sk-delta": "team"}


@pytest.fixture
def crowd(simulate: Simulate) -> Simulator:
    """A provider that enforces the limits, and works for half a second on each task."""
    shared = {"group": "team", "limits": enforced("team")}
    keys: list[dict[str, Any]] = [
        *({"key": f"sk-{name}", "limits": enforced(name)} for name in LIMITS if name != "team"),
        {"key": "sk-gamma", **shared},
        {"key": "sk-delta", "group": "team"},
        {"key": "sk-chief"},
    ]
    plan = {
        **scripted.plan_of(scripted.OTHER),
        "tasks": [
            scripted.task_of(scripted.Step(id=f"t{number}", title=f"Note {number}", instruction=text, result=""))
            for number in range(1, NOTES + 1)
            if (text := f"Write the note of room {number}.")
        ],
    }
    answer = "All is well: " + "".join(f"[t{number}]" for number in range(1, NOTES + 1))
    rules = [
        *scripted.planner_rules(scripted.OTHER, plan),
        {
            "match": {"regex": r"\AROLE: (?:worker|redo) v1.*\nTASK: Note (?P<room>\d+)\n"},
            "text": "Room {room} is fine today.",
            "latency": {"kind": "uniform", "min_s": 0.2, "max_s": 0.8},
        },
        {"match": {"regex": r"\AROLE: merger v1"}, "json": scripted.merged(answer)},
    ]
    return simulate({**pool.FAST, "keys": keys, "replies": scripted.replies(*rules)})


def enforced(name: str) -> dict[str, Any]:
    """Return the limits of an account as the provider enforces them."""
    return {**LIMITS[name], "burst_s": PROVIDER_BURST_S}


def configuration(url: str) -> dict[str, Any]:
    """Return the pool with our own, configured limits."""
    own = [
        pool.account(url, name, "hand", limits={**LIMITS[name], "burst_s": BURST_S})
        for name in LIMITS
        if name != "team"
    ]
    team = [pool.account(url, name, "hand", limits={}, quota_group="team") for name in ("gamma", "delta")]
    chief = pool.account(url, "chief", "chief", "critic", limits={"concurrency": 64})
    groups = {"team": {**LIMITS["team"], "burst_s": BURST_S}}
    return pool.orchestra(
        *own, *team, chief, quota_groups=groups, coordinator={"clarify_model": "critic", "transcribe_model": "critic"}
    )


async def conducted(desk: DeskHandle) -> list[dict[str, Any]]:
    """Conduct three requests at once: 72 tasks want to be worked on at the same moment."""
    records = [await desk.start(RunRequest(text=f"Look into hall {number} and the rooms.")) for number in range(RUNS)]
    return await asyncio.gather(*(ended(desk, record.run_id, within_s=120) for record in records))


async def test_pool_of_unequal_limits_is_used_and_never_exceeded(open_desk: OpenDesk, crowd: Simulator) -> None:
    """72 calls at once over six accounts and a shared quota: no 429, no window too full, everybody at work."""
    async with open_desk(configuration(crowd.url)) as desk:
        documents = await conducted(desk)
    stats = crowd.stats(log=True)

    assert {document["status"] for document in documents} == {"completed"}
    assert stats["total"]["rejected"] == {}
    assert crowd.asked("worker") == RUNS * NOTES
    assert {OWNER.get(row["key"], row["key"].removeprefix("sk-")) for row in worked(stats["log"])} == set(LIMITS)
    assert_within_limits(stats["log"])
    for document in documents:
        assert 0 < document["schedule"]["lower_bound_s"] <= document["schedule"]["makespan_s"]


async def test_limits_hold_when_their_owner_is_killed(open_desk: OpenDesk, crowd: Simulator) -> None:
    """An account actor that dies mid-run costs its calls, not the run: its limiter starts empty, not full."""
    async with open_desk(configuration(crowd.url)) as desk:
        namespace: str = desk.namespace  # type: ignore[attr-defined]
        running = asyncio.create_task(conducted(desk))
        await until(lambda: crowd.asked("worker") > 20, within_s=60)
        ray.kill(ray.get_actor(host_name("group:team"), namespace), no_restart=False)
        before = len(crowd.stats(log=True)["log"])
        documents = await running
    stats = crowd.stats(log=True)

    assert {document["status"] for document in documents} == {"completed"}
    assert stats["total"]["rejected"] == {}
    assert_within_limits(stats["log"])
    later = {row["key"] for row in worked(stats["log"][before:])}
    assert later & {"sk-gamma", "sk-delta"}, "the account came back"


def assert_within_limits(log: list[dict[str, Any]]) -> None:
    """Recompute every interval of the provider's log against the limits that it was told to enforce."""
    for name, limits in LIMITS.items():
        rows = sorted((row for row in log if OWNER.get(row["key"], row["key"]) in (name, f"sk-{name}")), key=arrival)
        for first, last, requests, tokens in intervals(rows):
            seconds = (last["at_ns"] - first["at_ns"]) / 1e9
            if "rpm" in limits:
                sliding = limits.get("window") == "sliding"
                most = limits["rpm"] if sliding else math.ceil(limits["rpm"] * (seconds + PROVIDER_BURST_S) / 60)
                assert requests <= most or (sliding and seconds >= 60), (name, seconds, requests)
            if "tpm" in limits:
                assert tokens <= limits["tpm"] * (seconds + PROVIDER_BURST_S) / 60 + last["demand_tokens"]
        if "concurrency" in limits:
            assert most_at_once(rows) <= limits["concurrency"]
        assert len(rows) <= limits.get("rpd", len(rows))


def arrival(row: dict[str, Any]) -> int:
    """Return when the request came."""
    return int(row["at_ns"])


def intervals(rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any], int, int]]:
    """Yield every interval between two requests, with its requests and tokens, both ends included."""
    for index, first in enumerate(rows):
        tokens = 0
        for count, last in enumerate(rows[index:], start=1):
            tokens += last["demand_tokens"]
            yield first, last, count, tokens


def most_at_once(rows: list[dict[str, Any]]) -> int:
    """Return the largest number of these requests that were in progress together."""
    return max((sum(row["at_ns"] <= at["at_ns"] < row["end_ns"] for row in rows) for at in rows), default=0)


def worked(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the requests that were work on a task."""
    return [row for row in log if "ROLE: worker v1" in row["text"]]
