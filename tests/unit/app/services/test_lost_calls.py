"""A call that a dead conductor left is sent again under its key where its endpoint can be asked for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.domain.accounts import EndpointClass, OnUnknown
from app.domain.books.entries import Expire, Settle
from app.domain.errors import InternalError, NoAnswerError, UpstreamError, UpstreamKind
from app.domain.recovery import LOST_MAX, TO_BE_PLACED
from app.domain.run import CallRecord, CallState
from app.services import run_caller
from app.services.run_caller import RunCaller
from tests.unit.app.services.test_run_caller import USED, Inner, Records, a_call, a_caller, failure


async def lost_call(endpoint: EndpointClass, *, placed: bool = True) -> CallRecord:
    """Return the row that a life leaves which dies while the call is on its way."""
    records = Records()
    await a_caller(Inner(USED), records=records, endpoint=endpoint).call(a_call())
    return replace(records.rows[0], account="one", model="m") if placed else records.rows[0]


async def next_life(
    lost: CallRecord,
    inner: Inner,
    endpoint: EndpointClass = EndpointClass.IDEMPOTENT,
    on_unknown: OnUnknown = "hold",
) -> tuple[RunCaller, Records]:
    records = Records()
    caller = a_caller(inner, records=records, endpoint=endpoint)
    caller.remember([lost])
    await caller.recover(lambda call: on_unknown, lambda call: None)
    return caller, records


@pytest.mark.parametrize("endpoint", [EndpointClass.IDEMPOTENT, EndpointClass.LOOKUP])
async def test_a_lost_call_goes_to_the_same_account_under_its_key_where_that_is_billed_once(
    endpoint: EndpointClass,
) -> None:
    """No second hold, no second row; its answer ends what was unknown."""
    inner = Inner(USED)
    caller, records = await next_life(await lost_call(endpoint), inner, endpoint)

    await caller.call(a_call())

    (sent,) = inner.calls
    assert (sent.call_id, sent.account, sent.models) == ("r/t1/task/1", "one", ("m",))
    assert sent.request.call_key == "r/t1/task/1"
    assert sent.request.lost_at_s is not None
    assert records.states == [("r/t1/task/1", CallState.SENT), ("r/t1/task/1", CallState.DONE)]
    expired, settled = records.commands
    assert isinstance(expired, Expire)
    assert isinstance(settled, Settle)
    assert settled.hold_id == "r/t1/task/1"


async def test_a_call_that_was_never_placed_may_go_anywhere_and_is_not_looked_for() -> None:
    """Its account is written down before it leaves: while there is none, nothing was bought."""
    lost = await lost_call(EndpointClass.LOOKUP, placed=False)
    inner = Inner(USED)
    caller, _records = await next_life(lost, inner, EndpointClass.LOOKUP)

    await caller.call(a_call())

    assert lost.account == TO_BE_PLACED
    assert [(call.call_id, call.account, call.request.lost_at_s) for call in inner.calls] == [("r/t1/task/1", "", None)]
    assert (await lost_call(EndpointClass.OPAQUE, placed=False)).account is None


async def test_a_refusal_of_the_second_sending_says_nothing_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first may have been billed: the hold stays unknown, and nothing is bought under another key."""
    monkeypatch.setattr(run_caller, "RESEND_PAUSES_S", (0.0, 0.0))
    inner = Inner(failure(UpstreamKind.MINUTE_LIMIT, billed=False))
    caller, records = await next_life(await lost_call(EndpointClass.IDEMPOTENT), inner)

    with pytest.raises(UpstreamError):
        await caller.call(a_call())

    assert {call.call_id for call in inner.calls} == {"r/t1/task/1"}
    assert len(inner.calls) == 3
    assert records.states[-1] == ("r/t1/task/1", CallState.UNKNOWN)
    assert [type(command) for command in records.commands] == [Expire]


async def test_a_lost_call_that_would_ask_something_else_is_not_sent_under_the_old_key() -> None:
    """The provider would refuse it, or answer the old question."""
    inner = Inner(USED)
    caller, records = await next_life(await lost_call(EndpointClass.IDEMPOTENT), inner)
    call = a_call()

    await caller.call(replace(call, request=replace(call.request, output_tokens_max=50)))

    assert [call.call_id for call in inner.calls] == ["r/t1/task/1/life2"]
    assert ("r/t1/task/1", CallState.UNKNOWN) in records.states


async def named_call() -> CallRecord:
    """Return the row of a call that its provider makes without us."""
    return replace(await lost_call(EndpointClass.REATTACH), provider_id="resp_1")


async def test_a_call_that_its_provider_named_is_fetched_by_that_name() -> None:
    """Nothing is sent: the answer is there, or comes."""
    inner = Inner(USED)
    caller, records = await next_life(await named_call(), inner, EndpointClass.REATTACH)

    await caller.call(a_call())

    (sent,) = inner.calls
    assert (sent.call_id, sent.account, sent.request.begun_as) == ("r/t1/task/1", "one", "resp_1")
    assert [type(command) for command in records.commands] == [Expire, Settle]


@pytest.mark.parametrize(
    ("on_unknown", "kind", "calls"),
    [
        ("retry", UpstreamKind.OVERLOADED, ["r/t1/task/1", "r/t1/task/1/life2"]),
        ("hold", UpstreamKind.OVERLOADED, ["r/t1/task/1"]),
        ("retry", UpstreamKind.REFUSED, ["r/t1/task/1"]),
    ],
)
async def test_a_call_whose_answer_is_gone_is_bought_again_where_that_may_be(
    on_unknown: OnUnknown, kind: UpstreamKind, calls: list[str]
) -> None:
    """What was held for the first stays unknown; what is refused once is refused again."""
    inner = Inner(NoAnswerError("gone", kind=kind, account="one", billed=None), USED)
    caller, records = await next_life(await named_call(), inner, EndpointClass.REATTACH, on_unknown)
    if len(calls) == 1:
        with pytest.raises(NoAnswerError):
            await caller.call(a_call())
    else:
        await caller.call(a_call())

    assert [call.call_id for call in inner.calls] == calls
    assert ("r/t1/task/1", CallState.UNKNOWN) in records.states
    assert not any(isinstance(command, Settle) and command.hold_id == "r/t1/task/1" for command in records.commands)


async def test_a_call_sent_again_and_again_under_its_key_is_given_up_too() -> None:
    """Each sending that took its conductor with it counts, although there is one row."""
    inner = Inner(USED)
    lost = replace(await lost_call(EndpointClass.IDEMPOTENT), tries=1 + LOST_MAX)
    caller, records = await next_life(lost, inner)

    assert records.states == [("r/t1/task/1", CallState.UNKNOWN)]
    with pytest.raises(InternalError, match="given up"):
        await caller.call(a_call())
    assert inner.calls == []
