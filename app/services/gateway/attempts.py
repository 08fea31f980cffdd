"""Sends one client call under permits until somebody answers: at once elsewhere, on the same account after a pause.

One attempt budget and one deadline per call; over all calls the retries stay within a share (``RetryBudget``). Every
permit ends in exactly one report, however the call ends. A call that its client leaves is stopped, or read to its end
where stopping would not stop the bill (``drains``).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from app.domain.books.tiers import asked_tier
from app.domain.chat import NO_USAGE, ChatDelta, ChatRequest, ChatResult, Usage
from app.domain.crash_points import CrashPoint, passes
from app.domain.errors import (
    CallLostError,
    CapacityError,
    DeadlineError,
    GatewayError,
    InternalError,
    RequestError,
    UpstreamError,
    UpstreamKind,
)
from app.domain.gateway import Caller, Candidate, EmbeddingRequest, EmbeddingResult, fitting
from app.domain.leases import PermitReport
from app.domain.ports import Clock, Tells, Upstream, Upstreams
from app.domain.retries import Elsewhere, GiveUp, RetryBudget, SameAccountAfter, Tries, next_step
from app.services.events.emitter import Silence
from app.services.gateway.drains import Drains, Tell
from app.services.gateway.lost_calls import found_again
from app.services.gateway.permits import Permit, PermitDesk, Want
from app.services.gateway.retry_events import tell_retry
from app.services.gateway.spending import Billing, Extent, Spends
from app.services.telemetry.instruments import note_wait
from app.services.telemetry.provider_calls import CANCELLED, CallEnd, ProviderCall
from app.services.telemetry.tracing import span

SOON_S = 5.0
"""An account that serves again within this is worth waiting for, rather than going back to the one that failed."""

_STARTED = ChatDelta()

T = TypeVar("T")
R = TypeVar("R", bound=ChatRequest | EmbeddingRequest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bid(Generic[R]):
    """A client call, routed and sized."""

    request: R
    candidates: tuple[Candidate, ...]
    input_tokens: int
    output_tokens_max: int
    caller: Caller
    deadline_s: float
    """Seconds from now until the answer is worthless."""
    queue_s: float
    """Longest wait for a permit."""
    idle_timeout_s: float = 60.0
    billing: Billing = field(default_factory=Billing)
    billable_output_tokens: int | None = None
    """The most that it may generate, all choices together; None: ``output_tokens_max``."""
    key: str = ""
    """Our name of the call, the same when its client repeats it; empty: it is the first attempt's."""
    lost_at_s: float | None = None
    """When a replica died that was making it, seconds since 1970: it may have been bought."""

    @property
    def extent(self) -> Extent:
        """How large an attempt may become, for the books."""
        output = self.output_tokens_max if self.billable_output_tokens is None else self.billable_output_tokens
        tier = asked_tier(self.request.extra)
        return Extent(input_tokens=self.input_tokens, output_tokens_max=output, tier=tier)


@dataclass(frozen=True, slots=True, kw_only=True)
class Won:
    """Who answered, and what it took."""

    permit: Permit
    attempts: int
    upstream_s: float
    """Of the attempt that succeeded; for a stream until its first delta."""


@dataclass(slots=True)
class _State:
    avoid: set[str] = field(default_factory=set)
    tried: list[str] = field(default_factory=list)
    unfit: set[tuple[str, str]] = field(default_factory=set)
    """(account, model) pairs that can never take this call."""
    last: GatewayError | None = None


class Attempts:
    """Makes attempts for all calls of a replica.

    Args:
        desk: Gives permits.
        upstreams: The adapters.
        clock: Time.
        spending: Keeps the books.
        retries: The pool-wide bound.
        attempts_max: Per call, the first included.
        events: Told of attempts that are followed by another; None: nobody is.

    Not thread-safe: one event loop.
    """

    def __init__(  # noqa: PLR0913  the parts of a replica, put together in one place
        self,
        desk: PermitDesk,
        upstreams: Upstreams,
        clock: Clock,
        *,
        spending: Spends,
        retries: RetryBudget,
        attempts_max: int,
        events: Tells | None = None,
    ) -> None:
        self._desk = desk
        self._upstreams = upstreams
        self._clock = clock
        self._spending = spending
        self._retries = retries
        self._attempts_max = attempts_max
        self._events: Tells = events or Silence()
        self._sent_calls: dict[str, ProviderCall] = {}
        """Under way, by their permits; each ends with its report."""
        self.drains = Drains()
        """Calls whose clients have left."""

    def provider(self, account: str) -> str:
        """Return the account's provider; empty where there is no such account any more."""
        return self._upstreams.provider(account)

    async def complete(self, bid: Bid[ChatRequest]) -> tuple[ChatResult, Won]:
        """Return a whole answer; errors as ``_first``."""
        if bid.lost_at_s is not None and bid.key:
            bid = await found_again(bid, self._upstreams)
        return await self._first(bid, self._ask)

    async def embed(self, bid: Bid[EmbeddingRequest]) -> tuple[EmbeddingResult, Won]:
        """Return vectors; errors as ``_first``."""
        return await self._first(bid, self._embed)

    async def open(self, bid: Bid[ChatRequest]) -> tuple[AsyncGenerator[ChatDelta, None], Won]:
        """Return a stream whose first delta is there; until then failures go elsewhere, after it they are raised."""
        return await self._first(bid, self._open)

    def follow(self, bid: Bid[ChatRequest], tell: Tell) -> bool:
        """See ``Drains.follow``: for a call that was left."""
        return self.drains.follow(bid, tell)

    async def aclose(self) -> None:
        """Stop the calls whose clients have left; the others end with their own tasks."""
        await self.drains.aclose()

    async def _first(
        self, bid: Bid[R], send: Callable[[Bid[R], Permit, Upstream, float], Awaitable[T]]
    ) -> tuple[T, Won]:
        """Return the first success.

        Raises:
            RequestError: no account can take this request.
            UpstreamError: the last failure, where no further attempt is allowed.
            CapacityError, DeadlineError: nobody could start, or the time is over.
        """
        state = _State()
        until_s = self._now_s() + bid.deadline_s
        self._retries.on_call(self._clock.monotonic_ns())
        for number in range(1, self._attempts_max + 1):
            permit = await self._permit(bid, state, until_s)
            began_s = self._now_s()
            upstream = self._find(permit)
            if upstream is None:
                self._withdraw(permit)
                state.unfit.add((permit.account, permit.model))
                continue
            await self._hold(bid, permit)
            state.tried.append(_pair(permit.account, permit.model))
            try:
                with self._begin(bid, permit):
                    answer = await send(bid, permit, upstream, until_s - began_s)
            except RequestError as error:
                # This provider cannot be told the request; another may.
                state.last = error
                state.unfit.update((account, permit.model) for account in self._same_provider(bid, permit))
            except UpstreamError as error:
                error.account = error.account or permit.account
                state.last = error
                if number == self._attempts_max:
                    raise
                if not bid.key:
                    # One key for all attempts: an account that honours it bills the call once, however often it comes.
                    bid = replace(bid, key=permit.call_id)
                await self._prepare(bid, state, error, permit, until_s)
                elsewhere = permit.account in state.avoid
                tell_retry(self._events, bid.billing, error, attempts=len(state.tried), elsewhere=elsewhere)
            else:
                return answer, Won(permit=permit, attempts=number, upstream_s=self._now_s() - began_s)
        raise state.last or CapacityError("no account serves this model any more")

    async def _hold(self, bid: Bid[R], permit: Permit) -> None:
        """Have the attempt's ceiling held; without that nothing is sent."""
        passes(CrashPoint.BEFORE_HOLD)
        try:
            await self._spending.begin(permit, self._upstreams.provider(permit.account), bid.billing, bid.extent)
        except BaseException:
            self._withdraw(permit)
            raise
        passes(CrashPoint.HELD)

    def _find(self, permit: Permit) -> Upstream | None:
        try:
            return self._upstreams.of(permit.account)
        except KeyError:  # removed from the configuration meanwhile
            return None

    async def _permit(self, bid: Bid[R], state: _State, until_s: float) -> Permit:
        left_s = until_s - self._now_s()
        if left_s <= 0:
            raise state.last or DeadlineError(f"not answered within {bid.deadline_s:.0f} s")
        candidates = fitting(bid.candidates, state.unfit)
        if not candidates:
            raise state.last or CapacityError("no account serves this model any more")
        want = Want(
            candidates=candidates,
            input_tokens=bid.input_tokens,
            output_tokens_max=bid.output_tokens_max,
            caller=bid.caller.name,
            weight=bid.caller.weight,
            service_class=bid.caller.service_class,
            avoid_accounts=frozenset(state.avoid),
        )
        began_s = self._now_s()
        try:
            with span("lease"):
                return await self._desk.acquire(want, timeout_s=min(left_s, bid.queue_s))
        except CapacityError:
            if isinstance(state.last, UpstreamError):
                raise state.last from None  # what failed says more than that nobody else was free
            raise
        finally:
            note_wait(self._now_s() - began_s, "account")

    async def _ask(self, bid: Bid[ChatRequest], permit: Permit, upstream: Upstream, left_s: float) -> ChatResult:
        asking = self._asked(bid, permit, upstream, left_s)
        if self._upstreams.goes_on(permit.account, stream=False):
            return await self.drains.whole(bid, asking)
        return await asking

    async def _asked(self, bid: Bid[ChatRequest], permit: Permit, upstream: Upstream, left_s: float) -> ChatResult:
        request = replace(
            bid.request,
            model=self._upstreams.name(permit.account, permit.model),
            call_key=bid.key or permit.call_id,
        )
        began_s = self._now_s()
        result = await self._sent(permit, upstream.chat_completion(request, timeout_s=left_s))
        duration_s = self._now_s() - began_s
        self._report(
            permit,
            PermitReport(
                call_id=permit.call_id,
                ending="answered",
                usage=_known(result.usage, bid),
                observations=result.observations,
                duration_s=duration_s,
            ),
        )
        return result

    async def _embed(
        self, bid: Bid[EmbeddingRequest], permit: Permit, upstream: Upstream, left_s: float
    ) -> EmbeddingResult:
        request = replace(bid.request, model=self._upstreams.name(permit.account, permit.model))
        began_s = self._now_s()
        result = await self._sent(permit, upstream.embed(request, timeout_s=left_s))
        self._report(
            permit,
            PermitReport(
                call_id=permit.call_id,
                ending="answered",
                usage=Usage(input_tokens=result.input_tokens, output_tokens=0, source=result.source),
                observations=result.observations,
                duration_s=self._now_s() - began_s,
            ),
        )
        return result

    async def _sent(self, permit: Permit, call: Awaitable[T]) -> T:
        """Await an answer, and report how it failed."""
        try:
            return await call
        except StopAsyncIteration:
            raise
        except RequestError:
            self._withdraw(permit)  # refused before it was sent
            raise
        except UpstreamError as error:
            self._fail(permit, error)
            raise
        except InternalError as error:
            lost = _lost(error, permit)
            self._fail(permit, lost)
            raise lost from None
        except BaseException:
            # Cancelled, or a bug of the adapter: either way it may have been sent.
            self._report(permit, PermitReport(call_id=permit.call_id, ending="cancelled"))
            raise

    async def _open(
        self, bid: Bid[ChatRequest], permit: Permit, upstream: Upstream, left_s: float
    ) -> AsyncGenerator[ChatDelta, None]:
        opening = self._opened(bid, permit, upstream, left_s)
        if self._upstreams.goes_on(permit.account, stream=True):
            return await self.drains.stream(bid, opening)
        return await opening

    async def _opened(
        self, bid: Bid[ChatRequest], permit: Permit, upstream: Upstream, left_s: float
    ) -> AsyncGenerator[ChatDelta, None]:
        request = replace(
            bid.request,
            model=self._upstreams.name(permit.account, permit.model),
            call_key=bid.key or permit.call_id,
        )
        began_s = self._now_s()
        deltas = upstream.chat_completion_stream(request, timeout_s=left_s, idle_timeout_s=bid.idle_timeout_s)
        try:
            first = await self._sent(permit, anext(deltas))
        except StopAsyncIteration:
            error = UpstreamError(f"{permit.account} answered nothing", kind=UpstreamKind.GARBAGE, billed=None)
            self._fail(permit, error)
            raise error from None
        except BaseException:
            await deltas.aclose()
            raise
        relay = self._relay(bid, permit, first, deltas, began_s)
        # Started here: closing a generator that never ran would neither stop the provider nor report.
        await anext(relay)
        return relay

    async def _relay(
        self,
        bid: Bid[ChatRequest],
        permit: Permit,
        first: ChatDelta,
        deltas: AsyncGenerator[ChatDelta, None],
        began_s: float,
    ) -> AsyncGenerator[ChatDelta, None]:
        """Yield one delta that only starts it, then pass the stream on; report its end, whichever it is."""
        usage, finished = first.usage, first.finish_reason is not None
        ttft_s = self._now_s() - began_s
        ending: PermitReport | None = None
        try:
            yield _STARTED
            yield first
            async for delta in deltas:
                usage, finished = delta.usage or usage, finished or delta.finish_reason is not None
                yield delta
            finished, usage = True, _known(usage, bid)
        except InternalError as error:
            lost = _lost(error, permit)
            ending = PermitReport(call_id=permit.call_id, ending="failed", error=lost)
            raise lost from None
        except UpstreamError as error:
            ending = PermitReport(call_id=permit.call_id, ending="failed", error=error)
            raise
        finally:
            # Who leaves closes the connection; where that would not stop the bill, nobody leaves (`_open`).
            try:
                await deltas.aclose()
            finally:
                if ending is None and finished and usage is not None:
                    ending = PermitReport(
                        call_id=permit.call_id,
                        ending="answered",
                        usage=usage,
                        observations=first.observations,
                        duration_s=self._now_s() - began_s,
                        ttft_s=ttft_s,
                    )
                self._report(permit, ending or PermitReport(call_id=permit.call_id, ending="cancelled"))

    def _begin(self, bid: Bid[R], permit: Permit) -> ProviderCall:
        operation = "embeddings" if isinstance(bid.request, EmbeddingRequest) else "chat"
        begun = ProviderCall(operation, self._upstreams.provider(permit.account), permit.account, permit.model)
        self._sent_calls[permit.call_id] = begun
        return begun

    def _report(self, permit: Permit, report: PermitReport) -> None:
        begun = self._sent_calls.pop(permit.call_id, None)
        if begun is not None:
            begun.end(_measured(report))
        passes(CrashPoint.BEFORE_SETTLE)
        self._desk.report(permit, report)
        self._spending.end(permit, report)

    def _fail(self, permit: Permit, error: UpstreamError) -> None:
        self._report(permit, PermitReport(call_id=permit.call_id, ending="failed", error=error))

    def _withdraw(self, permit: Permit) -> None:
        self._report(permit, PermitReport(call_id=permit.call_id, ending="withdrawn"))

    async def _prepare(self, bid: Bid[R], state: _State, error: UpstreamError, permit: Permit, until_s: float) -> None:
        """Note who failed; pause where the next attempt meets the same account, raise where there is none."""
        if error.kind is UpstreamKind.TOO_LONG:
            state.unfit.update((account, permit.model) for account in self._same_model(bid, permit))
        elif error.kind is UpstreamKind.MODEL_MISSING:
            state.unfit.add((permit.account, permit.model))
        able = self._able(bid, state, error, permit)
        tries = Tries(
            attempts=len(state.tried),
            tried_accounts=state.tried,
            able_accounts=[_pair(account, model) for account, model in able],
            left_s=until_s - self._now_s(),
            attempts_max=self._attempts_max,
        )
        step = next_step(error, tries, self._retries, self._clock.monotonic_ns(), random.random())
        match step:
            case GiveUp():
                raise error
            case SameAccountAfter(pause_s=pause_s):
                if pause_s > bid.queue_s:
                    raise error  # a longer wait than the queue's: the client may choose it by `retry-after`
                state.avoid.discard(permit.account)
                await asyncio.sleep(pause_s)
            case Elsewhere(avoid=avoid):
                self._avoid(state, permit, able, whole_provider=avoid == "provider")

    def _able(self, bid: Bid[R], state: _State, error: UpstreamError, permit: Permit) -> list[tuple[str, str]]:
        """Return the (account, model) pairs that could take the call soon, and the one that failed."""
        failed = (permit.account, permit.model)
        pairs = [
            (account, candidate.model)
            for candidate in fitting(bid.candidates, state.unfit)
            for account in candidate.accounts
            if error.kind is not UpstreamKind.DEAD_KEY or account != permit.account
        ]
        return [pair for pair in pairs if pair == failed or self._desk.is_able(*pair, within_s=SOON_S)]

    def _avoid(self, state: _State, permit: Permit, able: list[tuple[str, str]], *, whole_provider: bool) -> None:
        """Keep the next attempt away from what failed, as far as there is something else."""
        untried = [(account, model) for account, model in able if _pair(account, model) not in state.tried]
        if untried and all(account == permit.account for account, _model in untried):
            state.unfit.add((permit.account, permit.model))  # another model of the very same account
            return
        state.avoid.add(permit.account)
        provider = self._upstreams.provider(permit.account)
        same = {account for account, _model in able if self._upstreams.provider(account) == provider}
        if whole_provider and any(account not in same for account, _model in untried):
            state.avoid.update(same)

    def _same_model(self, bid: Bid[R], permit: Permit) -> tuple[str, ...]:
        return next((each.accounts for each in bid.candidates if each.model == permit.model), ())

    def _same_provider(self, bid: Bid[R], permit: Permit) -> tuple[str, ...]:
        provider = self._upstreams.provider(permit.account)
        return tuple(name for name in self._same_model(bid, permit) if self._upstreams.provider(name) == provider)

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / 1e9


def _measured(report: PermitReport) -> CallEnd:
    error = report.error.kind.value if report.error is not None else ("" if report.ending == "answered" else CANCELLED)
    return CallEnd(report.usage, report.ttft_s, error)


def _pair(account: str, model: str) -> str:
    """Return how retries call a choice: an account's models fail apart from each other."""
    return f"{account}/{model}"


def _known(usage: Usage | None, bid: Bid[ChatRequest]) -> Usage:
    """Return what was used; all that was reserved where the provider did not say: it may have been that much."""
    if usage is not None and usage != NO_USAGE:
        return usage
    return Usage(input_tokens=bid.input_tokens, output_tokens=bid.output_tokens_max, source="estimated")


def _lost(error: InternalError, permit: Permit) -> CallLostError:
    """Return a failure of ours on the way to the provider as a call that may have been made."""
    return CallLostError(error.message, kind=UpstreamKind.CUT, account=permit.account, billed=None)
