"""What becomes of a call whose conductor died: the whole table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.domain.accounts import EndpointClass, OnUnknown
from app.domain.recovery import LOST_MAX, TO_BE_PLACED, Decision, RecoveryPolicy, Ruling, recover
from app.domain.run import CallRecord, CallState

ENDED = (CallState.DONE, CallState.FAILED, CallState.UNKNOWN, CallState.CANCELLED)


def a_call(state: CallState) -> CallRecord:
    return CallRecord(key="r/t1/task/1", run_id="r", task_id="t1", purpose="task", attempt=1, state=state)


@pytest.mark.parametrize("endpoint", EndpointClass)
@pytest.mark.parametrize("on_unknown", ["retry", "hold"])
def test_only_what_was_on_its_way_is_touched(endpoint: EndpointClass, on_unknown: OnUnknown) -> None:
    """An answer that was journaled is never bought again, and what certainly never left is simply sent."""
    policy = RecoveryPolicy(on_unknown=on_unknown)

    assert {recover(a_call(state), endpoint, policy) for state in ENDED} == {Decision.KEEP}
    assert recover(a_call(CallState.INTENT), endpoint, policy) is Decision.SEND


@pytest.mark.parametrize(
    ("endpoint", "on_unknown", "decision"),
    [
        (EndpointClass.OPAQUE, "retry", Decision.RETRY),
        (EndpointClass.OPAQUE, "hold", Decision.ASK),
        (EndpointClass.LOOKUP, "retry", Decision.LOOK_UP),
        (EndpointClass.LOOKUP, "hold", Decision.LOOK_UP),
        (EndpointClass.REATTACH, "retry", Decision.RETRY),
        (EndpointClass.REATTACH, "hold", Decision.ASK),
        (EndpointClass.BATCH, "retry", Decision.SEND),
        (EndpointClass.BATCH, "hold", Decision.SEND),
        (EndpointClass.IDEMPOTENT, "retry", Decision.RESEND),
        (EndpointClass.IDEMPOTENT, "hold", Decision.RESEND),
    ],
)
def test_a_call_on_its_way_goes_by_what_its_endpoint_offers(
    endpoint: EndpointClass, on_unknown: OnUnknown, decision: Decision
) -> None:
    """Only where nobody can find out does the policy decide."""
    assert recover(a_call(CallState.SENT), endpoint, RecoveryPolicy(on_unknown=on_unknown)) is decision


@pytest.mark.parametrize("endpoint", [EndpointClass.REATTACH, EndpointClass.BATCH])
@pytest.mark.parametrize("on_unknown", ["retry", "hold"])
def test_a_call_with_a_name_at_its_provider_is_fetched_by_that(endpoint: EndpointClass, on_unknown: OnUnknown) -> None:
    """And only where the endpoint keeps answers: elsewhere the name says nothing."""
    call, policy = replace(a_call(CallState.SENT), provider_id="resp_1"), RecoveryPolicy(on_unknown=on_unknown)

    assert recover(call, endpoint, policy) is Decision.REATTACH
    assert recover(call, EndpointClass.OPAQUE, policy) in (Decision.RETRY, Decision.ASK)


@pytest.mark.parametrize("endpoint", EndpointClass)
@pytest.mark.parametrize("on_unknown", ["retry", "hold"])
def test_a_call_that_kills_its_conductor_is_given_up(endpoint: EndpointClass, on_unknown: OnUnknown) -> None:
    """A poisonous input must not be bought for ever."""
    policies = [RecoveryPolicy(on_unknown=on_unknown, lost_before=times) for times in range(LOST_MAX + 1)]
    decisions = [recover(a_call(CallState.SENT), endpoint, policy) for policy in policies]

    assert [decision is Decision.GIVE_UP for decision in decisions] == [False] * LOST_MAX + [True]


@pytest.mark.parametrize(
    ("ruling", "decision"),
    [(None, Decision.ASK), ("buy_again", Decision.RETRY), ("give_up", Decision.GIVE_UP)],
)
def test_a_held_call_waits_for_its_ruling(ruling: Ruling | None, decision: Decision) -> None:
    """Whoever asked for at most one bill gets no second one unasked."""
    assert recover(a_call(CallState.HELD), EndpointClass.OPAQUE, RecoveryPolicy(ruling=ruling)) is decision


@pytest.mark.parametrize("on_unknown", ["retry", "hold"])
@pytest.mark.parametrize("endpoint", EndpointClass)
def test_a_call_that_was_to_be_placed_first_certainly_never_left(
    endpoint: EndpointClass, on_unknown: OnUnknown
) -> None:
    """No account is written down, so nobody is asked whether to buy it."""
    call = replace(a_call(CallState.SENT), account=TO_BE_PLACED)

    assert recover(call, endpoint, RecoveryPolicy(on_unknown=on_unknown)) is Decision.SEND
