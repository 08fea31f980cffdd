"""A call that died with its account's actor, while its conductor lives, is treated as a next life would treat it."""

from __future__ import annotations

import pytest

from app.domain.accounts import EndpointClass, OnUnknown
from app.domain.books.entries import Hold, Settle
from app.domain.errors import CallLostError, InternalError, UpstreamKind
from app.domain.run import CallState
from app.services import run_caller
from app.services.run_caller import RunCaller
from tests.unit.app.services.test_run_caller import USED, Inner, Records, a_call, a_caller, failure

LOST = CallLostError("its actor went away", kind=UpstreamKind.CONNECTION, account="one", billed=None)


async def a_life(inner: Inner, endpoint: EndpointClass, on_unknown: OnUnknown = "retry") -> tuple[RunCaller, Records]:
    records = Records()
    caller = a_caller(inner, records=records, endpoint=endpoint)
    await caller.recover(lambda call: on_unknown, lambda call: None)
    return caller, records


@pytest.mark.parametrize("endpoint", [EndpointClass.IDEMPOTENT, EndpointClass.LOOKUP])
@pytest.mark.parametrize("on_unknown", ["retry", "hold"])
async def test_it_is_sent_again_under_its_key_where_that_is_billed_once(
    endpoint: EndpointClass, on_unknown: OnUnknown
) -> None:
    """One key, one hold, one entry: the answer settles what was held for the first sending."""
    inner = Inner(LOST, USED)
    caller, records = await a_life(inner, endpoint, on_unknown)

    answer = await caller.call(a_call())

    assert answer.result.text == "ok"
    assert [call.request.call_key for call in inner.calls] == ["r/t1/task/1", "r/t1/task/1"]
    assert records.states == [("r/t1/task/1", CallState.SENT), ("r/t1/task/1", CallState.DONE)]
    assert [type(command) for command in records.commands] == [Hold, Settle]
    assert len(caller.spans) == 1


async def test_it_is_bought_anew_where_nobody_can_be_asked_and_that_may_be() -> None:
    """What was lost is booked as all it may have cost."""
    inner = Inner(LOST, USED)
    caller, records = await a_life(inner, EndpointClass.OPAQUE)

    await caller.call(a_call())

    assert [call.call_id for call in inner.calls] == ["r/t1/task/1", "r/t1/task/1/try2"]
    assert ("r/t1/task/1", CallState.UNKNOWN) in records.states
    assert not caller.waits_for_a_person


async def test_it_waits_for_a_person_where_the_policy_says_so() -> None:
    """Nothing is bought, and what was held stays held."""
    inner = Inner(LOST, USED)
    caller, records = await a_life(inner, EndpointClass.OPAQUE, "hold")

    with pytest.raises(InternalError):
        await caller.call(a_call())

    assert len(inner.calls) == 1
    assert caller.waits_for_a_person
    assert records.states[-1] == ("r/t1/task/1", CallState.HELD)
    assert [type(command) for command in records.commands] == [Hold]


async def test_it_is_not_bought_under_another_key_where_the_second_sending_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A refusal of the second sending says nothing of the first."""
    monkeypatch.setattr(run_caller, "RESEND_PAUSES_S", (0.0, 0.0))
    inner = Inner(LOST, failure(UpstreamKind.MINUTE_LIMIT, billed=False))
    caller, records = await a_life(inner, EndpointClass.IDEMPOTENT)

    with pytest.raises(InternalError):
        await caller.call(a_call())

    assert {call.call_id for call in inner.calls} == {"r/t1/task/1"}
    assert records.states[-1] == ("r/t1/task/1", CallState.UNKNOWN)
