"""One run's way to the models: keeps its books, its ceilings and its progress lines.

Wraps the dispatcher for a single run. Every provider call of the run passes here exactly once, so usage, cost and the
schedule report are sums over what this class saw, and nothing else counts anything. Decides no routing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from decimal import Decimal

from app.domain.calls import CallAnswer, ModelCall
from app.domain.chat import NO_USAGE, ChatRequest, Usage
from app.domain.errors import GatewayError, TokenBudgetError, UpstreamError
from app.domain.estimate import estimate_tokens
from app.domain.ports import Clock, Journal, ModelCaller
from app.domain.run import CallRecord, CallState


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
        tokens_max: Ceiling over all calls of the run, input and output; None for none.

    Not thread-safe: the conductor's event loop is the lock.
    """

    def __init__(self, inner: ModelCaller, journal: Journal, clock: Clock, *, tokens_max: int | None) -> None:
        self._inner = inner
        self._journal = journal
        self._clock = clock
        self._tokens_max = tokens_max
        self._tokens_reserved = 0
        self._tokens_used = 0
        self.spans: list[CallSpan] = []

    async def call(self, call: ModelCall) -> CallAnswer:
        """Record, make and record one call; errors as the port says, and TokenBudgetError."""
        ceiling = _ceiling(call.request)
        self._reserve(call, ceiling)
        record = CallRecord(
            key=call.call_id,
            run_id=call.run_id,
            task_id=call.task_id,
            purpose=call.purpose,
            attempt=call.attempt,
            state=CallState.SENT,
            models=call.models,
            request_sha=_request_sha(call.request),
            created_s=self._clock.wall_s(),
            sent_s=self._clock.wall_s(),
        )
        try:
            await self._journal.record_calls([record])
            answer = await self._inner.call(call)
        except GatewayError as error:
            await self._journal.record_calls([self._failed(record, error)])
            raise
        finally:
            self._tokens_reserved -= ceiling
        self._tokens_used += answer.usage.input_tokens + answer.usage.output_tokens
        self.spans.append(CallSpan(call=call, answer=answer))
        await self._journal.record_calls([self._done(record, answer)])
        return answer

    def usage(self, task_id: str | None = None, *, purpose: str | None = None) -> Usage:
        """Return the sum over the run, one task, or one purpose."""
        total = NO_USAGE
        for span in self._matching(task_id, purpose):
            total = total.plus(span.answer.usage)
        return total

    def cost_usd(self, task_id: str | None = None, *, purpose: str | None = None) -> str | None:
        """Return the summed cost as decimal text; None where any call's price is unknown."""
        total = Decimal(0)
        for span in self._matching(task_id, purpose):
            if span.answer.cost_usd is None:
                return None
            total += Decimal(span.answer.cost_usd)
        return format(total, "f")

    def _matching(self, task_id: str | None, purpose: str | None) -> list[CallSpan]:
        return [
            span
            for span in self.spans
            if (task_id is None or span.call.task_id == task_id) and (purpose is None or span.call.purpose == purpose)
        ]

    def _reserve(self, call: ModelCall, ceiling: int) -> None:
        if self._tokens_max is not None and self._tokens_used + self._tokens_reserved + ceiling > self._tokens_max:
            raise TokenBudgetError(
                f"the run may use {self._tokens_max} tokens; {self._tokens_used} are used, {self._tokens_reserved} "
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
            tries=answer.tries,
        )


def _ceiling(request: ChatRequest) -> int:
    return estimate_tokens(request) + (request.output_tokens_max or 0)


def _request_sha(request: ChatRequest) -> str:
    return hashlib.sha256(repr(request).encode()).hexdigest()
