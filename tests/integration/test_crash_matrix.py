"""Killed at a named point and started again, a process has bought no more than it may and booked no less than it did.

All points alone and a sample of pairs; ``make crash-matrix`` plays all (docs/crash-matrix.md).
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import yaml

from tests.fakes.simulated import running_simulator
from tests.torture import crash_plan
from tests.torture.crash_matrix import CASES
from tests.torture.crash_play import Case, Stage, simulator_document
from tests.torture.crash_verdict import violations

SEED = 5
PAIRS = 1


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A provider, and a folder for the lives."""
    folder = tmp_path_factory.mktemp("crash")
    (folder / "provider.yaml").write_text(yaml.safe_dump(simulator_document()), encoding="utf-8")
    with running_simulator(folder / "provider.yaml") as simulator:
        yield Stage(simulator, folder)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_process_killed_at_any_point_buys_and_books_as_promised(stage: Stage, case: Case) -> None:
    """Every point is really reached and kills; bills and books agree with the promises of the endpoint's class."""
    drawn = random.Random(f"{SEED} {case.name}").sample(crash_plan.pairs(case.more_points), PAIRS)

    record = [stage.play(case, points) for points in [*crash_plan.singles(case.more_points), *drawn]]

    assert [what for each in record for what in violations(each)] == []
    assert [each.deaths for each in record if len(each.points) == 1] == crash_plan.singles(case.more_points)
