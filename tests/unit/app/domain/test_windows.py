"""Callers' windows: whole at once, never more than the limit in any minute, by the start of each call."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.leases import PERMIT_VALID_S
from app.domain.limiter import Limiter, Refusal, Reservation
from app.domain.limits import MINUTE_NS, Charge, LimitSpec
from app.domain.windows import SLACK_NS, STEP_NS
from tests.effort import examples

S = 1_000_000_000


def a_limiter(**limits: object) -> Limiter:
    return Limiter(LimitSpec(window="sliding", counted_from="start", charge="used", **limits), 0)  # type: ignore[arg-type]


def test_whole_limit_may_come_at_once_and_again_a_minute_later() -> None:
    """What 6 requests a minute means to people; how long the calls take does not matter."""
    limiter = a_limiter(rpm=6)
    for number in range(6):
        assert isinstance(limiter.reserve(str(number), Charge(), 0), Reservation)
    refused = limiter.reserve("7", Charge(), 0)
    limiter.settle("0", Charge(), 50 * S)

    assert isinstance(refused, Refusal)
    assert refused.retry_at_ns is not None
    assert MINUTE_NS + SLACK_NS <= refused.retry_at_ns <= MINUTE_NS + SLACK_NS + STEP_NS
    again = [limiter.reserve(f"again {number}", Charge(), refused.retry_at_ns) for number in range(7)]
    assert [isinstance(each, Reservation) for each in again] == [True] * 6 + [False]


def test_what_was_reserved_and_not_used_is_free_at_once() -> None:
    """Tokens are counted as used, not as feared; a withdrawn call never was."""
    limiter = a_limiter(tpm=100)
    assert isinstance(limiter.reserve("a", Charge(input_tokens=10, output_tokens_max=90), 0), Reservation)
    limiter.settle("a", Charge(input_tokens=10, output_tokens_max=5), S)
    assert isinstance(limiter.reserve("b", Charge(input_tokens=85), S), Reservation)
    limiter.release("b", 2 * S)

    assert isinstance(limiter.reserve("c", Charge(input_tokens=85), 2 * S), Reservation)
    assert isinstance(limiter.reserve("d", Charge(input_tokens=1), 2 * S), Refusal)


def test_call_that_outlives_its_minute_gives_nothing_back_twice() -> None:
    """Its reservation has left the window already."""
    limiter = a_limiter(tpm=100)
    limiter.reserve("long", Charge(input_tokens=100), 0)
    assert isinstance(limiter.reserve("next", Charge(input_tokens=100), 62 * S), Reservation)
    limiter.settle("long", Charge(input_tokens=10), 63 * S)

    assert isinstance(limiter.reserve("more", Charge(input_tokens=1), 63 * S), Refusal)


def test_permits_are_not_valid_for_longer_than_the_window_has_slack() -> None:
    """Else what was granted at its beginning and used late would come on top of the next."""
    assert SLACK_NS >= PERMIT_VALID_S * S


@pytest.mark.parametrize("call_s", [0, 5, 45])
def test_hammered_window_is_used_to_97_percent(call_s: int) -> None:
    """However long calls take: a slow model must not cost its caller the limit."""
    limiter, admitted, ending = a_limiter(rpm=600), 0, list[tuple[int, str]]()
    for step in range(600 * 10):
        now = step * S // 10
        while ending and ending[0][0] <= now:
            limiter.settle(ending.pop(0)[1], Charge(), now)
        if isinstance(limiter.reserve(str(step), Charge(), now), Reservation):
            admitted += 1
            ending.append((now + call_s * S, str(step)))

    assert 0.97 * 6_000 <= admitted <= 6_000


@settings(max_examples=examples(150), deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 40 * S),  # pause
            st.integers(1, 80),  # tokens wanted
            st.integers(0, 80),  # tokens used, never more than wanted
            st.sampled_from(["settle", "release", "keep"]),
            st.booleans(),  # a crash: continue the saved state
        ),
        max_size=60,
    ),
    late_ns=st.integers(0, SLACK_NS),
)
def test_no_minute_gets_more_than_the_limit(steps: list[tuple[int, int, int, str, bool]], late_ns: int) -> None:
    """Counting every call where it really started, up to the validity of a permit late, and across clean restarts."""
    spec = LimitSpec(rpm=10, tpm=100, window="sliding", counted_from="start", charge="used")
    limiter, now, log = Limiter(spec, 0), 0, list[list[int]]()
    for number, (pause, wanted, used, ending, crash) in enumerate(steps):
        now += pause
        if crash:
            saved = limiter.snapshot(now, now)
            limiter = Limiter.restore(spec, saved, lost=False, now_ns=now, wall_ns=now)
        if isinstance(limiter.reserve(str(number), Charge(input_tokens=wanted), now), Reservation):
            if ending == "release":
                limiter.release(str(number), now)
                continue
            log.append([now + late_ns, wanted])
            if ending == "settle":
                log[-1][1] = min(wanted, used)
                limiter.settle(str(number), Charge(input_tokens=min(wanted, used)), now)

    for began, _ in log:
        within = [tokens for at, tokens in log if began <= at < began + MINUTE_NS]
        assert len(within) <= 10
        assert sum(within) <= 100


def test_busy_window_stays_small() -> None:
    """Its saved state is written every second."""
    limiter = a_limiter(rpm=100_000)
    for number in range(10_000):
        limiter.reserve(str(number), Charge(), number * 5_000_000)
        limiter.settle(str(number), Charge(), number * 5_000_000)

    (gauge,) = limiter.snapshot(50 * S, 0).gauges
    assert len(gauge.entries) <= 2 * 62
    assert sum(amount for _leaves, amount in gauge.entries) == 10_000
