"""The benchmarks run, and what they promise of the pool holds at any speed of the machine."""

from __future__ import annotations

import pytest

from benchmarks import pool

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
