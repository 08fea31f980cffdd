"""On a real Ray cluster, a process killed at a named point buys and books as promised, and what died comes back.

A sample, one of each kind of process; ``make crash-ray`` plays every point (docs/crash-matrix-ray.md).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.crash_ray import play_all, sampled

SEED = 2
COUNT = 3


@pytest.mark.timeout(600)
def test_processes_killed_under_ray_buy_and_book_as_promised(tmp_path: Path) -> None:
    """Each is really killed where it was to be; answer, bills and books agree with the promises of the endpoint."""
    record = list(play_all(sampled(COUNT, SEED), tmp_path))

    assert [what for outcome in record for what in outcome.violations()] == []
    assert {outcome.single.victim for outcome in record} == {"replica", "coordinator", "account"}
    assert all(outcome.died for outcome in record)
