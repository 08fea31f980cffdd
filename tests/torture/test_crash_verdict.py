"""The judge of the crash matrix: a clean combination is kept, and every rule notices when it is broken."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.domain.accounts import EndpointClass, OnUnknown
from tests.torture import crash_plan
from tests.torture.crash_matrix import page
from tests.torture.crash_play import Bills, Case, Figures, Played
from tests.torture.crash_verdict import rows, violations

OPAQUE, LOOKUP, REATTACH = EndpointClass.OPAQUE, EndpointClass.LOOKUP, EndpointClass.REATTACH


def clean(endpoint: EndpointClass = OPAQUE, on_unknown: OnUnknown = "retry") -> Played:
    """Return what one death in the middle of one call leaves."""
    return Played(
        case=Case(way="gateway", endpoint=endpoint, on_unknown=on_unknown),
        points=("accepted",),
        deaths=("accepted",),
        bills=Bills(requests=1, input_tokens=10, output_tokens=10),
        obtained=1,
        below=(),
        figures=Figures(spent=50_000),
    )


def bills(count: int) -> Bills:
    return Bills(requests=count, input_tokens=10 * count, output_tokens=10 * count)


def test_a_clean_combination_is_kept() -> None:
    """Also one bill more where nobody can know: as many as calls were under way at the death."""
    assert violations(clean()) == []
    assert violations(replace(clean(), bills=bills(2))) == []
    assert violations(replace(clean(REATTACH), bills=bills(2))) == []
    assert violations(replace(clean(REATTACH, "hold"), obtained=0)) == []


@pytest.mark.parametrize(
    "broken",
    [
        replace(clean(), bills=bills(3)),
        replace(clean(EndpointClass.IDEMPOTENT), bills=bills(2)),
        replace(clean(LOOKUP), bills=bills(2)),
        replace(clean(OPAQUE, "hold"), bills=bills(2)),
        replace(clean(REATTACH, "hold"), bills=bills(2)),
        replace(clean(REATTACH), deaths=("accepted:2",), bills=bills(2)),
        replace(clean(REATTACH, "hold"), deaths=("before-send:2",), obtained=0),
        replace(clean(), deaths=(), bills=bills(2)),
        replace(clean(), obtained=0),
        replace(clean(), bills=bills(0)),
        replace(clean(), below=("life 1",)),
        replace(clean(), failed="life 2: ended with 1"),
        replace(clean(), figures=Figures(spent=50_000, held=1)),
        replace(clean(), case=Case(way="run", endpoint=LOOKUP), figures=Figures(spent=50_000, unknown=1)),
    ],
)
def test_every_rule_notices_its_violation(broken: Played) -> None:
    """A rule that never fires proves nothing."""
    assert len(violations(broken)) == 1


def test_table_counts_by_number_of_planned_deaths() -> None:
    """The page says of singles and pairs what happened to each."""
    double = replace(clean(), points=("accepted", "received"), deaths=("accepted", "received"), bills=bills(3))

    assert rows([clean(), double])[1] == ["gateway, opaque", "1/1", "3", "3", "0/1", "0/0", "0"]
    assert "| gateway, opaque | 1/1 | 3 | 3 | 0/1 | 0/0 | 0 |" in page([clean(), double], 7)


def test_plan_has_every_point_and_every_pair_once() -> None:
    """Seven points of a call, two more where there is something to recover, three where a call is several requests."""
    assert len(set(crash_plan.singles())) == 7
    assert len(set(crash_plan.pairs())) == 63
    assert len(set(crash_plan.triples(1_000, 1))) == 567
    assert len(set(crash_plan.pairs(crash_plan.LATER_SENDS))) == 120
    assert crash_plan.triples(10, 1) == crash_plan.triples(10, 1) != crash_plan.triples(10, 2)
