"""A failed try goes elsewhere at once, to the same account after a pause, or to the client; never twice for nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.errors import (
    CallLostError,
    CapacityError,
    DeadlineError,
    GatewayError,
    NotFoundError,
    UpstreamError,
    UpstreamKind,
)
from app.domain.retries import (
    ATTEMPTS_MAX,
    BASE_S,
    CAP_S,
    FREE_REFUSALS,
    Elsewhere,
    GiveUp,
    RetryBudget,
    SameAccountAfter,
    Step,
    Tries,
    full_jitter,
    next_step,
)

S = 1_000_000_000
NEVER = {UpstreamKind.INVALID_REQUEST, UpstreamKind.REFUSED}
ONCE_PER_ACCOUNT = {UpstreamKind.DEAD_KEY, UpstreamKind.MODEL_MISSING, UpstreamKind.DAY_LIMIT, UpstreamKind.TOO_LONG}


def failed(kind: UpstreamKind, retry_after_s: float | None = None) -> UpstreamError:
    return UpstreamError("it failed", kind=kind, account="a", retry_after_s=retry_after_s)


def after(
    error: GatewayError,
    *,
    able: tuple[str, ...] = ("a", "b"),
    attempts: int = 1,
    left_s: float = 60.0,
    begun: bool = False,
    budget: RetryBudget | None = None,
) -> Step:
    tries = Tries(attempts=attempts, tried_accounts=("a",), able_accounts=able, left_s=left_s, answer_begun=begun)
    return next_step(error, tries, budget or RetryBudget(0.0, 100), 5 * S, 0.5)


@pytest.mark.parametrize("kind", UpstreamKind)
def test_failed_try_goes_to_another_account_where_that_can_help(kind: UpstreamKind) -> None:
    """Moving to another account needs no pause; what no provider would accept is not sent to the next one."""
    step = after(failed(kind))

    assert isinstance(step, GiveUp if kind in NEVER else Elsewhere)


@pytest.mark.parametrize("kind", UpstreamKind)
def test_failed_try_pauses_only_where_the_same_account_may_recover(kind: UpstreamKind) -> None:
    """With nobody else, trouble is waited out; a dead key, a spent day or a missing model is not."""
    step = after(failed(kind), able=("a",))

    assert isinstance(step, GiveUp if kind in NEVER | ONCE_PER_ACCOUNT else SameAccountAfter)


def test_elsewhere_says_what_to_avoid() -> None:
    """529 means the provider, too long means the model, a limit means this account alone."""
    assert after(failed(UpstreamKind.OVERLOADED)) == Elsewhere(avoid="provider")
    assert after(failed(UpstreamKind.TOO_LONG)) == Elsewhere(avoid="model")
    assert after(failed(UpstreamKind.MINUTE_LIMIT)) == Elsewhere(avoid="account")


@pytest.mark.parametrize(
    "error",
    [NotFoundError("no such model"), CapacityError("full", retry_after_s=1.0), DeadlineError("late")],
    ids=["request", "capacity", "deadline"],
)
def test_only_failures_of_providers_are_tried_again(error: GatewayError) -> None:
    """Our own refusals were decided with all accounts in view."""
    assert isinstance(after(error), GiveUp)


@pytest.mark.parametrize("able", [("a", "b"), ("a",)])
def test_nothing_is_tried_again_after_the_first_byte(able: tuple[str, ...]) -> None:
    """The client would see the answer begin twice."""
    assert isinstance(after(failed(UpstreamKind.CUT), able=able, begun=True), GiveUp)


@pytest.mark.parametrize("kind", sorted(set(UpstreamKind) - NEVER))
def test_tries_end_with_the_attempts_and_the_deadline(kind: UpstreamKind) -> None:
    """One attempt budget and one deadline for a client's request, free refusals included."""
    assert isinstance(after(failed(kind), attempts=ATTEMPTS_MAX), GiveUp)
    assert not isinstance(after(failed(kind), attempts=ATTEMPTS_MAX - 1), GiveUp)
    assert isinstance(after(failed(kind), left_s=0.0), GiveUp)


def test_pause_is_the_providers_word_and_some_jitter() -> None:
    """A shorter pause would be refused again, an equal one for all would come as a wave."""
    assert after(failed(UpstreamKind.MINUTE_LIMIT, 7.0), able=("a",)) == SameAccountAfter(pause_s=7.0 + BASE_S / 2)
    assert after(failed(UpstreamKind.OVERLOADED), able=("a",), attempts=3) == SameAccountAfter(pause_s=BASE_S * 2)


def test_pause_that_outlasts_the_deadline_is_not_begun() -> None:
    """The client learns at once what it would learn later."""
    budget = RetryBudget(0.0, 1)
    step = after(failed(UpstreamKind.MINUTE_LIMIT, 70.0), able=("a",), budget=budget)

    assert isinstance(step, GiveUp)
    assert budget.left(5 * S) == 1


def test_account_that_cannot_serve_in_time_is_not_waited_for() -> None:
    """An account that cools for longer than the request may wait is not among the able."""
    assert isinstance(after(failed(UpstreamKind.MINUTE_LIMIT), able=()), GiveUp)


@pytest.mark.parametrize("kind", sorted(set(UpstreamKind) - NEVER))
def test_budget_is_drawn_on_by_what_may_cost_again(kind: UpstreamKind) -> None:
    """A refusal for a limit costs nothing and ends by itself; trouble everywhere must not multiply the load."""
    budget = RetryBudget(0.0, 1)
    after(failed(kind), budget=budget)
    free = kind in FREE_REFUSALS or kind is UpstreamKind.TOO_LONG

    assert budget.left(5 * S) == (1 if free else 0)
    assert isinstance(after(failed(kind), budget=budget), Elsewhere if free else GiveUp)
    assert budget.refused == (0 if free else 1)


def test_pause_for_a_limit_draws_on_the_budget() -> None:
    """While all accounts are limited, the same requests may not come back again and again."""
    budget = RetryBudget(0.0, 1)

    assert isinstance(after(failed(UpstreamKind.MINUTE_LIMIT), able=("a",), budget=budget), SameAccountAfter)
    assert isinstance(after(failed(UpstreamKind.MINUTE_LIMIT), able=("a",), budget=budget), GiveUp)


def test_call_lost_with_our_own_actor_is_free() -> None:
    """Our failure must not eat the budget for the providers'."""
    budget = RetryBudget(0.0, 0)
    lost = CallLostError("gone", kind=UpstreamKind.CONNECTION, account="a", billed=None)

    assert after(lost, budget=budget) == Elsewhere()


@given(st.integers(1, 5_000), st.floats(0.001, 10.0), st.floats(0.001, 100.0), st.floats(0, 1, exclude_max=True))
def test_full_jitter_stays_below_its_ceiling(attempt: int, base_s: float, cap_s: float, random: float) -> None:
    """Any number of failures gives a pause, never an overflow."""
    pause_s = full_jitter(attempt, base_s, cap_s, random)

    assert 0.0 <= pause_s <= cap_s
    assert pause_s <= base_s * 2.0 ** min(attempt - 1, 1_000)


def test_full_jitter_doubles_until_the_cap() -> None:
    """The ceilings are those of the source."""
    assert [full_jitter(attempt, BASE_S, CAP_S, 1.0) for attempt in range(1, 7)] == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]
    assert full_jitter(3, BASE_S, CAP_S, 0.25) == 0.5


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5 * S), st.booleans()), max_size=300),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    st.integers(0, 5),
    st.integers(0, 10_000 * S),
)
def test_budget_holds_in_the_minute_before_every_retry(
    events: list[tuple[int, bool]], ratio: float, floor: int, now_ns: int
) -> None:
    """Retries can never be more than the floor and the ratio allow, whenever the calls came."""
    budget = RetryBudget(ratio, floor)
    calls: list[int] = []
    retries: list[int] = []
    for pause_ns, is_call in events:
        now_ns += pause_ns
        if is_call:
            budget.on_call(now_ns)
            calls.append(now_ns)
        elif budget.take(now_ns):
            retries.append(now_ns)
            recent_calls = sum(at_ns > now_ns - 60 * S for at_ns in calls)
            recent_retries = sum(at_ns > now_ns - 60 * S for at_ns in retries)

            assert recent_retries <= floor + ratio * recent_calls
        else:
            # Nothing is withheld for longer than the second by which the counts are rounded.
            certain_calls = sum(at_ns > now_ns - 59 * S for at_ns in calls)
            possible_retries = sum(at_ns > now_ns - 61 * S for at_ns in retries)

            assert possible_retries + 1 > floor + int(ratio * certain_calls)


def test_budget_is_full_again_after_a_minute() -> None:
    """A storm that is over leaves no trace."""
    budget = RetryBudget(0.5, 2)
    for _ in range(10):
        budget.on_call(0)
    taken = [budget.take(S) for _ in range(9)]

    assert taken == [True] * 7 + [False] * 2
    assert budget.left(61 * S) == 0
    assert budget.left(62 * S) == 2
    assert budget.left(10**9 * S) == 2


@pytest.mark.parametrize(("ratio", "floor"), [(-0.1, 1), (0.1, -1)])
def test_budget_refuses_negative_numbers(ratio: float, floor: int) -> None:
    """A budget below nothing is a mistake in the configuration."""
    with pytest.raises(ValueError):
        RetryBudget(ratio, floor)
