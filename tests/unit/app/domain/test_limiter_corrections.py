"""What providers say corrects the limiter: headers lower it for good reasons only, a 429 never shortens a cooldown."""

from __future__ import annotations

from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from app.domain.limiter import Charge, Limiter, LimiterState, LimitSpec, Observation, Refusal, Reservation

S = 1_000_000_000
MINUTE = 60 * S
CALL = Charge(requests=1)


def _level(limiter: Limiter, now_ns: int, name: str = "rpm") -> int:
    return {limit.name: limit.level for limit in limiter.load(now_ns).limits}[name]  # type: ignore[index]


def _limit(limiter: Limiter, now_ns: int, name: str = "rpm") -> int:
    return {limit.name: limit.limit for limit in limiter.load(now_ns).limits}[name]  # type: ignore[index]


def _answer(limiter: Limiter, call_id: str, now_ns: int, *, limit: int | None, remaining: int | None) -> None:
    """One call sent and answered at once, with headers."""
    assert isinstance(limiter.reserve(call_id, CALL, now_ns), Reservation)
    limiter.correct_from_headers(call_id, [Observation(name="rpm", limit=limit, remaining=remaining)], now_ns)
    limiter.settle(call_id, CALL, now_ns)


def _against_provider(capacity: int, foreign_every_ns: int | None) -> tuple[list[int], list[int]]:
    """Return when our calls were accepted and rejected in ten minutes by a provider that enforces 600 a minute.

    Its bucket holds ``capacity``; others take one every ``foreign_every_ns``. Levels in billionths of a request.
    """
    limiter = Limiter(LimitSpec(rpm=600, burst_ms=1_000), 0)
    level, clock, now, next_foreign = capacity * S, 0, 0, foreign_every_ns
    accepted: list[int] = []
    rejected: list[int] = []
    while now < 10 * MINUTE:
        level, clock = min(capacity * S, level + (now - clock) * 10), now
        while next_foreign is not None and foreign_every_ns is not None and next_foreign <= now:
            level, next_foreign = max(0, level - S), next_foreign + foreign_every_ns
        call_id = str(len(accepted) + len(rejected))
        answer = limiter.reserve(call_id, CALL, now)
        if isinstance(answer, Refusal):
            assert answer.retry_at_ns is not None
            now = answer.retry_at_ns
            continue
        if level < S:
            rejected.append(now)
            limiter.on_rate_limited(now, (S - level) // 10, reservation_id=call_id)
        else:
            level -= S
            accepted.append(now)
            seen = Observation(name="rpm", limit=600, remaining=level // S)
            limiter.correct_from_headers(call_id, [seen], now)
        limiter.settle(call_id, CALL, now)
    return accepted, rejected


def test_provider_bucket_smaller_than_a_minute_is_not_taken_for_foreign_use() -> None:
    """limit - remaining = 580 of 600 on an idle key: the bucket is small, nobody else is there."""
    accepted, rejected = _against_provider(capacity=20, foreign_every_ns=None)
    assert rejected == []
    assert len(accepted) >= 0.97 * 6_000


def test_steady_foreign_use_leaves_us_our_share_with_few_rejections() -> None:
    """Others take 300 of 600 a minute: once the provider's bucket is drained we still get ours, rarely rejected.

    From above our share is bounded by the provider, which enforces its limit; the limiter answers for the rejections.
    """
    accepted, rejected = _against_provider(capacity=600, foreign_every_ns=S // 5)
    late = [at for at in accepted if at >= 5 * MINUTE]
    assert len(late) >= 0.85 * 1_500
    assert 1 <= len(rejected) <= 0.01 * len(accepted)


def test_real_foreign_use_is_charged_once_it_is_seen() -> None:
    """Between two answers remaining fell by 31 and we sent one: thirty were others'."""
    limiter = Limiter(LimitSpec(rpm=60, burst_ms=60_000), 0)
    _answer(limiter, "a", 0, limit=60, remaining=59)
    _answer(limiter, "b", 1, limit=60, remaining=28)
    assert _level(limiter, 1) == 28


def test_remaining_caps_our_level_without_any_earlier_answer() -> None:
    """The provider has three left for us: more would be refused, whoever used the rest."""
    limiter = Limiter(LimitSpec(rpm=60, burst_ms=60_000), 0)
    _answer(limiter, "a", 0, limit=60, remaining=3)
    assert _level(limiter, 0) == 3


def test_answers_that_come_out_of_order_are_no_foreign_use() -> None:
    """A reading from before a reset that arrives late must not look like hundreds of stolen requests."""
    limiter = Limiter(LimitSpec(rpm=600, window="sliding"), 0)
    for name in ("early", "late"):
        assert isinstance(limiter.reserve(name, CALL, 0), Reservation)
    limiter.correct_from_headers("late", [Observation(name="rpm", remaining=600)], S)
    limiter.correct_from_headers("early", [Observation(name="rpm", remaining=90)], S)
    assert _level(limiter, S) == 598


def test_calls_of_our_own_under_way_are_no_foreign_use() -> None:
    """Ten of ours arrive between two readings; only what exceeds them can be somebody else's."""
    limiter = Limiter(LimitSpec(rpm=60, burst_ms=60_000), 0)
    _answer(limiter, "first", 0, limit=60, remaining=59)
    for number in range(10):
        assert isinstance(limiter.reserve(str(number), CALL, 1), Reservation)
    limiter.correct_from_headers("9", [Observation(name="rpm", limit=60, remaining=49)], 1)
    assert _level(limiter, 1) == 49


def test_a_lowered_provider_limit_is_no_foreign_use() -> None:
    """Remaining falls with the limit itself; the rate follows, the small bucket stays full."""
    limiter = Limiter(LimitSpec(rpm=600), 0)
    _answer(limiter, "a", 0, limit=600, remaining=590)
    _answer(limiter, "b", S, limit=60, remaining=50)
    assert (_limit(limiter, S), _level(limiter, S)) == (60, 1)


def test_reported_limit_lowers_and_raises_again_but_never_above_the_configured() -> None:
    """An operator's limit is a promise; a provider's lower one is a fact."""
    limiter = Limiter(LimitSpec(rpm=100), 0)
    for moment, (reported, holds) in enumerate([(40, 40), (80, 80), (5_000, 100)], start=1):
        _answer(limiter, str(moment), moment * MINUTE, limit=reported, remaining=None)
        assert _limit(limiter, moment * MINUTE) == holds


def test_reported_limit_holds_where_none_is_configured() -> None:
    """Unlimited by configuration, sixty a minute by the provider."""
    limiter = Limiter(LimitSpec(), 0)
    _answer(limiter, "a", 0, limit=60, remaining=0)
    assert (_limit(limiter, 0), _level(limiter, 0)) == (60, 0)


def test_headers_after_settling_still_set_the_limit() -> None:
    """The id is gone, so remaining cannot be compared; the limit is a fact all the same."""
    limiter = Limiter(LimitSpec(rpm=100), 0)
    limiter.correct_from_headers("unknown", [Observation(name="rpm", limit=10, remaining=0)], 0)
    assert _limit(limiter, 0) == 10


def test_remaining_requests_of_a_day_count_as_used() -> None:
    """The provider's own count of the day wins where it is higher."""
    limiter = Limiter(LimitSpec(rpd=100), 0)
    limiter.correct_from_headers("unknown", [Observation(name="rpd", limit=50, remaining=5)], 0)
    assert (_limit(limiter, 0, "rpd"), _level(limiter, 0, "rpd")) == (50, 5)


def test_foreign_use_in_a_sliding_window_leaves_with_the_provider_s_reset() -> None:
    """Thirty of others' count until the reset that the headers name."""
    limiter = Limiter(LimitSpec(rpm=60, window="sliding"), 0)
    assert isinstance(limiter.reserve("a", CALL, 0), Reservation)
    limiter.correct_from_headers("a", [Observation(name="rpm", remaining=59)], 0)
    limiter.settle("a", CALL, 0)
    assert isinstance(limiter.reserve("b", CALL, 1), Reservation)
    limiter.correct_from_headers("b", [Observation(name="rpm", remaining=28, reset_ns=10 * S)], 1)
    limiter.settle("b", CALL, 1)
    assert (_level(limiter, 1), _level(limiter, 11 * S)) == (28, 58)


@given(
    st.lists(st.tuples(st.integers(0, 20 * S), st.one_of(st.none(), st.integers(0, 60 * S))), min_size=1, max_size=30),
    st.sampled_from(["bucket", "sliding"]),
)
def test_rate_limited_never_shortens_a_cooldown(
    events: list[tuple[int, int | None]], window: Literal["bucket", "sliding"]
) -> None:
    """However short a later Retry-After is."""
    limiter, now = Limiter(LimitSpec(rpm=60, window=window), 0), 0
    for pause, retry in events:
        now += pause
        before = limiter.cooldown_until_ns
        until = limiter.on_rate_limited(now, retry)
        assert until >= max(before, now + (S if retry is None else retry))
        assert until == limiter.cooldown_until_ns
        start = limiter.earliest_start_ns(CALL, now)
        assert start is not None
        assert start >= until


def test_rate_limited_cuts_the_rate_once_for_calls_that_were_under_way_together() -> None:
    """Ten refusals of one burst are one message: 0.7 of the rate, not 0.7 to the tenth."""
    limiter = Limiter(LimitSpec(rpm=1_000, burst_ms=60_000), 0)
    for number in range(10):
        assert isinstance(limiter.reserve(str(number), CALL, 0), Reservation)
    for number in range(10):
        limiter.on_rate_limited(S, reservation_id=str(number))
    assert _limit(limiter, S) == 700


def test_rate_limited_empties_the_bucket() -> None:
    """The provider has nothing for us now, whatever we had counted."""
    limiter = Limiter(LimitSpec(rpm=60, burst_ms=60_000), 0)
    limiter.on_rate_limited(0, 0)
    assert _level(limiter, 0) == 0


def test_rate_regains_five_percent_a_minute_up_to_the_configured_limit() -> None:
    """Additive recovery from the end of the cooldown; never above the limit."""
    limiter = Limiter(LimitSpec(rpm=1_000), 0)
    limiter.on_rate_limited(0, 30 * S)
    limits = [_limit(limiter, 30 * S + minutes * MINUTE) for minutes in (0, 1, 2, 6, 60)]
    assert limits == [700, 750, 800, 1_000, 1_000]


def test_rate_limited_call_under_way_may_not_be_sent_in_the_cooldown() -> None:
    """A start promised before the 429 is void."""
    limiter = Limiter(LimitSpec(rpm=60), 0)
    limiter.reserve("a", CALL, 0)
    assert isinstance(limiter.reserve("b", CALL, 0, horizon_ns=S), Reservation)
    limiter.on_rate_limited(S // 2, 10 * S, reservation_id="a")
    assert not limiter.may_send("b", S)
    assert limiter.release("b", S)


def test_rate_limited_without_any_rate_cuts_concurrency() -> None:
    """Providers that limit only concurrency answer 429 as well."""
    limiter = Limiter(LimitSpec(concurrency=10), 0)
    limiter.on_rate_limited(0)
    assert _limit(limiter, 0, "concurrency") == 7


def test_cut_rate_and_cooldown_survive_a_restart() -> None:
    """A crash must not turn a provider's no into a yes."""
    limiter = Limiter(LimitSpec(rpm=1_000), 0)
    limiter.on_rate_limited(0, 100 * S)
    state = LimiterState.from_dict(limiter.snapshot(0, 0).to_dict())
    later = Limiter.restore(LimitSpec(rpm=1_000), state, lost=True, now_ns=7, wall_ns=40 * S)
    assert later.cooldown_until_ns == 7 + 60 * S
    assert _limit(later, 7) == 700
