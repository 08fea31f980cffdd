"""Spare permits: taken early, used late, and still no interval gets more than a bucket allows."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.buckets import TokenBucket
from tests.effort import examples

S = 1_000_000_000
VALID_NS = S
steps = st.lists(
    st.tuples(
        st.sampled_from(["exact", "spare", "back"]),
        st.integers(1, 5),
        st.integers(0, 2 * S),
        st.integers(0, VALID_NS),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=examples(300), deadline=None)
@given(limit=st.integers(30, 600), burst_ms=st.integers(500, 4_000), plan=steps)
def test_no_interval_gets_more_than_its_allowance_when_spares_are_used_at_the_worst_moment(
    limit: int, burst_ms: int, plan: list[tuple[str, int, int, int]]
) -> None:
    """Every start that really happens is counted, at the moment at which it happens."""
    bucket = TokenBucket(limit, burst_ms=burst_ms, now_ns=0)
    now_ns, starts = 0, []
    for kind, amount, pause_ns, delay_ns in plan:
        now_ns += pause_ns
        if bucket.earliest_ns(amount, now_ns) > now_ns or amount > max(1, limit * burst_ms / 60_000):
            continue
        hold = bucket.take(amount, now_ns)
        if kind == "exact":
            starts.append((now_ns, amount))
            continue
        bucket.park(amount, now_ns + VALID_NS)
        if kind == "spare":
            starts.append((now_ns + delay_ns, amount))
        else:
            now_ns += delay_ns
            bucket.give_back(hold, amount, now_ns)
    starts.sort()
    capacity = max(1.0, limit * burst_ms / 60_000)
    for first, (began_ns, _amount) in enumerate(starts):
        sent = 0
        for at_ns, amount in starts[first:]:
            sent += amount
            assert sent <= math.ceil(capacity + limit * (at_ns - began_ns) / 60e9 + 1e-6), (began_ns, at_ns)


def test_spare_that_comes_back_unused_leaves_a_full_bucket() -> None:
    """Nothing is lost when its time is over."""
    bucket = TokenBucket(60, burst_ms=10_000, now_ns=0)
    hold = bucket.take(5, 0)
    bucket.park(5, VALID_NS)
    bucket.give_back(hold, 5, VALID_NS)

    assert bucket.used(VALID_NS) == 0


def test_a_charge_waits_for_room_that_spares_hold() -> None:
    """A full bucket is reached only when the last spare can no longer be used."""
    bucket = TokenBucket(60, burst_ms=10_000, now_ns=0)
    bucket.take(5, 0)
    bucket.park(5, VALID_NS)

    assert bucket.earliest_ns(5, 0) == 0
    # The five spares hold half of the room for a second; then the rest refills at one a second.
    assert bucket.earliest_ns(6, 0) == 2 * S
    assert bucket.earliest_ns(10, 0) == 6 * S
