"""Levels of accounts as they stand in every dashboard and alert."""

from __future__ import annotations

from dataclasses import replace

from app.domain.load import BucketLevel, LoadRow
from app.services.telemetry import instruments
from app.services.telemetry.accounts import headroom_of, measure_accounts


def bucket(level: float, capacity: float) -> BucketLevel:
    return BucketLevel(kind="requests", level=level, capacity=capacity, rate_per_s=1.0)


ROW = LoadRow(
    account="a",
    model="m",
    scope="a",
    state="healthy",
    in_flight=1,
    concurrency=4,
    buckets=(bucket(50, 100), bucket(90, 100)),
    cooldown_s=0.0,
    call_s=1.0,
    call_output_tokens=1.0,
    error_rate=0.0,
    context_tokens=1,
    observed_at_s=0.0,
)


def test_headroom_is_that_of_the_tightest_limit() -> None:
    """Whichever binds first, slots included."""
    assert headroom_of(ROW) == 0.5
    assert headroom_of(replace(ROW, in_flight=3)) == 0.25
    assert headroom_of(replace(ROW, buckets=(), concurrency=None)) == 1.0
    assert headroom_of(replace(ROW, buckets=(bucket(-5, 100),))) == 0.0


def test_headroom_is_none_while_it_cannot_serve() -> None:
    """A full bucket of an account that cools down is of no use to anybody."""
    assert headroom_of(replace(ROW, cooldown_s=1.0)) == 0.0
    assert headroom_of(replace(ROW, closed_s=1.0)) == 0.0
    assert headroom_of(replace(ROW, state="dead")) == 0.0


def test_accounts_that_are_gone_have_no_level_and_those_that_are_silent_have_none_left() -> None:
    """An alert on headroom must fire for a silent account, and stop for a removed one."""
    cooling = replace(ROW, account="b", state="cooling_minute", cooldown_s=9.0)
    measure_accounts([ROW, cooling, replace(ROW, account="gone")], ())
    measure_accounts([ROW, cooling, replace(ROW, account="silent")], ["silent", "starting"])

    assert instruments.HEADROOM.values() == {("a", "m"): 0.5, ("b", "m"): 0.0, ("silent", "m"): 0.0}
    assert instruments.SERVING.values() == {("a",): 1.0, ("b",): 0.0, ("silent",): 0.0, ("starting",): 0.0}
    assert instruments.COOLDOWN.values() == {("a",): 0.0, ("b",): 9.0, ("silent",): 0.0}
