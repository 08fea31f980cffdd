"""A minute of the soak that `make torture` plays for longer: clients of every kind, faults, one replica killed."""

from __future__ import annotations

import asyncio

import pytest

from tests.torture import soak
from tests.torture.report import lines
from tests.torture.setting import Setting, said
from tests.torture.verdict import judge

SHORT = Setting(seconds=40.0, seed=2, kills=1)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_short_soak_leaks_nothing_exceeds_nothing_and_fails_only_where_it_was_made_to() -> None:
    """Every rule of ``tests.torture.verdict`` is kept; what was played is printed, so that it can be played again."""
    assert [each.victim for each in SHORT.planned()] == ["replica"]

    evidence = asyncio.run(soak.play(SHORT, print))
    checks = judge(evidence)
    print("\n".join((*said(SHORT), *lines(evidence, checks))))

    assert [check.what for check in checks if not check.kept] == []
