"""The benchmarks run, and what they promise of the pool holds at any speed of the machine."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import orjson
import pytest

from benchmarks import pool
from benchmarks.report import RESULTS
from benchmarks.stage import ROOT

pytestmark = pytest.mark.ray


async def test_pool_is_played_without_refusals_and_not_below_its_bound(ray_cluster: None) -> None:
    """200 subtasks over 8 unequal accounts: the simulator refuses none, and no schedule beats the bound."""
    found = await pool.measure(pool.Size(scale=pool.SCALE_SHORT))

    assert found.errors == ()
    assert found.answered == pool.TASKS
    assert found.rejected == 0
    assert sum(found.by_account.values()) == pool.TASKS
    assert found.ratio >= 1
    assert found.makespan_s >= found.provider_bound.seconds > 0


def play(name: str, *arguments: str, case: str = "") -> dict[str, Any]:
    """Run a benchmark in its short form, in a process and a cluster of its own; return what its ``case`` found."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--short", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
    found: dict[str, Any] = orjson.loads((RESULTS / f"{name}{case}-short.json").read_bytes())
    return found


@pytest.mark.timeout(420)
@pytest.mark.parametrize("lengths", ["known", "unknown"])
def test_gateway_uses_a_pool_at_ten_times_its_limits_without_a_refusal(lengths: str) -> None:
    """1 500 requests at once over 8 unequal keys: the provider refuses none for its limits, and nothing fails."""
    found = play("gateway_pool") if lengths == "known" else play("gateway_pool", "--unknown", case="-unknown")

    assert found["answered"] == 1_500
    assert found["refused_429"] == 0
    assert float(str(found["provider_ratio"])) >= 1


@pytest.mark.timeout(420)
def test_gateway_answers_every_request_of_the_cost_benchmark() -> None:
    """What is measured must be whole: no request fails, streamed or not; cost is told, not judged, on any machine."""
    found = play("gateway", "--only", "direct", "tutti")

    parts = found["targets"]["tutti"]["parts"]
    assert parts["32"]["answered"] > 0
    assert sum(part["failed"] for part in parts.values()) == 0
    assert parts["spread"]["chunks"] > 0


@pytest.mark.timeout(420)
def test_replica_does_not_grow_with_the_requests_it_has_served() -> None:
    """10 000 requests catch what is kept of each; the benchmark's own exit says whether a process grew."""
    found = play("gateway_memory")

    assert (found["requests"], found["failed"]) == (10_000, 0)
    assert set(found["private_slope_mib_per_100000"]) == {"ServeReplica", "AccountActor"}


@pytest.mark.timeout(420)
def test_every_run_goes_on_after_a_kill_of_the_coordinator_and_of_the_store() -> None:
    """10 runs of 10 tasks survive both with all tasks done; only what was under way at the first is bought again."""
    found = play("runs_survive", "--only", "Coordinator", "Store")

    cases = found["cases"]
    assert {name: case["completed"] for name, case in cases.items()} == {"coordinator killed": 10, "store killed": 10}
    for case in cases.values():
        assert case["books_below"] == 0
        assert case["killed"]["all_s"] >= case["killed"]["first_s"] > 0
    assert cases["store killed"]["billed_twice"] == 0
    assert cases["coordinator killed"]["billed_twice"] <= cases["coordinator killed"]["killed"]["open_calls"]
