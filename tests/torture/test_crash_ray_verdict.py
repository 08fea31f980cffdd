"""The rules by which deaths under Ray are judged notice what they are for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from app.domain.crash_points import CrashPoint
from tests.torture.crash_play import Bills, Figures
from tests.torture.crash_ray import Outcome, Single, page, rows, sampled, singles
from tests.torture.crash_ray_stage import KEYS_MAX

SINGLE = Single(victim="coordinator", point=CrashPoint.ACCEPTED, endpoint="opaque")
NAMED = Single(victim="account", point=CrashPoint.ACCEPTED, endpoint="reattach", request=2)
BOOKS = Figures(spent=4_000)


def an_outcome(single: Single = SINGLE, **fields: Any) -> Outcome:
    """Return a death of which nothing is to be said."""
    values: dict[str, Any] = {
        "died": 1,
        "ended": "completed",
        "bills": Bills(requests=4, input_tokens=4, output_tokens=0),
        "task_bills": 1,
        "nano": BOOKS,
        "tokens": Figures(spent=4),
        "below": (),
        "seconds": 1.0,
        **fields,
    }
    return Outcome(single=single, **values)


def test_what_is_as_promised_is_no_violation() -> None:
    """An opaque endpoint may bill a call twice where the coordinator died once; a held one may wait; so may a call in
    the provider's background, until its name there is known."""
    fine = [
        an_outcome(),
        an_outcome(task_bills=2),
        an_outcome(replace(SINGLE, endpoint="opaque_hold"), ended="needs_answers", task_bills=0),
        an_outcome(replace(NAMED, request=1), task_bills=2),
        an_outcome(replace(NAMED, request=1, endpoint="reattach_hold"), ended="needs_answers"),
        an_outcome(NAMED),
        an_outcome(replace(NAMED, endpoint="batch", request=1)),
    ]

    assert [outcome.violations() for outcome in fine] == [[]] * len(fine)


@pytest.mark.parametrize(
    "broken",
    [
        an_outcome(died=0),
        an_outcome(task_bills=3),
        an_outcome(replace(SINGLE, endpoint="idempotent"), task_bills=2),
        an_outcome(replace(SINGLE, endpoint="opaque_hold"), task_bills=2),
        an_outcome(ended="needs_answers"),
        an_outcome(replace(SINGLE, victim="replica", endpoint="lookup"), task_bills=2),
        an_outcome(replace(NAMED, request=1, endpoint="reattach_hold"), task_bills=2),
        an_outcome(replace(NAMED, endpoint="reattach_hold"), ended="needs_answers"),
        an_outcome(NAMED, task_bills=2),
        an_outcome(NAMED, nano=Figures(spent=4_001)),
        an_outcome(replace(NAMED, endpoint="batch", request=1), task_bills=2),
        an_outcome(task_bills=0),
        an_outcome(ended="failed"),
        an_outcome(below=("after death 1: less",)),
        an_outcome(replace(SINGLE, endpoint="lookup"), nano=Figures(spent=4_001)),
        an_outcome(replace(SINGLE, point=CrashPoint.RECOVERED), died=1),
        an_outcome(failed="it passed no such point"),
    ],
)
def test_every_rule_notices_its_violation(broken: Outcome) -> None:
    """A rule that never fires proves nothing."""
    assert len(broken.violations()) == 1


def test_every_point_is_played_for_everybody_who_passes_it() -> None:
    """Seven points of a replica at three classes, nine of a coordinator and three of an account's actor at seven; the
    three again at the second request of the three classes that have one."""
    assert len(singles()) == len(set(singles())) == 7 * 3 + (9 + 3) * 7 + (3 + 3) * 3
    assert len(singles()) <= KEYS_MAX
    assert [single.victim for single in sampled(6, 1)] == ["replica", "coordinator", "account"] * 2
    assert sampled(6, 1) == sampled(6, 1) != sampled(6, 2)


def test_page_has_a_row_for_every_victim_and_endpoint() -> None:
    """What is checked in says what was played."""
    record = [an_outcome(), an_outcome(task_bills=2), an_outcome(replace(SINGLE, endpoint="opaque_hold"))]

    assert rows(record)[1:] == [
        ["coordinator", "opaque", "2", "2", "2", "1", "0", "0"],
        ["coordinator", "opaque, hold", "1", "1", "1", "0", "0", "0"],
    ]
    assert "3 singles" in page(record)
