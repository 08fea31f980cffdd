"""The account actor: limiter, health and adapter of one account (or of all that share a limiter), and its calls.

An account's own calls go upstream here and nowhere else, so nothing can walk around a limiter. It admits at most what
the limits allow, promises starts at most a horizon ahead, keeps every outcome until its caller collects it, and saves
its limiters' state. Decides nothing about who should call.

May die at any moment: calls in flight are lost to their callers, who are told so by Ray; limiters that had admitted
anything since their last save start empty; the directory configures the new life.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import orjson

from actors import telemetry, tracing
from app.domain.account_state import AccountBook, Ending
from app.domain.accounts import AccountSpec, EndpointClass, ModelInfo
from app.domain.calls import Admission, CallOrder, CallOutcome, CallPlace, Collected
from app.domain.chat import ChatDelta, ChatRequest, ChatResult, Message, Role
from app.domain.errors import (
    CapacityError,
    DeadlineError,
    GatewayError,
    InternalError,
    UpstreamError,
    UpstreamKind,
)
from app.domain.leases import Bundle, Exchange, Exchanged
from app.domain.limiter_state import LimiterState, SavedLimiter
from app.domain.load import LoadRow
from app.domain.permit_office import PermitOffice
from app.domain.telemetry import TelemetrySpec
from app.domain.trace_context import TraceContext, enter, use
from app.domain.views import AccountView, LiveCheck
from app.providers.background import BackgroundCall
from app.providers.base import BackgroundAdapter, ProviderAdapter
from app.services.telemetry.provider_calls import CANCELLED, CallEnd, ProviderCall
from app.services.telemetry.tracing import kind_of, span

MAILBOX_OUTCOMES_MAX = 10_000
"""Outcomes kept for an owner that does not collect; beyond it the oldest are dropped: that owner is gone."""
LOOK_PERIOD_S = 1.0
SAVE_PERIOD_S = 5.0
"""Of limiters' states, unless a call failed: then they are saved at the next look."""
DRAIN_LOOK_S = 0.05
CHECK_TIMEOUT_S = 30.0
CHECK_TOKENS = 16

AdapterFactory = Callable[[AccountSpec, Sequence[ModelInfo]], ProviderAdapter]

_log = logging.getLogger(__name__)


class AccountStore(Protocol):
    """Where limiter states and the places of calls survive; ``store_handle.StoreHandle`` provides it."""

    async def save_limiters(self, states: Sequence[SavedLimiter], wall_s: float) -> None: ...
    async def find_limiters(self, keys: Sequence[tuple[str, str]]) -> Sequence[SavedLimiter]: ...
    async def place_call(self, place: CallPlace) -> None: ...


@dataclass(slots=True, eq=False)
class _Mailbox:
    outcomes: list[CallOutcome] = field(default_factory=list)
    filled: asyncio.Event = field(default_factory=asyncio.Event)


class AccountHost:
    """Serves one or several accounts.

    Args:
        host: This actor's name.
        store: Where limiter states are kept.
        adapters: Makes the provider adapter of an account; None where nothing is ever called from here (the callers'
            own limits).

    Not thread-safe: the actor's event loop is the lock.
    """

    def __init__(self, host: str, store: AccountStore, adapters: AdapterFactory | None) -> None:
        self._host = host
        self._store = store
        self._make_adapter = adapters
        self._incarnation = uuid.uuid4().hex
        self._version = 0
        self._book = AccountBook()
        self._adapters: dict[str, tuple[AccountSpec, ProviderAdapter]] = {}
        self._calls: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._mailboxes: dict[str, _Mailbox] = {}
        self._office = PermitOffice(self._book, self._incarnation)
        self._refused = asyncio.Event()
        self._draining = False
        self._saver: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()

    async def configure(
        self,
        version: int,
        accounts: Sequence[AccountSpec],
        models: Sequence[ModelInfo],
        watched: TelemetrySpec | None = None,
    ) -> None:
        """Serve these accounts from now on; calls of removed ones end on their own."""
        if watched is not None:
            telemetry.follow(watched, role=self._host)
        known = self._book.scopes()
        wanted = {(account.scope, model) for account in accounts for model, _limits in account.limits}
        saved = await self._saved(sorted(wanted - known))
        self._book.configure(accounts, models, saved, time.monotonic_ns(), time.time_ns())
        for account in accounts:
            await self._refresh_adapter(account, models)
        for name in set(self._adapters) - {account.name for account in accounts}:
            _spec, adapter = self._adapters.pop(name)
            self._spawn(adapter.aclose())
        self._version = version
        self._draining = self._office.closed = False
        await self._save(clean=False)
        if self._saver is None:
            self._saver = self._spawn(self._keep_saving())

    async def status(self) -> tuple[str, int, list[LoadRow]]:
        """Return (incarnation, configured version, load rows)."""
        return self._incarnation, self._version, self._rows()

    async def views(self) -> list[AccountView]:
        """Return what operators look at, a row per (account, model)."""
        return self._book.views(time.monotonic_ns())

    async def submit(self, orders: Sequence[CallOrder]) -> list[Admission]:
        """Admit or refuse each order at once; what is admitted is sent at its start without further asking."""
        return [self._admit(order) for order in orders]

    async def collect(self, owner: str, wait_s: float, incarnation: str = "") -> Collected:
        """Return the outcomes of ``owner``, waiting up to ``wait_s`` seconds for the first.

        Args:
            owner: Whose.
            wait_s: Longest wait.
            incarnation: Which life the caller believes to ask; if it is another one it is told so at once.
        """
        if incarnation not in ("", self._incarnation):
            wait_s = 0.0
        mailbox = self._mailboxes.setdefault(owner, _Mailbox())
        if not mailbox.outcomes:
            mailbox.filled.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(mailbox.filled.wait(), wait_s)
        outcomes, mailbox.outcomes = mailbox.outcomes, []
        return Collected(incarnation=self._incarnation, outcomes=tuple(outcomes))

    async def exchange(self, message: Exchange) -> Exchanged:
        """Take what a holder of permits reports and grant what it wishes (``leases``)."""
        now_ns, wall_ns, epoch = time.monotonic_ns(), time.time_ns(), self._office.epoch
        moved = self._office.settle(message, now_ns, wall_ns)
        admissions, bundles = self._office.grant(message, now_ns, wall_ns)
        if self._office.epoch != epoch:
            self._refused.set()
            self._refused = asyncio.Event()
        moved.update((wish.account, wish.model) for wish in message.wishes)
        moved.update((wish.account, wish.model) for wish in message.bundles)
        rows = [self._book.row(account, model, now_ns) for account, model in moved]
        return self._exchanged(admissions, bundles, [row for row in rows if row is not None])

    async def watch(self, epoch: int, wait_s: float) -> Exchanged:
        """Tell a holder at once, or after ``wait_s`` seconds, that its spare permits must not be used any more."""
        if self._office.epoch == epoch:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._refused.wait(), wait_s)
        return self._exchanged((), (), self._rows())

    async def chat(
        self, account: str, request: ChatRequest, timeout_s: float, trace: TraceContext | None = None
    ) -> ChatResult:
        """Make a call for the holder of a permit that cannot make it itself; ``request.model`` is the upstream's."""
        with use(trace), span("account"):
            return await self._adapter(account).chat_completion(request, timeout_s=timeout_s)

    async def chat_stream(
        self, account: str, request: ChatRequest, timeout_s: float, trace: TraceContext | None = None
    ) -> AsyncGenerator[ChatDelta, None]:
        """Stream the like."""
        enter(trace)
        deltas = self._adapter(account).chat_completion_stream(request, timeout_s=timeout_s, idle_timeout_s=timeout_s)
        async with contextlib.aclosing(deltas):
            async for delta in deltas:
                yield delta

    def _adapter(self, account: str) -> ProviderAdapter:
        try:
            return self._adapters[account][1]
        except KeyError:
            raise UpstreamError(f"{account} is not here any more", kind=UpstreamKind.CONNECTION) from None

    async def cancel(self, owner: str, call_ids: Sequence[str]) -> None:
        """Stop these calls; unknown ones are ignored and no outcome is delivered."""
        for call_id in call_ids:
            task = self._calls.get((owner, call_id))
            if task is not None:
                task.cancel()

    async def check(self, account: str) -> LiveCheck:
        """Make one tiny call outside any run, within the limits.

        A person asks for it, so a dead key gets another chance: the account may have been topped up.
        """
        spec, _adapter = self._adapters[account]
        model = spec.models[0][0]
        self._book.revive(account)
        order = CallOrder(
            call_id=uuid.uuid4().hex,
            owner=f"check-{uuid.uuid4().hex}",
            account=account,
            model=model,
            request=ChatRequest(
                model=model, messages=(Message(role=Role.USER, text="Say ok."),), output_tokens_max=CHECK_TOKENS
            ),
            input_tokens=CHECK_TOKENS,
            output_tokens_max=CHECK_TOKENS,
            timeout_s=CHECK_TIMEOUT_S,
        )
        started = time.monotonic()
        admission = self._admit(order)
        if admission.admitted:
            outcomes = (await self.collect(order.owner, CHECK_TIMEOUT_S + order.horizon_s)).outcomes
            error = outcomes[0].error if outcomes else DeadlineError(f"{account} did not answer in time")
        else:
            error = CapacityError(f"not called: {admission.reason}; possible in {admission.start_in_s:.0f} s")
        self._mailboxes.pop(order.owner, None)
        remedy = f"; {error.remedy}" if error is not None and error.remedy else ""
        return LiveCheck(
            account=account,
            provider=spec.provider.value,
            model=model,
            ok=error is None,
            seconds=round(time.monotonic() - started, 3),
            message="answered" if error is None else f"{error.message}{remedy}",
        )

    async def drain(self, timeout_s: float) -> None:
        """Admit nothing more, let calls end (at most ``timeout_s``), save the limiters as clean, close connections."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + timeout_s
        self._draining = self._office.closed = True
        if self._calls:
            _done, late = await asyncio.wait(self._calls.values(), timeout=timeout_s)
            for task in late:
                task.cancel()
        while self._office.held and loop.time() < until_s:  # noqa: ASYNC110  other processes are waited for
            await asyncio.sleep(DRAIN_LOOK_S)  # their holders report, or the time is over
        if self._saver is not None:
            self._saver.cancel()
            self._saver = None
        await self._save(clean=True)
        for _spec, adapter in self._adapters.values():
            await adapter.aclose()
        await tracing.flush()

    def _admit(self, order: CallOrder) -> Admission:
        if self._draining or order.account not in self._adapters:
            return Admission(call_id=order.call_id, admitted=False, start_in_s=1.0, reason="not served here now")
        now_ns = time.monotonic_ns()
        ticket = _ticket(order)
        decision = self._book.admit(order, ticket, now_ns, time.time_ns(), horizon_s=order.horizon_s)
        start_ns = now_ns + int(decision.start_in_s * 1e9)
        if decision.refused_for_good:
            self._deliver(order, None, _too_large(order, decision.reason), 0.0, 0.0)
        elif decision.admitted:
            task = self._spawn(self._call(order, ticket, start_ns))
            key = (order.owner, order.call_id)
            self._calls[key] = task
            task.add_done_callback(lambda _task: self._calls.pop(key, None))
        return Admission(
            call_id=order.call_id,
            admitted=decision.admitted or decision.refused_for_good,
            start_in_s=decision.start_in_s,
            reason=decision.reason,
            load=self._book.row(order.account, order.model, now_ns),
            incarnation=self._incarnation,
        )

    async def _call(self, order: CallOrder, ticket: str, start_ns: int) -> None:
        enter(order.trace)
        admitted_ns = time.monotonic_ns()
        sent_ns: int | None = None
        begun: ProviderCall | None = None
        try:
            with span("lease"):
                await _sleep_until(start_ns)
            if not self._book.may_send(order, ticket, time.monotonic_ns()):
                self._turn_away(order, ticket, admitted_ns)
                return
            sent_ns = time.monotonic_ns()
            provider = self._adapters[order.account][0].provider.value
            begun = ProviderCall("chat", provider, order.account, order.model)
            with begun:
                result = await self._upstream(order)
        except asyncio.CancelledError:
            if begun is not None:
                begun.end(CallEnd(error=CANCELLED))
            ending = Ending.WITHDRAWN if sent_ns is None else Ending.CANCELLED
            self._book.end(order, ticket, ending, time.monotonic_ns())
            raise
        except GatewayError as error:
            if begun is not None:
                begun.end(CallEnd(error=kind_of(error)))
            self._fail(order, ticket, error, admitted_ns, sent_ns or admitted_ns)
            return
        begun.end(CallEnd(result.usage))
        now_ns = time.monotonic_ns()
        self._book.succeed(
            order, ticket, result.usage, result.observations, now_ns, duration_s=(now_ns - sent_ns) / 1e9
        )
        self._deliver(order, result, None, (sent_ns - admitted_ns) / 1e9, (now_ns - sent_ns) / 1e9)

    def _turn_away(self, order: CallOrder, ticket: str, admitted_ns: int) -> None:
        """Give a promised start back: the account began to cool down before it came."""
        now_ns = time.monotonic_ns()
        self._book.end(order, ticket, Ending.WITHDRAWN, now_ns)
        error = UpstreamError(
            f"{order.account} began to cool down", kind=UpstreamKind.MINUTE_LIMIT, account=order.account
        )
        self._deliver(order, None, error, (now_ns - admitted_ns) / 1e9, 0.0)

    async def _upstream(self, order: CallOrder) -> ChatResult:
        spec, adapter = self._adapters[order.account]
        request = replace(order.request, model=spec.upstream_model(order.model) or order.model)
        key = request.call_key if spec.endpoint is not EndpointClass.OPAQUE else None
        place = CallPlace(key=key or "", account=order.account, model=order.model, epoch=order.epoch)
        if key is not None and request.begun_as is None:
            # On disk before it is sent: whoever recovers the call must know where to ask for it.
            await self._store.place_call(place)
        try:
            if key is not None and isinstance(adapter, BackgroundAdapter):
                background = BackgroundCall(
                    adapter,
                    request,
                    note=lambda name: self._store.place_call(replace(place, provider_id=name)),
                    is_wanted=lambda: self._draining or self._is_taken_over(order),
                )
                return await background.answer(order.timeout_s)
            return await adapter.chat_completion(request, timeout_s=order.timeout_s)
        except GatewayError:
            raise
        except Exception as error:  # noqa: BLE001  outermost edge of a call: an adapter's bug must not lose the outcome
            _log.exception("the adapter of %s failed", order.account)
            raise InternalError(f"the adapter of {order.account} failed ({type(error).__name__})") from None

    def _is_taken_over(self, order: CallOrder) -> bool:
        """Tell whether its run's next conductor has ordered the same call, and waits for it."""
        owners = [owner for owner, call_id in self._calls if call_id == order.call_id]
        return owners[-1:] not in ([], [order.owner])

    def _fail(self, order: CallOrder, ticket: str, error: GatewayError, admitted_ns: int, sent_ns: int) -> None:
        now_ns = time.monotonic_ns()
        if isinstance(error, UpstreamError):
            error.account = order.account
            self._book.fail(order, ticket, error, now_ns, time.time_ns())
        else:
            self._book.end(order, ticket, Ending.CANCELLED, now_ns)
        self._deliver(order, None, error, (sent_ns - admitted_ns) / 1e9, (now_ns - sent_ns) / 1e9)

    def _deliver(
        self,
        order: CallOrder,
        result: ChatResult | None,
        error: GatewayError | None,
        queued_s: float,
        duration_s: float,
    ) -> None:
        mailbox = self._mailboxes.setdefault(order.owner, _Mailbox())
        mailbox.outcomes.append(
            CallOutcome(
                call_id=order.call_id,
                account=order.account,
                model=order.model,
                result=result,
                error=error,
                queued_s=queued_s,
                ttft_s=None,
                duration_s=duration_s,
                load=self._book.row(order.account, order.model, time.monotonic_ns()),
            )
        )
        del mailbox.outcomes[:-MAILBOX_OUTCOMES_MAX]
        mailbox.filled.set()

    def _rows(self) -> list[LoadRow]:
        return self._book.rows(time.monotonic_ns(), time.time_ns())

    async def _refresh_adapter(self, account: AccountSpec, models: Sequence[ModelInfo]) -> None:
        if self._make_adapter is None:
            return
        known = self._adapters.get(account.name)
        if known is not None and _same_upstream(known[0], account):
            self._adapters[account.name] = (account, known[1])
            return
        served = {model for model, _upstream in account.models}
        adapter = self._make_adapter(account, [model for model in models if model.name in served])
        self._adapters[account.name] = (account, adapter)
        if known is not None:
            self._spawn(known[1].aclose())

    async def _saved(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[LimiterState, bool]]:
        found = await self._store.find_limiters(keys) if keys else ()
        return {
            (saved.scope, saved.model): (LimiterState.from_dict(orjson.loads(saved.state)), saved.clean)
            for saved in found
        }

    def _exchanged(
        self, admissions: Sequence[Admission], bundles: Sequence[Bundle], rows: Sequence[LoadRow]
    ) -> Exchanged:
        return Exchanged(
            incarnation=self._incarnation,
            epoch=self._office.epoch,
            admissions=tuple(admissions),
            bundles=tuple(bundles),
            rows=tuple(rows),
        )

    async def _keep_saving(self) -> None:
        saved_s = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_PERIOD_S)
            self._office.sweep(time.monotonic_ns())
            if self._book.troubled or (self._book.dirty and time.monotonic() - saved_s >= SAVE_PERIOD_S):
                saved_s = time.monotonic()
                try:
                    await self._save(clean=False)
                except GatewayError as error:
                    _log.warning("limiter states of %s were not saved: %s", self._host, error.message)

    async def _save(self, *, clean: bool) -> None:
        states = self._book.snapshots(time.monotonic_ns(), time.time_ns())
        await self._store.save_limiters(
            [
                SavedLimiter(scope=scope, model=model, state=orjson.dumps(state.to_dict()).decode(), clean=clean)
                for (scope, model), state in states.items()
            ],
            time.time(),
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task


async def _sleep_until(start_ns: int) -> None:
    while (left_ns := start_ns - time.monotonic_ns()) > 0:  # noqa: ASYNC110  time is waited for, not an event
        await asyncio.sleep(left_ns / 1e9)


def _ticket(order: CallOrder) -> str:
    return f"{order.owner}/{order.call_id}"


def _same_upstream(old: AccountSpec, new: AccountSpec) -> bool:
    """Tell whether the adapter of ``old`` serves ``new`` as well: everything but limits is equal."""
    return replace(old, limits=()) == replace(new, limits=())


def _too_large(order: CallOrder, reason: str) -> UpstreamError:
    return UpstreamError(
        f"{order.account} can never admit the call: {reason}", kind=UpstreamKind.TOO_LONG, account=order.account
    )
