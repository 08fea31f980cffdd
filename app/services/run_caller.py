"""One run's way to the models: keeps its calls, its ceilings and its progress lines.

Wraps the dispatcher for a single run. Every provider call of the run passes here exactly once, in two commits: the call
as sent together with the hold of its ceiling, before anything leaves; how it ended together with its entry in the
books, after. Usage and cost of the run and its tasks are sums over the calls' rows, which say what their entries say.
Decides no routing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal, Protocol

from app.domain.accounts import OnUnknown
from app.domain.books.entries import Command
from app.domain.calls import CallAnswer, ModelCall
from app.domain.chat import NO_USAGE, ChatRequest, ChatResult, Usage
from app.domain.crash_points import CrashPoint, passes
from app.domain.errors import (
    CallLostError,
    DeadlineError,
    GatewayError,
    InternalError,
    NoAnswerError,
    Retry,
    TokenBudgetError,
    UpstreamError,
)
from app.domain.estimate import estimate_tokens
from app.domain.metric_names import Attribute
from app.domain.ports import Clock, ModelCaller
from app.domain.recovery import (
    LOST_MAX,
    TO_BE_PLACED,
    Decision,
    RecoveryPolicy,
    Ruling,
    endpoint_of,
    is_placed,
    recover,
)
from app.domain.retries import FREE_REFUSALS
from app.domain.run import CallRecord, CallState
from app.services.dispatch import StoppedUnsentError
from app.services.run_books import Ended, RunBooks
from app.services.telemetry.tracing import span

LOST = "its conductor died while it was on its way"
"""Stands as the error of such a call."""
_TRY = re.compile(r"/try(\d+)(?:/life\d+)?$")
_AGAIN = re.compile(r"(?:/(?:try|life)\d+)+$")

TRIES_MAX = 6
"""Accounts tried for one call."""
RETRIES_MIN = 3
RESEND_PAUSES_S = (1.0, 4.0, 15.0)
"""Between sendings of the same call to the only account that knows it."""
_UNDER_ITS_KEY = frozenset({Decision.SEND, Decision.RESEND, Decision.LOOK_UP, Decision.REATTACH})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """How far a run may go."""

    tokens_max: int | None
    """Over all calls, input and output; None for no ceiling."""
    retry_share: float
    """Retries that may be bought, as a share of the calls made so far (at least ``RETRIES_MIN``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSpan:
    """When one answered call of the run was in progress, in monotonic seconds."""

    call: ModelCall
    answer: CallAnswer


class CallJournal(Protocol):
    """Where calls are recorded; implemented by ``run_journal``."""

    epoch: int
    """In which the run was taken: no call leaves once somebody else has it."""

    async def record_calls(self, calls: Sequence[CallRecord], commands: Sequence[Command]) -> None:
        """Write calls and apply the books' commands in one transaction; raises QuotaError where one has no room."""

    async def calls(self) -> Sequence[CallRecord]:
        """Return every call of the run as it stands, with what account actors wrote of it."""


class RunCaller:
    """The port ``ModelCaller`` for one run.

    Args:
        inner: The dispatcher.
        journal: Where calls are recorded before they are sent and when they end.
        clock: Time.
        books: What its calls cost.
        limits: The run's ceilings.
        on_failure: Told of every failed try, and whether another follows.

    Not thread-safe: the conductor's event loop is the lock.
    """

    def __init__(
        self,
        inner: ModelCaller,
        journal: CallJournal,
        clock: Clock,
        *,
        books: RunBooks,
        limits: RunLimits,
        on_failure: Callable[[ModelCall, UpstreamError, bool], None],
    ) -> None:
        self._inner = inner
        self._journal = journal
        self._clock = clock
        self._books = books
        self._tokens_max = limits.tokens_max
        self._retry_share = limits.retry_share
        self._on_failure = on_failure
        self._retries = 0
        self._tokens_reserved = 0
        self._records: dict[str, CallRecord] = {}
        self._booked: dict[str | None, dict[str, CallRecord]] = {}
        self._given_up: set[str] = set()
        self._open: dict[str, CallRecord] = {}
        """By the call's own id: what an earlier life sent and this one sends again."""
        self._recovered_s = 0.0
        self._on_unknown: Callable[[CallRecord], OnUnknown] = lambda _record: "hold"
        self.spans: list[CallSpan] = []

    @property
    def waits_for_a_person(self) -> bool:
        """Whether a call was lost of which nobody may decide but a person."""
        return any(record.state is CallState.HELD for record in self._records.values())

    def remember(self, records: Sequence[CallRecord]) -> None:
        """Take over the calls of earlier lives of the run: they count, and their answers are not bought again."""
        for record in records:
            self._keep(record)

    async def recover(
        self, on_unknown: Callable[[CallRecord], OnUnknown], ruling_of: Callable[[CallRecord], Ruling | None]
    ) -> Sequence[CallRecord]:
        """Decide on calls that an earlier life left on their way; return those that wait for a person.

        What was held for them counts as spent until somebody knows better.
        """
        changed, held = [], []
        self._recovered_s, self._on_unknown = self._clock.wall_s(), on_unknown
        for record in list(self._records.values()):
            policy = RecoveryPolicy(
                on_unknown=on_unknown(record),
                lost_before=self._times_lost(record),
                ruling=ruling_of(record),
            )
            decision = recover(record, endpoint_of(record, self._books.orchestra()), policy)
            if decision in _UNDER_ITS_KEY:
                self._open[_work_of(record.key)] = record = replace(record, tries=record.tries + 1)
                changed.append(record)
            elif decision is not Decision.KEEP:
                state = CallState.HELD if decision is Decision.ASK else CallState.UNKNOWN
                changed.append(replace(record, state=state, settled_s=self._clock.wall_s(), error=LOST))
            if decision is Decision.ASK:
                held.append(changed[-1])
        if changed:
            for record in changed:
                self._keep(record)
            passes(CrashPoint.RECOVERING)
            await self._journal.record_calls(changed, [self._books.forgotten()])
            passes(CrashPoint.RECOVERED)
        # What was given up in an earlier life stays given up.
        self._given_up |= {
            _work_of(one.key)
            for one in self._records.values()
            if one.error == LOST and (ruling_of(one) == "give_up" or self._times_lost(one) > LOST_MAX)
        }
        return held

    async def call(self, call: ModelCall) -> CallAnswer:
        """Get one answer, from whichever account can give it; errors as the port says, and TokenBudgetError.

        A failed try goes to another account at once. The run's retry budget bounds what may be bought twice; refusals
        that cost nothing (a limit, a dead key) and calls that died with our own actor are bounded by ``TRIES_MAX``
        alone. What an earlier life of the run bought for exactly this request is returned from the journal.
        """
        if call.call_id in self._given_up:
            raise InternalError(f"{call.purpose} was lost on its way and given up", remedy="retry the task")
        call = replace(call, epoch=self._journal.epoch)
        replayed = self._replayed(call)
        if replayed is not None:
            return replayed
        lost = self._open.pop(call.call_id, None)
        resumed = None if lost is None else await self._resume(call, lost, self._recovered_s)
        if resumed is not None:
            self.spans.append(CallSpan(call=call, answer=resumed))
            return resumed
        avoid = call.avoid_accounts
        deadline_ns = self._clock.monotonic_ns() + int(call.deadline_s * 1e9)
        for number in range(1, TRIES_MAX + 1):
            left_s = (deadline_ns - self._clock.monotonic_ns()) / 1e9
            if left_s <= 0:
                raise DeadlineError(f"{call.purpose} was not answered within {call.deadline_s:.0f} s")
            call_id = call.call_id if number == 1 else f"{call.call_id}/try{number}"
            key = self._unused_key(call_id)
            request = replace(call.request, call_key=key)
            attempt = replace(call, call_id=key, request=request, avoid_accounts=avoid, deadline_s=left_s)
            try:
                answer = await self._try(attempt, number)
            except UpstreamError as error:
                again = error.retry is Retry.ELSEWHERE and number < TRIES_MAX and self._may_retry(error)
                self._on_failure(call, error, again)
                if not again:
                    raise
                avoid = (*avoid, error.account)
            else:
                return replace(answer, tries=number)
        raise AssertionError("the last try returns or raises")

    async def _try(self, call: ModelCall, number: int) -> CallAnswer:
        ceiling = _ceiling(call.request)
        self._reserve(call, ceiling)
        try:
            record = await self._begin(call, number)
            answer = await self._sent(record, call)
        finally:
            self._tokens_reserved -= ceiling
        self.spans.append(CallSpan(call=call, answer=answer))
        return answer

    async def _resume(self, call: ModelCall, lost: CallRecord, lost_at_s: float) -> CallAnswer | None:
        """Send a call again whose answer was lost, to the same account under the same key: it is billed once.

        Its hold was left unknown, and only its answer ends that: a refusal of this sending says nothing of the first.
        None: there is no answer to be had under that key, and the call may be bought under another.
        """
        if lost.request_sha != _request_sha(call.request):
            # It would be asked something else: what was bought under the old key stays unknown.
            await self._leave_unknown(lost, LOST)
            return None
        same = replace(
            call,
            call_id=lost.key,
            account=lost.account or "",
            models=(lost.model,) if lost.model else call.models,
            request=replace(
                call.request,
                call_key=lost.key,
                lost_at_s=lost_at_s if lost.account else None,
                begun_as=lost.provider_id,
            ),
        )
        for pause_s in (*RESEND_PAUSES_S, None):
            try:
                answer = await self._inner.call(same)
                break
            except NoAnswerError as error:
                again = error.retry is Retry.ELSEWHERE and self._on_unknown(lost) == "retry"
                self._on_failure(call, error, again)
                await self._leave_unknown(lost, error.message)
                if again:
                    return None
                raise
            except UpstreamError as error:
                self._on_failure(call, error, pause_s is not None)
                if pause_s is None:
                    await self._leave_unknown(lost, error.message)
                    raise
                await asyncio.sleep(pause_s)
            except BaseException as error:
                await self._leave_unknown(lost, str(error) or LOST)
                raise
        ended = self._books.answered(lost, same, answer)
        await self._finish(ended)
        return replace(answer, cost_usd=ended.record.cost_usd)

    async def _leave_unknown(
        self, record: CallRecord, error: str, state: Literal[CallState.UNKNOWN, CallState.HELD] = CallState.UNKNOWN
    ) -> None:
        self._keep(replace(record, state=state, settled_s=self._clock.wall_s(), error=error))
        await self._write(self._records[record.key], [])

    async def _after_loss(self, record: CallRecord, call: ModelCall, error: CallLostError) -> CallAnswer:
        """Do about a call that died with its account's actor what a next life of the run would do about it.

        Its hold stays until its answer is there, or counts as unknown when it is overdue.

        Raises:
            CallLostError: it may be bought anew.
            InternalError: there is no answer to be had, or a person must decide; nothing is bought under another key.
        """
        lost = next((one for one in await self._journal.calls() if one.key == record.key), record)
        policy = RecoveryPolicy(on_unknown=self._on_unknown(lost))
        decision = recover(lost, endpoint_of(lost, self._books.orchestra()), policy)
        if decision in _UNDER_ITS_KEY:
            self._on_failure(call, error, True)
            try:
                answer = await self._resume(call, lost, self._clock.wall_s())
            except UpstreamError as failed:
                raise InternalError(f"{call.purpose} was lost on its way: {failed.message}") from None
            if answer is not None:
                return answer
        elif decision is Decision.ASK:
            await self._leave_unknown(lost, LOST, CallState.HELD)
            raise InternalError(f"{call.purpose} was lost on its way", remedy="say whether to buy it again")
        else:
            await self._finish(self._books.failed(record, call, error))
        raise error

    async def _begin(self, call: ModelCall, number: int) -> CallRecord:
        """Record a call as sent with the hold of its ceiling: on disk before anything leaves, or not at all."""
        now_s = self._clock.wall_s()
        record = CallRecord(
            key=call.call_id,
            run_id=call.run_id,
            task_id=call.task_id,
            purpose=call.purpose,
            attempt=call.attempt,
            state=CallState.SENT,
            models=call.models,
            account=TO_BE_PLACED if is_placed(call.models, self._books.orchestra()) else None,
            request_sha=_request_sha(call.request),
            created_s=now_s,
            sent_s=now_s,
            tries=number,
        )
        passes(CrashPoint.BEFORE_HOLD)
        try:
            await self._write(record, [self._books.hold(call)])
        except asyncio.CancelledError:
            # It may have been written; it is followed by one that takes it back.
            await self._finish(self._books.unsent(record, CallState.CANCELLED))
            raise
        passes(CrashPoint.HELD)
        self._keep(record)
        return record

    async def _sent(self, record: CallRecord, call: ModelCall) -> CallAnswer:
        try:
            with span(f"call {call.purpose}") as told:
                told.set(Attribute.PURPOSE, call.purpose)
                told.set(Attribute.TASK, call.task_id)
                answer = await self._inner.call(call)
        except CallLostError as error:
            return await self._after_loss(record, call, error)
        except GatewayError as error:
            await self._finish(self._books.failed(record, call, error))
            raise
        except StoppedUnsentError:
            await self._finish(self._books.unsent(record, CallState.CANCELLED))
            raise asyncio.CancelledError from None
        except asyncio.CancelledError:
            await self._finish(self._books.cancelled(record, call))
            raise
        ended = self._books.answered(record, call, answer)
        await self._finish(ended)
        return replace(answer, cost_usd=ended.record.cost_usd)

    async def _finish(self, ended: Ended) -> None:
        self._keep(ended.record)
        passes(CrashPoint.BEFORE_SETTLE)
        with span("settle"):
            await self._write(ended.record, ended.commands)
        passes(CrashPoint.SETTLED)

    async def _write(self, record: CallRecord, commands: Sequence[Command]) -> None:
        """Write to the end, also while being stopped: what was paid for must not be left on its way."""
        writing = asyncio.ensure_future(self._journal.record_calls([record], commands))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            with contextlib.suppress(GatewayError):
                await writing
            raise

    def _keep(self, record: CallRecord) -> None:
        self._records[record.key] = record
        if record.usage is not None:
            self._booked.setdefault(record.task_id, {})[record.key] = record

    def _may_retry(self, error: UpstreamError) -> bool:
        # A call lost with its account's actor is our failure: it must not eat the budget for the providers'.
        if error.kind in FREE_REFUSALS or isinstance(error, CallLostError):
            return True
        done = sum(record.state is CallState.DONE for record in self._records.values())
        allowed = max(RETRIES_MIN, int(done * self._retry_share))
        self._retries += 1
        return self._retries <= allowed

    def usage(self, task_id: str | None = None) -> Usage:
        """Return what is booked for the run, earlier lives included, or for one task."""
        total = NO_USAGE
        for record in self._bookings(task_id):
            total = total.plus(record.usage or NO_USAGE)
        return total

    def cost_usd(self, task_id: str | None = None) -> str | None:
        """Return the booked cost as decimal text; None where any call's price is unknown."""
        total = Decimal(0)
        for record in self._bookings(task_id):
            if record.cost_usd is None:
                return None
            total += Decimal(record.cost_usd)
        return format(total, "f")

    def _bookings(self, task_id: str | None) -> list[CallRecord]:
        if task_id is not None:
            return list(self._booked.get(task_id, {}).values())
        return [record for records in self._booked.values() for record in records.values()]

    def _unused_key(self, call_id: str) -> str:
        """Return a key that no row has: what an earlier life sent must stay in the books beside what this one sends."""
        key, life = call_id, 1
        while key in self._records:
            life += 1
            key = f"{call_id}/life{life}"
        return key

    def _replayed(self, call: ModelCall) -> CallAnswer | None:
        """Return what an earlier life of the run bought for exactly this request, if it did."""
        record = self._records.get(call.call_id)
        if record is None or record.state is not CallState.DONE or record.answer is None:
            return None
        if record.request_sha != _request_sha(call.request):
            return None
        now_s = self._clock.monotonic_ns() / 1e9
        usage = record.usage or NO_USAGE
        return CallAnswer(
            call_id=record.key,
            account=record.account or "",
            model=record.model or "",
            result=ChatResult(text=record.answer, usage=usage, model=record.model or ""),
            usage=usage,
            cost_usd=record.cost_usd,
            queued_at_s=now_s,
            started_at_s=now_s,
            finished_at_s=now_s,
            tries=record.tries,
        )

    def _reserve(self, call: ModelCall, ceiling: int) -> None:
        if self._tokens_max is not None:
            used = self.usage()
            tokens_used = used.input_tokens + used.output_tokens
            if tokens_used + self._tokens_reserved + ceiling > self._tokens_max:
                raise TokenBudgetError(
                    f"the run may use {self._tokens_max} tokens; {tokens_used} are used, {self._tokens_reserved} "
                    f"reserved, and {call.purpose} needs up to {ceiling}",
                    param="max_tokens_total",
                    remedy="raise the ceiling or ask for less",
                )
        self._tokens_reserved += ceiling

    def _times_lost(self, record: CallRecord) -> int:
        work = _work_of(record.key)
        same = [one for one in self._records.values() if _work_of(one.key) == work]
        return sum((one.error == LOST) + max(0, one.tries - _first_try(one.key)) for one in same)


def _ceiling(request: ChatRequest) -> int:
    return estimate_tokens(request) + (request.output_tokens_max or 0)


def _request_sha(request: ChatRequest) -> str:
    return hashlib.sha256(repr(request).encode()).hexdigest()


def _first_try(key: str) -> int:
    """Return which try a key was made for; a row that says more was sent again under it."""
    found = _TRY.search(key)
    return int(found[1]) if found else 1


def _work_of(key: str) -> str:
    """Return the id of the call that a key is a try, or a later life, of."""
    return _AGAIN.sub("", key)
