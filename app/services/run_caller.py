"""One run's way to the models: keeps its books, its ceilings and its progress lines.

Wraps the dispatcher for a single run. Every provider call of the run passes here exactly once, so usage, cost and the
schedule report are sums over what this class saw, and nothing else counts anything. Decides no routing.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from app.domain.calls import CallAnswer, ModelCall
from app.domain.chat import NO_USAGE, ChatRequest, ChatResult, Usage
from app.domain.errors import (
    CallLostError,
    DeadlineError,
    GatewayError,
    Retry,
    TokenBudgetError,
    UpstreamError,
)
from app.domain.estimate import estimate_tokens
from app.domain.ports import Clock, Journal, ModelCaller
from app.domain.retries import FREE_REFUSALS
from app.domain.run import CallRecord, CallState

TRIES_MAX = 6
"""Accounts tried for one call."""
RETRIES_MIN = 3


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


class RunCaller:
    """The port ``ModelCaller`` for one run.

    Args:
        inner: The dispatcher.
        journal: Where calls are recorded before they are sent and when they end.
        clock: Time.
        limits: The run's ceilings.
        on_failure: Told of every failed try, and whether another follows.

    Not thread-safe: the conductor's event loop is the lock.
    """

    def __init__(
        self,
        inner: ModelCaller,
        journal: Journal,
        clock: Clock,
        *,
        limits: RunLimits,
        on_failure: Callable[[ModelCall, UpstreamError, bool], None],
    ) -> None:
        self._inner = inner
        self._journal = journal
        self._clock = clock
        self._tokens_max = limits.tokens_max
        self._retry_share = limits.retry_share
        self._on_failure = on_failure
        self._retries = 0
        self._tokens_reserved = 0
        self._records: dict[str, CallRecord] = {}
        self._paid: dict[str | None, dict[str, CallRecord]] = {}
        self.spans: list[CallSpan] = []

    def remember(self, records: Sequence[CallRecord]) -> None:
        """Take over the calls of earlier lives of the run: they count, and their answers are not bought again."""
        for record in records:
            self._keep(record)

    async def call(self, call: ModelCall) -> CallAnswer:
        """Get one answer, from whichever account can give it; errors as the port says, and TokenBudgetError.

        A failed try goes to another account at once. The run's retry budget bounds what may be bought twice; refusals
        that cost nothing (a limit, a dead key) and calls that died with our own actor are bounded by ``TRIES_MAX``
        alone. What an earlier life of the run bought for exactly this request is returned from the journal.
        """
        replayed = self._replayed(call)
        if replayed is not None:
            return replayed
        avoid = call.avoid_accounts
        deadline_ns = self._clock.monotonic_ns() + int(call.deadline_s * 1e9)
        for number in range(1, TRIES_MAX + 1):
            left_s = (deadline_ns - self._clock.monotonic_ns()) / 1e9
            if left_s <= 0:
                raise DeadlineError(f"{call.purpose} was not answered within {call.deadline_s:.0f} s")
            call_id = call.call_id if number == 1 else f"{call.call_id}/try{number}"
            attempt = replace(call, call_id=self._unused_key(call_id), avoid_accounts=avoid, deadline_s=left_s)
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
        now_s = self._clock.wall_s()
        record = CallRecord(
            key=call.call_id,
            run_id=call.run_id,
            task_id=call.task_id,
            purpose=call.purpose,
            attempt=call.attempt,
            state=CallState.SENT,
            models=call.models,
            request_sha=_request_sha(call.request),
            created_s=now_s,
            sent_s=now_s,
            tries=number,
        )
        try:
            await self._record(record)
            answer = await self._inner.call(call)
        except GatewayError as error:
            await self._record(self._failed(record, error))
            raise
        except asyncio.CancelledError:
            # Stopped on its way: the provider may have billed some of it.
            await self._record(replace(record, state=CallState.CANCELLED, settled_s=self._clock.wall_s()))
            raise
        finally:
            self._tokens_reserved -= ceiling
        self.spans.append(CallSpan(call=call, answer=answer))
        await self._record(self._done(record, answer))
        return answer

    async def _record(self, record: CallRecord) -> None:
        self._keep(record)
        await self._journal.record_calls([record])

    def _keep(self, record: CallRecord) -> None:
        self._records[record.key] = record
        if record.state is CallState.DONE:
            self._paid.setdefault(record.task_id, {})[record.key] = record

    def _may_retry(self, error: UpstreamError) -> bool:
        # A call lost with its account's actor is our failure: it must not eat the budget for the providers'.
        if error.kind in FREE_REFUSALS or isinstance(error, CallLostError):
            return True
        allowed = max(RETRIES_MIN, int(len(self._bought(None)) * self._retry_share))
        self._retries += 1
        return self._retries <= allowed

    def usage(self, task_id: str | None = None) -> Usage:
        """Return the sum over the run, earlier lives included, or over one task."""
        total = NO_USAGE
        for record in self._bought(task_id):
            total = total.plus(record.usage or NO_USAGE)
        return total

    def cost_usd(self, task_id: str | None = None) -> str | None:
        """Return the summed cost as decimal text; None where any call's price is unknown."""
        total = Decimal(0)
        for record in self._bought(task_id):
            if record.cost_usd is None:
                return None
            total += Decimal(record.cost_usd)
        return format(total, "f")

    def _bought(self, task_id: str | None) -> list[CallRecord]:
        if task_id is not None:
            return list(self._paid.get(task_id, {}).values())
        return [record for records in self._paid.values() for record in records.values()]

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

    def _failed(self, record: CallRecord, error: GatewayError) -> CallRecord:
        unknown = isinstance(error, UpstreamError) and error.billed is None
        state = CallState.UNKNOWN if unknown else CallState.FAILED
        return replace(record, state=state, settled_s=self._clock.wall_s(), error=error.message)

    def _done(self, record: CallRecord, answer: CallAnswer) -> CallRecord:
        return replace(
            record,
            state=CallState.DONE,
            account=answer.account,
            model=answer.model,
            provider_id=answer.result.provider_id,
            usage=answer.usage,
            cost_usd=answer.cost_usd,
            answer=answer.result.text,
            settled_s=self._clock.wall_s(),
        )


def _ceiling(request: ChatRequest) -> int:
    return estimate_tokens(request) + (request.output_tokens_max or 0)


def _request_sha(request: ChatRequest) -> str:
    return hashlib.sha256(repr(request).encode()).hexdigest()
