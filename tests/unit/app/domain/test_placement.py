"""Placement takes the earliest estimated finish, reserves virtually, and says why nobody can serve."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.domain.load import BucketLevel, LoadRow
from app.domain.outlook import expected_finish_s
from app.domain.placement import LATE_CALLS_TOLD, NEVER_S, RESERVED_CALLS_MAX, Board, Choice, ReadyCall, Wait, place
from app.domain.prospect import Prospect


def a_row(account: str = "a", **changes: object) -> LoadRow:
    row = LoadRow(
        account=account,
        model="m",
        scope=f"account:{account}",
        state="healthy",
        in_flight=0,
        concurrency=None,
        buckets=(),
        cooldown_s=0.0,
        call_s=1.0,
        call_output_tokens=100.0,
        error_rate=0.0,
        context_tokens=1_000,
        observed_at_s=0.0,
    )
    return replace(row, **changes)  # type: ignore[arg-type]  # field names are checked by replace


def a_call(name: str = "c", **changes: object) -> ReadyCall:
    call = ReadyCall(call_id=name, models=("m",), input_tokens=100, output_tokens_max=100)
    return replace(call, **changes)  # type: ignore[arg-type]


def accounts(decisions: list[Choice | Wait]) -> list[str]:
    return [decision.account for decision in decisions if isinstance(decision, Choice)]


def test_calls_spread_over_equal_accounts() -> None:
    """Each virtual reservation makes the account look busier to the next call."""
    rows = [a_row("a", concurrency=2), a_row("b", concurrency=2)]

    assert sorted(accounts(place([a_call(str(i)) for i in range(4)], rows, 0.0))) == ["a", "a", "b", "b"]


def test_the_faster_account_wins_until_it_is_full() -> None:
    """Earliest finish, not fewest calls: a fast account may queue and still be first."""
    rows = [a_row("slow", call_s=10.0, concurrency=4), a_row("fast", call_s=1.0, concurrency=1)]

    placed = place([a_call(str(i)) for i in range(3)], rows, 0.0)

    assert accounts(placed) == ["fast", "fast", "fast"]
    assert [round(item.start_in_s, 3) for item in placed] == [0.0, 1.0, 2.0]


def test_buckets_of_a_quota_group_are_shared_between_its_accounts() -> None:
    """Two keys of one organisation have one limit: the second call waits whichever key it takes."""
    bucket = BucketLevel(kind="requests", level=1.0, capacity=1.0, rate_per_s=0.5)
    rows = [a_row("a", scope="group:g", buckets=(bucket,)), a_row("b", scope="group:g", buckets=(bucket,))]

    placed = place([a_call("1"), a_call("2")], rows, 0.0)

    assert [round(item.start_in_s, 3) for item in placed] == [0.0, 2.0]


def test_a_bucket_refills_since_it_was_observed() -> None:
    """A dated row is advanced to now, never beyond its capacity."""
    bucket = BucketLevel(kind="tokens", level=0.0, capacity=400.0, rate_per_s=100.0)
    (fresh,) = place([a_call()], [a_row(buckets=(bucket,))], 0.0)
    (later,) = place([a_call()], [a_row(buckets=(bucket,))], 60.0)

    assert (fresh.start_in_s, later.start_in_s) == (2.0, 0.0)


def test_a_failed_account_is_avoided_unless_nobody_else_can() -> None:
    """The same work goes elsewhere first, and comes back only where there is no elsewhere."""
    call = a_call(avoid_accounts=("a",))

    assert accounts(place([call], [a_row("a", call_s=0.1), a_row("b", call_s=9.0)], 0.0)) == ["b"]
    assert accounts(place([call], [a_row("a")], 0.0)) == ["a"]


def test_a_later_model_is_taken_only_when_the_first_cannot_start_soon() -> None:
    """Fallback is for trouble, not for speed."""
    call = a_call(models=("best", "spare"))
    rows = [a_row("a", model="best", call_s=9.0), a_row("b", model="spare", call_s=0.1)]
    cooling = [replace(rows[0], state="cooling_minute", cooldown_s=60.0), rows[1]]

    assert accounts(place([call], rows, 0.0)) == ["a"]
    assert accounts(place([call], cooling, 0.0)) == ["b"]


def test_an_account_whose_day_is_spent_attracts_nobody() -> None:
    """Its minute's bucket is full, and still nothing may start there until tomorrow."""
    spent = replace(a_row("a", call_s=0.1), closed_s=3_600.0)

    assert accounts(place([a_call()], [spent, a_row("b", call_s=9.0)], 0.0)) == ["b"]
    (tomorrow,) = place([a_call()], [spent], 0.0)
    assert tomorrow.start_in_s == 3_600.0


def test_an_account_that_nobody_has_tried_is_tried() -> None:
    """A guess of a second must not keep work from an idle account while a quick one is full."""
    busy = replace(a_row("a", call_s=0.1), in_flight=2, concurrency=2)
    untried = replace(a_row("b", call_s=1.0), measured=False)

    assert accounts(place([a_call()], [busy, untried], 0.0)) == ["b"]


def test_nobody_can_serve_says_why() -> None:
    """A run that waits for ever must know the reason: no account, dead keys, or a request that is too large."""
    (none,) = place([a_call()], [], 0.0)
    (dead,) = place([a_call()], [a_row(state="dead")], 0.0)
    (large,) = place([a_call(input_tokens=5_000)], [a_row()], 0.0)

    assert [item.start_in_s for item in (none, dead, large)] == [NEVER_S] * 3
    reasons = [item.reason for item in (none, dead, large) if isinstance(item, Wait)]
    assert reasons[0] == "no account serves m"
    assert "refused by their provider" in reasons[1]
    assert "larger than the context" in reasons[2]


def test_only_the_most_urgent_calls_are_foreseen() -> None:
    """The cost of an event is bounded, however many calls wait."""
    placed = place([a_call(str(i)) for i in range(RESERVED_CALLS_MAX + 10)], [a_row()], 0.0)

    assert len(accounts(placed)) == RESERVED_CALLS_MAX
    assert all(isinstance(item, Wait) for item in placed[RESERVED_CALLS_MAX:])


def test_calls_that_nobody_can_start_soon_cost_little() -> None:
    """Thousands may wait behind full accounts: only the first few are worth a look, unless one of them fits."""
    rows = [a_row(concurrency=1, call_s=5.0)]

    placed = place([a_call(str(i)) for i in range(400)], rows, 0.0, horizon_s=0.5)

    assert isinstance(placed[0], Choice)
    assert len(accounts(placed)) == 1 + LATE_CALLS_TOLD
    assert {item.start_in_s for item in placed[1 + LATE_CALLS_TOLD :]} == {0.5}


def test_a_call_goes_nowhere_but_to_its_pairs() -> None:
    """An account may be allowed for one model of a call and not for another that it serves as well."""
    rows = [a_row("a", model="best"), a_row("b", model="best", call_s=9.0), a_row("b", model="spare")]
    call = a_call(models=("best", "spare"), only=frozenset({("b", "best"), ("a", "spare")}))

    (placed,) = place([call], rows, 0.0)

    assert isinstance(placed, Choice)
    assert (placed.account, placed.model) == ("b", "best")


def test_what_an_account_is_short_of_is_left_to_calls_that_need_little_of_it() -> None:
    """Small calls go where tokens are scarce, large ones where requests are, whoever could start them first."""
    requests = BucketLevel(kind="requests", level=2.0, capacity=10.0, rate_per_s=1.0)
    tokens = BucketLevel(kind="tokens", level=2_000.0, capacity=10_000.0, rate_per_s=1_000.0)
    few_requests = a_row("a", buckets=(requests, replace(tokens, level=10_000.0)))
    few_tokens = a_row("b", buckets=(replace(requests, level=10.0), tokens))
    small, large = a_call(), a_call(input_tokens=900, output_tokens_max=900)

    for calls in ([small, large], [large, small]):
        placed = dict(zip(calls, accounts(place(calls, [few_requests, few_tokens], 0.0)), strict=True))
        assert placed == {small: "b", large: "a"}


def test_looking_ends_when_nobody_could_start_anything() -> None:
    """A wish under way counts as if it were granted."""
    tokens = BucketLevel(kind="tokens", level=300.0, capacity=300.0, rate_per_s=100.0)
    board = Board([a_row(buckets=(tokens,))], 0.0, horizon_s=0.5)

    full_before = board.is_full
    board.note(a_call(), "a", "m")
    assert not full_before
    assert board.place(a_call()).start_in_s == 1.0
    assert board.is_full
    assert board.is_shut(a_call())
    assert board.serves(a_call())
    assert not board.serves(a_call(input_tokens=5_000))


def test_account_that_had_the_long_answers_is_not_taken_for_slow() -> None:
    """Speed decides, not how long whole calls took: the quicker one had ten times the output."""
    slow = a_row("slow", call_s=1.5, ttft_s=0.5, tokens_per_s=50.0, output_tokens=50.0)
    quick = a_row("quick", call_s=5.5, ttft_s=0.5, tokens_per_s=100.0, output_tokens=500.0)

    (choice,) = place([a_call()], [slow, quick], 0.0)

    assert isinstance(choice, Choice)
    assert choice.account == "quick"
    assert choice.finish_in_s == pytest.approx(
        expected_finish_s(quick, 100, 100, prospect=Prospect([slow, quick], 100))
    )
