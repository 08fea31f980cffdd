"""A run's caller goes elsewhere after a failure, stays inside its ceilings, and records every try."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from app.domain.calls import CallAnswer, ModelCall
from app.domain.chat import ChatRequest, ChatResult, Message, Role, Usage
from app.domain.errors import CallLostError, GatewayError, TokenBudgetError, UpstreamError, UpstreamKind
from app.domain.run import CallRecord, CallState
from app.services.run_caller import RETRIES_MIN, TRIES_MAX, RunCaller, RunLimits
from tests.fakes.clock import RunningClock

Outcome = GatewayError | Usage


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
            cost_usd="0.5",
            queued_at_s=0.0,
            started_at_s=1.0,
            finished_at_s=2.0,
            tries=1,
        )


class Records:
    """The journal's calls, newest state last."""

    def __init__(self) -> None:
        self.states: list[tuple[str, CallState]] = []
        self.rows: list[CallRecord] = []

    async def record_calls(self, calls: Sequence[CallRecord]) -> None:
        self.rows.extend(calls)
        self.states.extend((call.key, call.state) for call in calls)


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
) -> RunCaller:
    journal = records or Records()
    limits = RunLimits(tokens_max=tokens_max, retry_share=0.2)
    return RunCaller(inner, journal, RunningClock(), limits=limits, on_failure=note)  # type: ignore[arg-type]  # calls only


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
    with pytest.raises(UpstreamError):
        await a_caller(inner).call(a_call())

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
