"""The simulator's limits hold exactly: they are the measure that ours is held against."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.simulator.config import Limits
from app.simulator.limits import DAY_NS, MIDNIGHT_PACIFIC_NS, MINUTE_NS, Bucket, DayCount, Demand, Quota, SlidingWindow

SECOND_NS = 1_000_000_000
steps = st.lists(st.tuples(st.integers(0, 90 * SECOND_NS), st.integers(1, 40)), min_size=1, max_size=60)


def a_quota(**limits: object) -> Quota:
    return Quota(Limits.model_validate(limits), wall_offset_ns=0)


def asking(input_tokens: int = 1, output_tokens: int = 0) -> Demand:
    return Demand(input_tokens=input_tokens, uncached_input_tokens=input_tokens, output_tokens=output_tokens)


@given(steps)
def test_sliding_window_never_admits_more_than_its_limit_in_any_minute(arrivals: list[tuple[int, int]]) -> None:
    """Compared with a recount of every window that ends at an admission."""
    window, now_ns, admitted = SlidingWindow(40), 0, list[tuple[int, int]]()
    for gap_ns, cost in arrivals:
        now_ns += gap_ns
        recent = sum(taken for at_ns, taken in admitted if at_ns > now_ns - MINUTE_NS)
        fits = window.wait_ns(cost, now_ns) == 0
        if fits:
            window.take(cost, now_ns)
            admitted.append((now_ns, cost))

        assert fits == (recent + cost <= 40)


@given(steps)
def test_sliding_window_names_the_first_moment_at_which_a_request_fits(arrivals: list[tuple[int, int]]) -> None:
    """A client that waits as told is admitted, and one nanosecond earlier it is not."""
    window, now_ns = SlidingWindow(40), 0
    for gap_ns, cost in arrivals:
        now_ns += gap_ns
        wait_ns = window.wait_ns(cost, now_ns)
        assert wait_ns is not None
        if wait_ns:
            assert window.wait_ns(cost, now_ns + wait_ns - 1) != 0
            now_ns += wait_ns
        assert window.wait_ns(cost, now_ns) == 0
        window.take(cost, now_ns)


@given(steps, st.integers(1, 60))
def test_bucket_never_admits_more_than_its_burst_and_its_rate(arrivals: list[tuple[int, int]], burst_s: int) -> None:
    """In any w seconds at most limit x (w + burst) / 60, with debt counted as spent."""
    limit = 600
    bucket, now_ns, admitted = Bucket(limit, capacity_ns=burst_s * SECOND_NS), 0, list[tuple[int, int]]()
    for gap_ns, cost in arrivals:
        now_ns += gap_ns
        if cost <= limit * burst_s // 60 and bucket.wait_ns(cost, now_ns) == 0:
            bucket.take(cost, now_ns)
            admitted.append((now_ns, cost))
    for first, (begin_ns, _) in enumerate(admitted):
        spent = 0
        for at_ns, cost in admitted[first:]:
            spent += cost
            assert spent * MINUTE_NS <= limit * (at_ns - begin_ns + burst_s * SECOND_NS)


@given(steps)
def test_bucket_names_the_first_moment_at_which_a_request_fits(arrivals: list[tuple[int, int]]) -> None:
    """Exact to the nanosecond, requests larger than the bucket included."""
    bucket, now_ns = Bucket(600, capacity_ns=2 * SECOND_NS), 0
    for gap_ns, cost in arrivals:
        now_ns += gap_ns
        wait_ns = bucket.wait_ns(cost, now_ns)
        assert wait_ns is not None
        if wait_ns:
            assert bucket.wait_ns(cost, now_ns + wait_ns - 1) != 0
            now_ns += wait_ns
        assert bucket.wait_ns(cost, now_ns) == 0
        bucket.take(cost, now_ns)


def test_bucket_lets_a_large_request_in_when_full_and_makes_the_next_wait_for_the_debt() -> None:
    """60 a minute, burst of 10: a cost of 30 leaves a debt of 20, repaid in 20 s; one more needs 21."""
    bucket = Bucket(60, capacity_ns=10 * SECOND_NS)
    assert bucket.wait_ns(30, 0) == 0
    bucket.take(30, 0)

    assert bucket.wait_ns(1, 0) == 21 * SECOND_NS
    assert bucket.remaining(20 * SECOND_NS) == 0
    assert bucket.remaining(21 * SECOND_NS) == 1


def test_sliding_window_never_admits_a_request_above_its_limit() -> None:
    """Waiting would not help, so none is named."""
    assert SlidingWindow(10).wait_ns(11, 0) is None


def test_day_count_turns_at_midnight_pacific() -> None:
    """The day's limit is used up until then, whatever the minute."""
    wall_ns = 20_000 * DAY_NS + MIDNIGHT_PACIFIC_NS - 5 * SECOND_NS
    day = DayCount(1, wall_offset_ns=wall_ns)
    day.take(1, 0)

    assert day.wait_ns(1, 0) == 5 * SECOND_NS
    assert day.wait_ns(1, 5 * SECOND_NS) == 0


def test_quota_charges_nothing_when_one_limit_refuses() -> None:
    """A refused request must not eat another limit's budget."""
    quota = a_quota(rpm=10, tpm=100, window="sliding")
    rejection = quota.admit(asking(101), 0)

    assert rejection is not None
    assert (rejection.kind, rejection.retry_after_ns) == ("tpm", None)
    gauge = quota.gauge("rpm", 0)
    assert gauge is not None
    assert gauge.remaining == 10


def test_quota_charges_max_tokens_up_front_and_never_refunds() -> None:
    """The reason why a large max_tokens is refused early."""
    quota = a_quota(tpm=100, charge="max_tokens")
    assert quota.admit(asking(10, 80), 0) is None
    quota.settle(1, 0)

    rejection = quota.admit(asking(11, 0), 0)
    assert rejection is not None
    assert (rejection.kind, rejection.used, rejection.requested) == ("tpm", 90, 11)


def test_quota_charges_output_at_the_end_where_used_tokens_count() -> None:
    """Prompt at arrival, output when it is known; then the window may be in debt and admits nothing."""
    quota = a_quota(tpm=100, otpm=50, charge="used", window="sliding")
    assert quota.admit(asking(10, 80), 0) is None
    assert quota.admit(asking(60, 80), 0) is None
    quota.settle(70, 0)

    rejection = quota.admit(asking(1, 0), 1)
    assert rejection is not None
    assert rejection.kind == "tpm"


def test_quota_counts_cached_input_to_tpm_and_not_to_itpm() -> None:
    """Cached reads are free for the input limit."""
    quota = a_quota(tpm=1000, itpm=10)

    assert quota.admit(Demand(input_tokens=500, uncached_input_tokens=10, output_tokens=0), 0) is None


def test_quota_refuses_above_its_concurrency_until_one_ends() -> None:
    """In flight is counted from admission to settlement, also across a change of limits."""
    quota = a_quota(concurrency=2)
    assert [quota.admit(asking(), 0) for _ in range(2)] == [None, None]
    quota.relimit(Limits(concurrency=2, rpm=100))
    rejection = quota.admit(asking(), 0)
    assert rejection is not None
    assert rejection.kind == "concurrency"

    quota.settle(0, 0)
    assert quota.admit(asking(), 0) is None
