"""A run's caller goes elsewhere after a failure, stays inside its ceilings, and records every try."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from app.domain.accounts import EndpointClass, OnUnknown
from app.domain.books.budgets import Owners
from app.domain.books.entries import Command, Ending, Expire, Hold, Settle, Void
from app.domain.books.prices import PriceRow, Rates
from app.domain.calls import CallAnswer, ModelCall
from app.domain.chat import ChatRequest, ChatResult, Message, Role, Usage
from app.domain.errors import (
    CallLostError,
    CapacityError,
    ConflictError,
    GatewayError,
    InternalError,
    QuotaError,
    TokenBudgetError,
    UpstreamError,
    UpstreamKind,
)
from app.domain.recovery import LOST_MAX, Ruling
from app.domain.run import CallRecord, CallState
from app.services.dispatch import StoppedUnsentError
from app.services.run_books import RunBooks
from app.services.run_caller import LOST, RETRIES_MIN, TRIES_MAX, RunCaller, RunLimits
from tests.fakes.clock import RunningClock
from tests.fakes.models import STRICT, orchestra

Outcome = GatewayError | Usage
PRICE = PriceRow(price_id="m@1", model="m", rates=Rates(input="0", output="25000"))
OWNERS = Owners(tenant="acme", key="ci", run="r")
HALF_A_DOLLAR = 500_000_000


class Inner:
    """Answers or fails as told, one entry per try; the last repeats."""

    def __init__(self, *outcomes: Outcome) -> None:
        self._outcomes = list(outcomes)
        self.calls: list[ModelCall] = []

    async def call(self, call: ModelCall) -> CallAnswer:
        self.calls.append(call)
        outcome = self._outcomes.pop(0) if len(self._outcomes) > 1 else self._outcomes[0]
        if isinstance(outcome, GatewayError):
            raise outcome
        return CallAnswer(
            call_id=call.call_id,
            account="a",
            model="m",
            result=ChatResult(text="ok", usage=outcome),
            usage=outcome,
            cost_usd=None,
            queued_at_s=0.0,
            started_at_s=1.0,
            finished_at_s=2.0,
            tries=1,
        )


class Records:
    """The journal's calls, newest state last, and what the books were told with them."""

    epoch = 3

    def __init__(self) -> None:
        self.states: list[tuple[str, CallState]] = []
        self.rows: list[CallRecord] = []
        self.commands: list[Command] = []
        self.refusal: GatewayError | None = None

    async def record_calls(self, calls: Sequence[CallRecord], commands: Sequence[Command]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.commands.extend(commands)
        self.rows.extend(calls)
        self.states.extend((call.key, call.state) for call in calls)

    async def calls(self) -> Sequence[CallRecord]:
        return list({call.key: call for call in self.rows}.values())


def a_call(task_id: str = "t1", call_id: str = "r/t1/task/1") -> ModelCall:
    return ModelCall(
        call_id=call_id,
        run_id="r",
        purpose="task",
        task_id=task_id,
        attempt=1,
        models=("m",),
        request=ChatRequest(model="m", messages=(Message(role=Role.USER, text="hi"),), output_tokens_max=100),
    )


def a_caller(
    inner: Inner,
    *,
    records: Records | None = None,
    tokens_max: int | None = None,
    note: Callable[[ModelCall, UpstreamError, bool], None] = lambda call, error, again: None,
    endpoint: EndpointClass = EndpointClass.OPAQUE,
) -> RunCaller:
    clock = RunningClock()
    known = replace(orchestra(replace(STRICT, name="m")), prices=(PRICE,))
    known = replace(known, accounts=tuple(replace(account, endpoint=endpoint) for account in known.accounts))
    return RunCaller(
        inner,
        records or Records(),
        clock,
        books=RunBooks(lambda: known, clock, OWNERS),
        limits=RunLimits(tokens_max=tokens_max, retry_share=0.2),
        on_failure=note,
    )


def failure(kind: UpstreamKind, account: str = "bad", *, billed: bool | None = False) -> UpstreamError:
    return UpstreamError("it failed", kind=kind, account=account, billed=billed)


USED = Usage(input_tokens=10, output_tokens=20)


async def test_a_failed_try_goes_elsewhere_with_its_own_key() -> None:
    """Each try is one provider call and one row: what was bought twice must be visible."""
    inner, records = Inner(failure(UpstreamKind.OVERLOADED), USED), Records()

    answer = await a_caller(inner, records=records).call(a_call())

    assert answer.tries == 2
    assert inner.calls[1].avoid_accounts == ("bad",)
    assert records.states == [
        ("r/t1/task/1", CallState.SENT),
        ("r/t1/task/1", CallState.FAILED),
        ("r/t1/task/1/try2", CallState.SENT),
        ("r/t1/task/1/try2", CallState.DONE),
    ]


async def test_a_call_of_unknown_fate_is_recorded_as_such() -> None:
    """A timeout may have been billed: the books must not say it was not."""
    inner, records = Inner(failure(UpstreamKind.TIMEOUT, billed=None), USED), Records()
    await a_caller(inner, records=records).call(a_call())

    assert records.states[1] == ("r/t1/task/1", CallState.UNKNOWN)


async def test_every_try_says_in_which_epoch_its_run_was_taken() -> None:
    """Where a call is placed, one of a conductor that was replaced meanwhile is stopped by it."""
    inner = Inner(failure(UpstreamKind.OVERLOADED), USED)
    await a_caller(inner).call(a_call())

    assert [call.epoch for call in inner.calls] == [Records.epoch] * 2


async def test_a_refused_request_is_never_tried_again() -> None:
    """400 fails everywhere."""
    inner = Inner(failure(UpstreamKind.INVALID_REQUEST))

    with pytest.raises(UpstreamError):
        await a_caller(inner).call(a_call())
    assert len(inner.calls) == 1


async def test_bought_retries_are_bounded_over_the_run() -> None:
    """A provider in trouble must not multiply the bill of a run with many tasks."""
    inner = Inner(failure(UpstreamKind.OVERLOADED))
    caller = a_caller(inner)
    for index in range(5):
        with pytest.raises(UpstreamError):
            await caller.call(a_call(call_id=f"c{index}"))

    assert len(inner.calls) == 5 + RETRIES_MIN


async def test_refusals_that_cost_nothing_are_bounded_by_tries_alone() -> None:
    """Ten limited accounts must not eat the budget that is there for real failures."""
    inner = Inner(failure(UpstreamKind.MINUTE_LIMIT))
    notes: list[bool] = []

    with pytest.raises(UpstreamError):
        await a_caller(inner, note=lambda call, error, again: notes.append(again)).call(a_call())
    assert len(inner.calls) == TRIES_MAX
    assert notes == [True] * (TRIES_MAX - 1) + [False]


async def test_calls_lost_with_our_own_actor_leave_the_retry_budget_alone() -> None:
    """An actor that dies with ten calls in flight must not fail the run they belong to."""
    inner = Inner(CallLostError("lost", kind=UpstreamKind.CONNECTION, account="a", billed=None))
    caller = a_caller(inner)
    await caller.recover(lambda call: "retry", lambda call: None)
    with pytest.raises(UpstreamError):
        await caller.call(a_call())

    assert len(inner.calls) == TRIES_MAX


async def test_the_token_ceiling_is_checked_before_the_call() -> None:
    """A ceiling that is noticed afterwards is a bill."""
    inner = Inner(USED)
    caller = a_caller(inner, tokens_max=130)
    await caller.call(a_call())

    with pytest.raises(TokenBudgetError) as refused:
        await caller.call(a_call(call_id="c2"))
    assert refused.value.param == "max_tokens_total"
    assert len(inner.calls) == 1


async def test_sums_are_over_the_task_or_the_run() -> None:
    """Usage of a task includes everything that was bought for it."""
    caller = a_caller(Inner(USED))
    await caller.call(a_call("t1", "c1"))
    await caller.call(a_call("t2", "c2"))

    assert caller.usage("t1").output_tokens == 20
    assert caller.usage().input_tokens == 20
    assert (caller.cost_usd("t1"), caller.cost_usd()) == ("0.5", "1.0")


async def test_what_an_earlier_life_bought_is_not_bought_again_and_counts() -> None:
    """G1 of durability.md: a journaled answer is never paid for twice, however often the conductor dies."""
    first, kept = Inner(USED), Records()
    await a_caller(first, records=kept).call(a_call())
    second = Inner(USED)
    caller = a_caller(second)
    caller.remember(kept.rows)

    answer = await caller.call(a_call())

    assert (answer.result.text, second.calls) == ("ok", [])
    assert caller.usage().output_tokens == 20


async def test_what_an_earlier_life_sent_stays_in_the_books_beside_the_new_try() -> None:
    """A call that was on its way when the conductor died may have been billed: its row must not be overwritten."""
    kept = Records()
    with pytest.raises(UpstreamError):
        await a_caller(Inner(failure(UpstreamKind.REFUSED)), records=kept).call(a_call())
    records = Records()
    caller = a_caller(Inner(USED), records=records)
    caller.remember(kept.rows)

    await caller.call(a_call())

    assert [key for key, _state in records.states] == ["r/t1/task/1/life2", "r/t1/task/1/life2"]


async def test_a_call_and_its_hold_go_to_the_journal_before_anything_leaves() -> None:
    """A process killed after sending has left a bill: its ceiling must be in the books by then."""
    records = Records()
    told: list[tuple[CallState, int]] = []

    class Watching(Inner):
        async def call(self, call: ModelCall) -> CallAnswer:
            told.extend((state, len(records.commands)) for _key, state in records.states)
            return await super().call(call)

    await a_caller(Watching(USED), records=records).call(a_call())

    assert told == [(CallState.SENT, 1)]
    hold, settle = records.commands
    assert isinstance(hold, Hold)
    assert isinstance(settle, Settle)
    assert (hold.hold_id, hold.owners, hold.covers) == (settle.hold_id, OWNERS, ("r/t1/task/1",))
    assert hold.amount_nano == 100 * HALF_A_DOLLAR // 20, "all 100 tokens of output that it may have"
    assert hold.expires_s > hold.at_s + a_call().deadline_s
    (entry,) = settle.entries
    assert (entry.ending, entry.usage, entry.cost_nano, entry.price_id) == (
        Ending.ANSWERED,
        USED,
        HALF_A_DOLLAR,
        "m@1",
    )
    assert (entry.owners, entry.task_id, entry.account, entry.model) == (OWNERS, "t1", "a", "m")
    assert records.rows[-1].cost_usd == "0.5", "the row says what its entry says"


@pytest.mark.parametrize(
    "refusal",
    [
        QuotaError("no room", limit="b", retry_after_s=None),
        InternalError("cannot write to 'journal.sqlite': its disk is full"),
        ConflictError("the run has another conductor"),
    ],
    ids=["budget", "storage", "fenced"],
)
async def test_what_cannot_be_recorded_is_not_sent(refusal: GatewayError) -> None:
    """No room in a budget or on the disk, no run of ours any more: nothing is bought, and the caller hears why."""
    inner, records = Inner(USED), Records()
    records.refusal = refusal
    caller = a_caller(inner, records=records)

    with pytest.raises(type(refusal)):
        await caller.call(a_call())

    assert (inner.calls, records.rows, caller.cost_usd()) == ([], [], "0")


@pytest.mark.parametrize(
    ("error", "ending", "cost_nano"),
    [
        (failure(UpstreamKind.REFUSED), Ending.FAILED, 0),
        (failure(UpstreamKind.REFUSED, billed=True), Ending.FAILED, 100 * HALF_A_DOLLAR // 20),
        (failure(UpstreamKind.INVALID_REQUEST, billed=None), Ending.UNKNOWN, 100 * HALF_A_DOLLAR // 20),
        (InternalError("gone"), Ending.UNKNOWN, 100 * HALF_A_DOLLAR // 20),
    ],
)
async def test_a_failed_call_is_booked_as_all_that_it_may_have_cost(
    error: GatewayError, ending: Ending, cost_nano: int
) -> None:
    """The books must never be below the provider's bill; the run's own figures say the same."""
    records = Records()
    caller = a_caller(Inner(error), records=records)

    with pytest.raises(GatewayError):
        await caller.call(a_call())

    settle = records.commands[-1]
    assert isinstance(settle, Settle)
    assert [(entry.ending, entry.cost_nano) for entry in settle.entries] == [(ending, cost_nano)]
    assert caller.cost_usd() == ("2.5" if cost_nano else "0")


async def test_a_call_that_nobody_took_gives_its_hold_back() -> None:
    """No account could take it: nothing was sent, nothing is owed."""
    records = Records()

    with pytest.raises(CapacityError):
        await a_caller(Inner(CapacityError("all full")), records=records).call(a_call())

    assert isinstance(records.commands[-1], Void)
    assert records.states[-1][1] is CallState.FAILED


@pytest.mark.parametrize(("stopped", "kind"), [(asyncio.CancelledError, Settle), (StoppedUnsentError, Void)])
async def test_a_stopped_call_is_booked_by_how_far_it_came(stopped: type[BaseException], kind: type[Command]) -> None:
    """What was on its way may be billed; what still waited for an account is not."""

    class Stopped(Inner):
        async def call(self, call: ModelCall) -> CallAnswer:
            raise stopped

    records = Records()
    with pytest.raises(asyncio.CancelledError) as ended:
        await a_caller(Stopped(USED), records=records).call(a_call())

    assert type(ended.value) is asyncio.CancelledError, "a time limit around the call knows no other"
    assert isinstance(records.commands[-1], kind)
    assert records.states[-1][1] is CallState.CANCELLED


def sent_rows(times: int = 1) -> list[CallRecord]:
    """Return a call on its way, after as many earlier ones were lost as say so."""
    row = CallRecord(key="r/t1/task/1", run_id="r", task_id="t1", purpose="task", attempt=1, state=CallState.SENT)
    lost = [
        replace(row, key=f"r/t1/task/1/life{life}", state=CallState.UNKNOWN, error=LOST) for life in range(2, times + 1)
    ]
    return [*lost, row]


async def recovered(
    rows: Sequence[CallRecord], *, on_unknown: OnUnknown = "retry", ruling: Ruling | None = None
) -> tuple[RunCaller, Inner, Records, Sequence[CallRecord]]:
    inner, records = Inner(USED), Records()
    caller = a_caller(inner, records=records)
    caller.remember(rows)
    held = await caller.recover(lambda call: on_unknown, lambda call: ruling)
    return caller, inner, records, held


async def test_a_call_of_a_dead_conductor_becomes_unknown_and_is_bought_anew() -> None:
    """What was held for it counts as spent, and the second purchase has a hold of its own."""
    caller, inner, records, held = await recovered(sent_rows())

    await caller.call(a_call())

    assert not held
    assert records.states[0] == ("r/t1/task/1", CallState.UNKNOWN)
    assert isinstance(records.commands[0], Expire)
    assert records.commands[0].holder == "run/r"
    assert [call.call_id for call in inner.calls] == ["r/t1/task/1/life2"]


async def test_a_held_call_waits_and_is_bought_again_only_when_a_person_says_so() -> None:
    """At most one bill without a decision, and exactly the decision after it."""
    _caller, _inner, records, held = await recovered(sent_rows(), on_unknown="hold")
    assert [call.state for call in held] == [CallState.HELD]

    again, inner, _records, held = await recovered(records.rows, on_unknown="hold", ruling="buy_again")
    await again.call(a_call())
    given_up, refused, _records, _held = await recovered(records.rows, on_unknown="hold", ruling="give_up")

    assert (len(held), len(inner.calls)) == (0, 1)
    with pytest.raises(InternalError, match="given up"):
        await given_up.call(a_call())
    assert refused.calls == []


async def test_a_call_that_took_its_conductor_with_it_too_often_is_never_sent_again() -> None:
    """Also not in the life after the one that gave it up."""
    caller, inner, records, _held = await recovered(sent_rows(LOST_MAX + 1))
    later, inner_later, _records, _held = await recovered([*sent_rows(LOST_MAX + 1)[:-1], *records.rows])

    for one in (caller, later):
        with pytest.raises(InternalError, match="given up"):
            await one.call(a_call())
    assert inner.calls + inner_later.calls == []


async def test_a_call_that_is_stopped_while_its_answer_is_written_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The money is spent: a run that is cancelled at that moment must not leave the call on its way."""
    records, caller_inner = Records(), Inner(USED)
    writing, go_on = asyncio.Event(), asyncio.Event()
    write = records.record_calls

    async def slow(calls: Sequence[CallRecord], commands: Sequence[Command]) -> None:
        if calls[0].state is CallState.DONE:
            writing.set()
            await go_on.wait()
        await write(calls, commands)

    monkeypatch.setattr(records, "record_calls", slow)
    task = asyncio.create_task(a_caller(caller_inner, records=records).call(a_call()))
    await writing.wait()
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.wait({task})

    assert task.cancelled()
    assert [state for _key, state in records.states] == [CallState.SENT, CallState.DONE]
