"""The bucket against its definition: the level is what a replay of all charges gives, to the last part."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.buckets import PEAKS_MAX, Hold, TokenBucket
from app.domain.limits import MINUTE_NS
from tests.effort import examples

S = 1_000_000_000


def _replay(charges: list[tuple[int, int]], *, limit: int, capacity: int, now_ns: int) -> int:
    """Return the level in parts at ``now_ns`` of a bucket that was full at 0 and took ``charges`` (at, units)."""
    level, clock = capacity, 0
    for at_ns, units in charges:
        level = min(capacity, level + (at_ns - clock) * limit) - units * MINUTE_NS
        clock = at_ns
    return min(capacity, level + (now_ns - clock) * limit)


@settings(max_examples=examples(300), deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2 * S), st.integers(1, 40), st.booleans(), st.integers(0, 30), st.integers(0, 40)),
        min_size=3,
        max_size=60,
    ),
    st.integers(30, 1_200),
    st.sampled_from([1_000, 4_000, 20_000]),
)
def test_bucket_refund_gives_exactly_the_level_of_a_replay_without_it(
    steps: list[tuple[int, int, bool, int, int]], limit: int, burst_ms: int
) -> None:
    """A refund is as if the units had never been charged: not a part more, not a part less."""
    bucket = TokenBucket(limit, burst_ms=burst_ms, now_ns=0)
    charges: list[tuple[int, int]] = []
    holds: list[tuple[int, Hold]] = []
    now = 0
    for pause, units, refunds, which, share in steps:
        now += pause
        at_ns = bucket.earliest_ns(units, now)
        holds.append((len(charges), bucket.take(units, at_ns)))
        charges.append((at_ns, units))
        now = at_ns
        if refunds:
            index, hold = holds[which % len(holds)]
            back = min(share, hold.amount)
            bucket.give_back(hold, back, now)
            charges[index] = (charges[index][0], charges[index][1] - back)
        expected = _replay(charges, limit=limit, capacity=bucket.capacity_parts, now_ns=now)
        assert bucket.level_at(now) == expected


@given(st.integers(1, 5_000), st.integers(0, 60_000), st.integers(1, 5_000), st.integers(0, 600 * S))
def test_bucket_earliest_start_is_the_first_nanosecond_that_suffices(
    limit: int, burst_ms: int, units: int, pause_ns: int
) -> None:
    """Neither a nanosecond too early (a rejection) nor too late (unused limit)."""
    bucket = TokenBucket(limit, burst_ms=burst_ms, now_ns=0)
    bucket.take(units, 0)
    start_ns = bucket.earliest_ns(units, pause_ns)
    needed = min(units * MINUTE_NS, bucket.capacity_parts)
    assert bucket.level_at(start_ns) >= needed
    assert start_ns == pause_ns or bucket.level_at(start_ns - 1) < needed


def test_bucket_holds_at_least_one_unit_however_small_rate_and_burst() -> None:
    """One request a minute without burst still lets one request start."""
    bucket = TokenBucket(1, burst_ms=0, now_ns=0)
    bucket.take(1, 0)
    assert bucket.earliest_ns(1, 0) == MINUTE_NS


def test_bucket_history_is_bounded_and_merging_it_never_refunds_more() -> None:
    """Far more charges than the bound, each at a lower level, then the first is given back."""
    bucket = TokenBucket(60, burst_ms=60_000_000, now_ns=0)
    holds = [bucket.take(1, 0) for _ in range(3 * PEAKS_MAX)]
    assert len(bucket._peaks) <= PEAKS_MAX
    level = bucket.level_at(0)
    bucket.give_back(holds[0], 1, 0)
    assert level <= bucket.level_at(0) <= level + MINUTE_NS
