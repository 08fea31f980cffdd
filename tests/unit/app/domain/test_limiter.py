"""The limiter's promise: never more than the limit allows in any interval, and the limit used to the full."""

from __future__ import annotations

import heapq
import json
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.limiter import Charge, Limiter, LimiterState, LimitSpec, Refusal, Reservation
from app.domain.limits import MINUTE_NS, RATE_NAMES
from tests.effort import examples

S = 1_000_000_000


def _call(input_tokens: int = 0, output_tokens: int = 0) -> Charge:
    return Charge(requests=1, input_tokens=input_tokens, output_tokens_max=output_tokens)


def _admit(limiter: Limiter, reservation_id: str, charge: Charge, now_ns: int, horizon_ns: int = 0) -> int:
    answer = limiter.reserve(reservation_id, charge, now_ns, horizon_ns=horizon_ns)
    assert isinstance(answer, Reservation), answer
    return answer.start_ns


def _refuse(limiter: Limiter, charge: Charge, now_ns: int) -> Refusal:
    answer = limiter.reserve("refused", charge, now_ns)
    assert isinstance(answer, Refusal), answer
    return answer


def _excess_parts(starts: list[tuple[int, int]], limit: int, burst_ms: int) -> int:
    """Return by how much the worst interval exceeds limit x (w + burst), a debt of its last charge allowed.

    Charges of zero are left out: they take nothing from this limit, so they need not wait until a debt is paid.
    """
    starts = [(at_ns, amount) for at_ns, amount in starts if amount]
    capacity = max(MINUTE_NS, limit * burst_ms * 1_000_000)
    worst = 0
    for first in range(len(starts)):
        total = 0
        for at_ns, amount in starts[first:]:
            total += amount * MINUTE_NS
            debt = max(0, amount * MINUTE_NS - capacity)
            worst = max(worst, total - capacity - limit * (at_ns - starts[first][0]) - debt)
    return worst


steps = st.lists(
    st.tuples(
        st.integers(0, 3 * S),  # pause before
        st.integers(0, 400),  # input
        st.integers(0, 400),  # output reserved
        st.sampled_from(["keep", "release", "settle_half", "settle_all", "settle_more"]),
        st.integers(0, 20),  # which open one ends
        st.booleans(),  # after a refusal, come back at the earliest moment
    ),
    min_size=5,
    max_size=60,
)


@settings(max_examples=examples(300), deadline=None)
@given(
    steps,
    st.integers(1, 600),
    st.integers(60, 20_000),
    st.sampled_from([0, 500, 1_000, 6_000, 60_000]),
    st.sampled_from([0, S // 2, 5 * S]),
    st.sampled_from(["max_tokens", "used"]),
)
def test_limiter_never_exceeds_any_interval_whatever_the_schedule(
    steps: list[tuple[int, int, int, str, int, bool]],
    rpm: int,
    tpm: int,
    burst_ms: int,
    horizon_ns: int,
    charge: Literal["max_tokens", "used"],
) -> None:
    """Counting every call at its start with what it used in the end, no interval gets more than its allowance."""
    limiter = Limiter(LimitSpec(rpm=rpm, tpm=tpm, burst_ms=burst_ms, charge=charge), 0)
    now = 0
    log: dict[str, tuple[int, int, int]] = {}
    open_ids: list[tuple[str, Charge]] = []
    for number, (pause, input_tokens, output_tokens, ending, which, eager) in enumerate(steps):
        now += pause
        wanted = _call(input_tokens, output_tokens)
        answer = limiter.reserve(str(number), wanted, now, horizon_ns=horizon_ns)
        if isinstance(answer, Reservation):
            assert now <= answer.start_ns <= now + horizon_ns
            log[str(number)] = (answer.start_ns, 1, input_tokens + output_tokens)
            open_ids.append((str(number), wanted))
        else:
            assert answer.retry_at_ns is not None
            assert answer.retry_at_ns > now + horizon_ns
            if eager:
                # Exactly at the promised moment: the tightest schedule there is.
                now = answer.retry_at_ns - horizon_ns
                start_ns = _admit(limiter, str(number), wanted, now, horizon_ns)
                assert start_ns == answer.retry_at_ns
                log[str(number)] = (start_ns, 1, input_tokens + output_tokens)
                open_ids.append((str(number), wanted))
        if ending == "keep" or not open_ids:
            continue
        ended, reserved = open_ids.pop(which % len(open_ids))
        start_ns, _one, tokens = log[ended]
        if ending == "release":
            limiter.release(ended, now)
            del log[ended]
            continue
        now = max(now, start_ns)
        part = {"settle_half": 2, "settle_all": 1, "settle_more": 1}[ending]
        used = _call(reserved.input_tokens // part, reserved.output_tokens_max // part)
        limiter.settle(ended, used, now)
        counted = used.input_tokens + (reserved.output_tokens_max if charge == "max_tokens" else used.output_tokens_max)
        log[ended] = (start_ns, 1, min(tokens, counted))

    admitted = sorted(log.values())
    assert _excess_parts([(at, one) for at, one, _tokens in admitted], rpm, burst_ms) <= 0
    assert _excess_parts([(at, tokens) for at, _one, tokens in admitted], tpm, burst_ms) <= 0


@settings(max_examples=examples(150), deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3 * S), st.integers(1, 300), st.integers(1, 15 * S)), min_size=5, max_size=60),
    st.integers(2, 12),
    st.integers(300, 1_500),
    st.sampled_from([0, 20 * S]),
)
def test_sliding_limiter_never_exceeds_any_minute_of_the_provider(
    calls: list[tuple[int, int, int]], rpm: int, tpm: int, horizon_ns: int
) -> None:
    """However late a request arrives between its start and its answer, no 60 seconds hold more than the limit."""
    limiter = Limiter(LimitSpec(rpm=rpm, tpm=tpm, window="sliding"), 0)
    now = 0
    spans: list[tuple[int, int, int]] = []
    running: list[tuple[int, str, int]] = []
    for number, (pause, tokens, latency) in enumerate(calls):
        now += pause
        while True:
            while running and running[0][0] <= now:
                ends, name, used = heapq.heappop(running)
                limiter.settle(name, _call(used), ends)
            answer = limiter.reserve(str(number), _call(tokens), now, horizon_ns=horizon_ns)
            if isinstance(answer, Reservation):
                break
            # Come back at the very moment that the limiter names, or with the next answer.
            wake = [at for at in (answer.retry_at_ns, running[0][0] if running else None) if at is not None]
            now = min(wake)
        spans.append((answer.start_ns, answer.start_ns + latency, tokens))
        heapq.heappush(running, (answer.start_ns + latency, str(number), tokens))
    for _start, opens_ns, _tokens in spans:
        # The adversary: all that may arrive in the minute from this answer on, at whatever moment of its own span.
        inside = [tokens for start, end, tokens in spans if end >= opens_ns and start < opens_ns + MINUTE_NS]
        assert len(inside) <= rpm
        assert sum(inside) <= tpm


@pytest.mark.parametrize("window", ["bucket", "sliding"])
def test_limiter_uses_at_least_97_percent_of_the_limit_under_saturation(window: str) -> None:
    """A caller that always has work gets what the window allows, not less."""
    spec = LimitSpec(rpm=600, tpm=60_000, window="sliding" if window == "sliding" else "bucket")
    limiter = Limiter(spec, 0)
    now, sent = 0, 0
    running: list[tuple[int, str]] = []
    while now < 300 * S:
        while running and running[0][0] <= now:
            ends, name = running.pop(0)
            limiter.settle(name, _call(50, 50), ends)
        answer = limiter.reserve(str(sent), _call(50, 50), now, horizon_ns=S // 2)
        if isinstance(answer, Reservation):
            running.append((answer.start_ns + S // 5, str(sent)))
            sent += 1
            continue
        wake = [at for at in (answer.retry_at_ns, running[0][0] if running else None) if at is not None]
        now = max(now + 1, min(wake))
    assert 0.97 * 3_000 <= sent <= 3_000 + 620


def test_limiter_refunds_keep_a_used_charge_pool_busy_with_outputs_unknown() -> None:
    """With ``charge: used``, reserving four times too much costs little while answers come within the burst."""
    limiter = Limiter(LimitSpec(tpm=60_000, burst_ms=5_000, charge="used"), 0)
    now, number, used = 0, 0, 0
    running: list[tuple[int, str]] = []
    while now < 120 * S:
        while running and running[0][0] <= now:
            ends, name = running.pop(0)
            limiter.settle(name, _call(100, 100), ends)
            used += 200
        answer = limiter.reserve(str(number), _call(100, 700), now)
        if isinstance(answer, Reservation):
            running.append((now + S // 20, str(number)))
            number += 1
            continue
        assert answer.retry_at_ns is not None
        now = min([answer.retry_at_ns, *[at for at, _name in running[:1]]])
    assert used >= 0.97 * 120_000


def test_limiter_starts_a_request_above_the_bucket_when_full_and_leaves_debt() -> None:
    """Oversize: admitted at a full bucket, then everybody waits until the debt is paid."""
    limiter = Limiter(LimitSpec(tpm=6_000, burst_ms=1_000), 0)
    assert _admit(limiter, "small", _call(50), 0) == 0
    big = _refuse(limiter, _call(1_000), 0)
    assert (big.retry_at_ns, big.binding) == (S // 2, "tpm")
    assert _admit(limiter, "big", _call(1_000), S // 2) == S // 2
    assert limiter.earliest_start_ns(_call(100), S // 2) == S // 2 + 10 * S


def test_limiter_refuses_for_good_what_a_sliding_window_can_never_hold() -> None:
    """A charge above a sliding limit would exceed it in any minute."""
    limiter = Limiter(LimitSpec(tpm=1_000, window="sliding"), 0)
    answer = _refuse(limiter, _call(1_001), 0)
    assert (answer.forever, answer.retry_at_ns, answer.binding) == (True, None, "tpm")


def test_limiter_charges_all_limits_or_none() -> None:
    """A refusal by one limit leaves the others untouched."""
    limiter = Limiter(LimitSpec(rpm=60, tpm=60, concurrency=1), 0)
    _admit(limiter, "a", _call(1), 0)
    before = limiter.load(0).limits
    assert _refuse(limiter, _call(1), 0).binding == "concurrency"
    assert limiter.load(0).limits == before


def test_limiter_promises_starts_within_the_horizon_in_order() -> None:
    """Virtual scheduling: the third call of a one-a-second limit is promised two seconds ahead, or refused."""
    limiter = Limiter(LimitSpec(rpm=60), 0)
    starts = [_admit(limiter, str(number), _call(), 0, horizon_ns=2 * S) for number in range(3)]
    assert starts == [0, S, 2 * S]
    assert _refuse(limiter, _call(), 0).retry_at_ns == 3 * S
    assert not limiter.may_send("1", S - 1)
    assert limiter.may_send("1", S)


def test_limiter_ends_each_reservation_exactly_once() -> None:
    """A second settle or release, or one of an unknown id, changes nothing; an id cannot be open twice."""
    limiter = Limiter(LimitSpec(rpm=6, tpm=100, concurrency=2), 0)
    _admit(limiter, "a", _call(1), 0)
    with pytest.raises(ValueError, match="already open"):
        limiter.reserve("a", _call(1), 0)
    assert limiter.release("a", 1)
    once = limiter.load(1)
    assert not limiter.release("a", 1)
    assert not limiter.settle("a", _call(90), 1)
    assert not limiter.settle("never", _call(90), 1)
    assert limiter.load(1) == once
    assert once.in_flight == 0


def test_limiter_release_gives_everything_back_at_once() -> None:
    """What was never sent was never used."""
    limiter = Limiter(LimitSpec(rpm=1, tpm=500, rpd=1), 0)
    _admit(limiter, "a", _call(300, 200), 0)
    assert limiter.release("a", 5)
    assert _admit(limiter, "b", _call(300, 200), 5) == 5


def test_limiter_counts_use_above_the_reservation_as_debt() -> None:
    """An estimate that was too low is charged when it is known."""
    limiter = Limiter(LimitSpec(tpm=60, burst_ms=10_000, charge="used"), 0)
    _admit(limiter, "a", _call(5), 0)
    limiter.settle("a", _call(15), 0)
    assert limiter.earliest_start_ns(_call(1), 0) == 6 * S


def test_limiter_lease_settles_in_parts_and_returns_the_rest() -> None:
    """Three permits and 300 tokens: one used with 50, the rest comes back."""
    limiter = Limiter(LimitSpec(rpm=60, tpm=6_000, burst_ms=3_000, concurrency=3), 0)
    _admit(limiter, "lease", Charge(requests=3, input_tokens=150, output_tokens_max=150), 0)
    assert _refuse(limiter, _call(), 0).binding == "concurrency"
    assert limiter.settle("lease", _call(20, 30), 0, final=False)
    assert limiter.in_flight == 2
    assert limiter.release("lease", 0)
    levels = {limit.name: limit.level for limit in limiter.load(0).limits}
    assert levels == {"rpm": 2, "tpm": 250, "concurrency": 3}


def test_limiter_refund_never_hoards_credit_of_a_full_bucket() -> None:
    """A refund that comes after the bucket was full again gives nothing: the credit would have overflowed."""
    limiter = Limiter(LimitSpec(tpm=6_000, burst_ms=1_000, charge="used"), 0)
    _admit(limiter, "slow", _call(0, 50), 0)
    _admit(limiter, "full", _call(0, 100), S)
    limiter.settle("slow", _call(0, 0), S)
    assert limiter.earliest_start_ns(_call(0, 50), S) == S + S // 2


def test_limiter_counts_a_day_until_the_caller_starts_the_next() -> None:
    """Requests a day: refused until the reset, in flight ones count for both days, an earlier day is ignored."""
    limiter = Limiter(LimitSpec(rpd=2), 0)
    limiter.start_day(7, ends_ns=100 * S)
    _admit(limiter, "a", _call(), 0)
    _admit(limiter, "b", _call(), 0)
    limiter.settle("a", _call(), S)
    refused = _refuse(limiter, _call(), S)
    assert (refused.binding, refused.retry_at_ns) == ("rpd", 100 * S)
    limiter.start_day(6)
    assert _refuse(limiter, _call(), 2 * S).binding == "rpd"
    limiter.start_day(8)
    _admit(limiter, "c", _call(), 100 * S)
    assert _refuse(limiter, _call(), 100 * S).binding == "rpd"


def test_limiter_time_that_goes_back_gives_no_credit() -> None:
    """An earlier now counts as the latest one seen."""
    limiter = Limiter(LimitSpec(rpm=60), 100 * S)
    _admit(limiter, "a", _call(), 100 * S)
    assert _refuse(limiter, _call(), 1).retry_at_ns == 101 * S


@pytest.mark.parametrize("window", ["bucket", "sliding"])
def test_limiter_continues_saved_state_with_the_elapsed_wall_time(window: str) -> None:
    """Saved, restarted 10 s later on another monotonic clock: ten seconds of credit, or of the window, and no more."""
    spec = LimitSpec(rpm=60, rpd=100, burst_ms=20_000, window="sliding" if window == "sliding" else "bucket")
    limiter = Limiter(spec, 0)
    allowed = 20 if window == "bucket" else 60
    for number in range(allowed):
        _admit(limiter, str(number), _call(), 0)
        limiter.settle(str(number), _call(), 0)
    limiter.cooldown_until(15 * S)
    state = limiter.snapshot(0, 1_000 * S)
    assert LimiterState.from_dict(json.loads(json.dumps(state.to_dict()))) == state

    later = Limiter.restore(spec, state, lost=False, now_ns=5 * S, wall_ns=1_010 * S)
    assert later.cooldown_until_ns == 10 * S
    level = {limit.name: limit.level for limit in later.load(5 * S).limits}
    assert level == {"rpm": 10 if window == "bucket" else 0, "rpd": 100 - allowed}
    back = Limiter.restore(spec, state, lost=False, now_ns=5 * S, wall_ns=900 * S)
    assert {limit.name: limit.level for limit in back.load(5 * S).limits}["rpm"] == 0


@pytest.mark.parametrize("window", ["bucket", "sliding"])
def test_limiter_starts_full_without_state_and_empty_where_it_was_lost(window: str) -> None:
    """The configuration contract's three starts."""
    spec = LimitSpec(rpm=60, tpm=6_000, burst_ms=5_000, window="sliding" if window == "sliding" else "bucket")
    new = Limiter.restore(spec, None, lost=False, now_ns=0, wall_ns=0)
    assert new.earliest_start_ns(_call(100), 0) == 0
    lost = Limiter.restore(spec, None, lost=True, now_ns=0, wall_ns=0)
    assert lost.earliest_start_ns(_call(100), 0) == (S if window == "bucket" else MINUTE_NS)


def test_limiter_lost_state_owes_the_largest_debt_it_knew() -> None:
    """A call far above the bucket may have been sent just before the crash."""
    spec = LimitSpec(tpm=6_000, rpm=60, rpd=1_000, burst_ms=1_000)
    limiter = Limiter(spec, 0)
    limiter.start_day(3)
    _admit(limiter, "big", _call(700), 0)
    state = limiter.snapshot(0, 0)
    lost = Limiter.restore(spec, state, lost=True, now_ns=0, wall_ns=30 * S)
    assert lost.earliest_start_ns(_call(100), 0) == 7 * S
    used = {limit.name: limit.used for limit in lost.load(0).limits}
    assert used["rpd"] == 1 + 30 + 1 + 1


def test_limiter_change_of_limits_keeps_what_was_used() -> None:
    """Debt stays, a raised burst gives no credit, a new limit starts empty, a removed one is gone."""
    limiter = Limiter(LimitSpec(tpm=6_000), 0)
    _admit(limiter, "big", _call(700), 0)
    limiter.change_limits(LimitSpec(tpm=12_000, rpm=60, burst_ms=2_000), 0)
    levels = {limit.name: limit.level for limit in limiter.load(0).limits}
    assert levels == {"tpm": -600, "rpm": 0}
    limiter.change_limits(LimitSpec(concurrency=1), 0)
    assert _refuse(limiter, _call(), 0).binding == "concurrency"
    assert limiter.settle("big", _call(700), 1)
    _admit(limiter, "next", _call(10**9), 1)


def test_limiter_new_window_counts_calls_under_way_until_a_minute_after_their_answer() -> None:
    """From bucket to sliding: nothing is forgotten that the provider may still count."""
    limiter = Limiter(LimitSpec(rpm=60), 0)
    _admit(limiter, "a", _call(), 0)
    limiter.change_limits(LimitSpec(rpm=60, window="sliding"), 0)
    assert {limit.used for limit in limiter.load(0).limits} == {60}
    limiter.settle("a", _call(), 30 * S)
    assert {limit.used for limit in limiter.load(70 * S).limits} == {1}


@pytest.mark.parametrize("field", ["rpm", "tpm", "itpm", "otpm", "rpd", "concurrency"])
def test_limit_spec_refuses_limits_that_are_not_positive(field: str) -> None:
    """Zero would stop an account in silence; null means unlimited."""
    with pytest.raises(ValueError, match=field):
        replace(LimitSpec(), **{field: 0})  # type: ignore[arg-type]  # the field's name is a parameter


def test_charge_counts_tokens_in_the_limits_they_belong_to() -> None:
    """Input counts for tpm and itpm, output for tpm and otpm."""
    charge = Charge(requests=2, input_tokens=30, output_tokens_max=5)
    assert [charge.of(name) for name in RATE_NAMES] == [2, 35, 30, 5]
    with pytest.raises(ValueError, match="negative"):
        Charge(input_tokens=-1)
