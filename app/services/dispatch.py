"""Places calls on accounts: least loaded by earliest estimated finish, bound late, in order of critical path.

A call stays here until an account can start it within ``HORIZON_S``; the account has the last word and refuses with its
fresh state otherwise (scheduling-and-evaluation.md 4.3b: with stale tables this is what keeps the pool full and never
over its limits). One placement per call: what to do after a failure is decided by ``run_caller``. Knows no prices:
what a call cost is said by the run's books alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from app.domain.accounts import Orchestra
from app.domain.calls import Admission, CallAnswer, CallOrder, CallOutcome, ModelCall
from app.domain.chat import Json
from app.domain.errors import CallLostError, CapacityError, DeadlineError, GatewayError, InternalError, UpstreamKind
from app.domain.estimate import estimate_tokens
from app.domain.load import why_late
from app.domain.placement import NEVER_S, Choice, ReadyCall, Wait, place
from app.domain.ports import AccountHosts, Clock
from app.domain.trace_context import TraceContext, current
from app.services.roster import SnapshotRoster
from app.services.telemetry.instruments import note_wait

HORIZON_S = 0.5
"""Bind a call to an account only if it starts this soon; 0.1 to 2 s made no difference in simulation."""
BATCH_ORDERS_MAX = 32
REFUSED_PAUSE_S = 0.01
RECHECK_S = 0.25
"""Longest sleep while calls wait, in case a wake-up was missed or an account recovered unannounced."""
SILENCE_S = 2.0
"""A host that did not answer gets no calls for this long: by then the directory has looked at it."""
SILENT_PAUSE_S = 0.2
OUTPUT_TOKENS_DEFAULT = 1_024

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallProgress:
    """Something happened to a call that its run may want to show."""

    call: ModelCall
    kind: Literal["started", "waiting"]
    account: str = ""
    model: str = ""
    seconds: float = 0.0
    """Started: how long it waited here. Waiting: until the earliest start, as far as known."""
    reason: str = ""

    def details(self) -> dict[str, Json]:
        """Return the fields as an event payload."""
        return {"reason": self.reason, "retry_after_s": round(self.seconds, 1)}


class StoppedUnsentError(asyncio.CancelledError):
    """The waiting task was cancelled before the call was offered to any account: certainly nothing was bought."""


@dataclass(slots=True, eq=False, kw_only=True)
class _Waiting:
    call: ModelCall
    answer: asyncio.Future[CallAnswer]
    queued_ns: int
    ready: ReadyCall
    trace: TraceContext | None = None
    host: str = ""
    account: str = ""
    started_ns: int = 0
    not_before_ns: int = 0
    """An account refused it until then; asking earlier would only be refused again."""
    told_waiting: bool = False
    submitted: bool = False
    incarnation: str = ""
    """The life of the host that admitted it."""


@dataclass(slots=True, kw_only=True)
class _Host:
    incarnation: str = ""
    """The life that answered last."""
    in_flight: dict[str, _Waiting] = field(default_factory=dict)
    collector: asyncio.Task[None] | None = None


class Dispatcher:
    """The port ``ModelCaller`` over the account actors.

    Args:
        hosts: The account actors.
        roster: What is known of accounts and load.
        clock: Time.
        owner: Name of this dispatcher's mailbox at the account actors; unique per life.
        on_progress: Told when a call was sent or has to wait.
        on_silence: Told when a host does not answer.

    Not thread-safe: one event loop.
    """

    def __init__(
        self,
        hosts: AccountHosts,
        roster: SnapshotRoster,
        clock: Clock,
        *,
        owner: str,
        on_progress: Callable[[CallProgress], None],
        on_silence: Callable[[str], Awaitable[None]],
    ) -> None:
        self._client = hosts
        self._roster = roster
        self._clock = clock
        self._owner = owner
        self._on_progress = on_progress
        self._on_silence = on_silence
        self._ready: dict[str, _Waiting] = {}
        self._hosts: dict[str, _Host] = {}
        self._silent_until_ns: dict[str, int] = {}
        self._wake = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()

    def wake(self) -> None:
        """Look at the waiting calls again: load or membership changed."""
        self._wake.set()

    async def call(self, call: ModelCall) -> CallAnswer:
        """Place one call and return its answer; errors as the port ``ModelCaller`` says."""
        if call.call_id in self._ready:
            raise InternalError(f"the call {call.call_id!r} is already waiting")
        waiting = _Waiting(
            call=call,
            answer=asyncio.get_running_loop().create_future(),
            queued_ns=self._clock.monotonic_ns(),
            trace=current(),
            ready=ReadyCall(
                call_id=call.call_id,
                models=call.models,
                input_tokens=estimate_tokens(call.request),
                output_tokens_max=call.request.output_tokens_max or OUTPUT_TOKENS_DEFAULT,
                avoid_accounts=call.avoid_accounts,
                only=frozenset((call.account, model) for model in call.models) if call.account else frozenset(),
            ),
        )
        self._ready[call.call_id] = waiting
        self.wake()
        try:
            async with asyncio.timeout(call.deadline_s):
                return await waiting.answer
        except TimeoutError:
            raise self._too_late(waiting) from None
        except asyncio.CancelledError:
            if waiting.submitted:
                raise
            raise StoppedUnsentError from None
        finally:
            self._withdraw(waiting)

    async def run(self) -> None:
        """Place calls for ever; the owner runs this as its one background task."""
        while True:
            sleep_s = self._sleep_s()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), sleep_s)
            self._wake.clear()
            try:
                self._place_ready()
            except GatewayError as error:
                _log.warning("nothing can be placed: %s", error.message)

    def _sleep_s(self) -> float | None:
        waiting = [item.not_before_ns for item in self._ready.values() if not item.submitted]
        if not waiting:
            return None
        until_s = (min(waiting) - self._clock.monotonic_ns()) / 1e9
        return min(until_s, RECHECK_S) if until_s > 0 else RECHECK_S

    def _place_ready(self) -> None:
        now_ns = self._clock.monotonic_ns()
        waiting = [item for item in self._ready.values() if not item.submitted and item.not_before_ns <= now_ns]
        if not waiting:
            return
        orchestra = self._roster.orchestra()
        rows = [row for row in self._roster.load() if self._is_reachable(row.account, now_ns)]
        waiting.sort(key=lambda item: (-item.call.rank_s, item.queued_ns))
        placed = place([item.ready for item in waiting], rows, now_ns / 1e9, horizon_s=HORIZON_S)
        batches: dict[str, list[tuple[_Waiting, CallOrder]]] = {}
        for item, decision in zip(waiting, placed, strict=True):
            if isinstance(decision, Choice) and decision.start_in_s <= HORIZON_S:
                host = self._roster.host_of(decision.account)
                assert host is not None
                batches.setdefault(host, []).append((item, self._order(item, decision, orchestra)))
            else:
                reason = decision.reason if isinstance(decision, Wait) else self._why_late(decision)
                self._tell_waiting(item, decision.start_in_s, reason)
        for host, orders in batches.items():
            for first in range(0, len(orders), BATCH_ORDERS_MAX):
                batch = orders[first : first + BATCH_ORDERS_MAX]
                for item, order in batch:
                    item.submitted, item.account, item.host = True, order.account, host
                self._spawn(self._submit(host, batch))

    def _why_late(self, choice: Choice) -> str:
        return why_late(choice.account, self._roster.row(choice.account, choice.model))

    def _order(self, item: _Waiting, choice: Choice, orchestra: Orchestra) -> CallOrder:
        waited_s = (self._clock.monotonic_ns() - item.queued_ns) / 1e9
        timeout_s = min(orchestra.account(choice.account).timeout_s, max(0.1, item.call.deadline_s - waited_s))
        return CallOrder(
            call_id=item.call.call_id,
            owner=self._owner,
            account=choice.account,
            model=choice.model,
            request=item.call.request,
            input_tokens=item.ready.input_tokens,
            output_tokens_max=item.ready.output_tokens_max,
            timeout_s=timeout_s,
            horizon_s=HORIZON_S,
            trace=item.trace,
            epoch=item.call.epoch,
        )

    async def _submit(self, name: str, batch: Sequence[tuple[_Waiting, CallOrder]]) -> None:
        host = self._hosts.setdefault(name, _Host())
        # In flight before the answer comes: an outcome may overtake the admission.
        host.in_flight.update({order.call_id: item for item, order in batch})
        if host.collector is None or host.collector.done():
            host.collector = self._spawn(self._collect(name, host))
        try:
            admissions = await self._client.submit(name, [order for _item, order in batch])
        except GatewayError as error:
            _log.warning("%s did not take calls: %s", name, error.message)
            await self._lose(name, host, [item for item, _order in batch])
            return
        for (item, order), admission in zip(batch, admissions, strict=True):
            self._take_admission(host, item, order, admission)
        self.wake()

    def _take_admission(self, host: _Host, item: _Waiting, order: CallOrder, admission: Admission) -> None:
        if admission.load is not None:
            self._roster.note(admission.load)
        if not admission.admitted:
            host.in_flight.pop(order.call_id, None)
            item.submitted = False
            pause_s = min(max(admission.start_in_s - HORIZON_S, REFUSED_PAUSE_S), RECHECK_S)
            item.not_before_ns = self._clock.monotonic_ns() + int(pause_s * 1e9)
            return
        now_ns = self._clock.monotonic_ns()
        item.incarnation = admission.incarnation
        item.started_ns = now_ns + int(admission.start_in_s * 1e9)
        note_wait((item.started_ns - item.queued_ns) / 1e9, "account")
        self._on_progress(
            CallProgress(
                call=item.call,
                kind="started",
                account=order.account,
                model=order.model,
                seconds=(item.started_ns - item.queued_ns) / 1e9,
            )
        )

    async def _collect(self, name: str, host: _Host) -> None:
        while host.in_flight:
            try:
                collected = await self._client.collect(name, self._owner, host.incarnation)
            except GatewayError as error:
                _log.warning("%s does not answer: %s", name, error.message)
                host.incarnation = ""
                await self._lose(name, host, [item for item in host.in_flight.values() if item.incarnation])
                await asyncio.sleep(SILENT_PAUSE_S)  # orders on their way hear of it from their own call
                continue
            host.incarnation = collected.incarnation
            for outcome in collected.outcomes:
                self._take_outcome(host, outcome)
            if collected.outcomes:
                self.wake()
            # A host may die and be back between two questions: its new life knows nothing of the old one's calls.
            forgotten = [item for item in host.in_flight.values() if item.incarnation not in ("", host.incarnation)]
            if forgotten:
                await self._lose(name, host, forgotten)

    def _take_outcome(self, host: _Host, outcome: CallOutcome) -> None:
        if outcome.load is not None:
            self._roster.note(outcome.load)
        item = host.in_flight.pop(outcome.call_id, None)
        if item is None or item.answer.done():
            return
        if outcome.error is not None or outcome.result is None:
            item.answer.set_exception(outcome.error or InternalError("an outcome without result and error"))
            return
        finished_s = self._clock.monotonic_ns() / 1e9
        item.answer.set_result(
            CallAnswer(
                call_id=outcome.call_id,
                account=outcome.account,
                model=outcome.model,
                result=outcome.result,
                usage=outcome.result.usage,
                queued_at_s=item.queued_ns / 1e9,
                started_at_s=finished_s - outcome.duration_s,
                finished_at_s=finished_s,
                tries=1,
            )
        )

    async def _lose(self, name: str, host: _Host, items: Sequence[_Waiting]) -> None:
        """Fail calls whose host went away: whether they were billed is unknown. It gets no others for a while."""
        _log.warning("%s went away with %d calls", name, len(items))
        self._silent_until_ns[name] = self._clock.monotonic_ns() + int(SILENCE_S * 1e9)
        for item in items:
            host.in_flight.pop(item.call.call_id, None)
            if not item.answer.done():
                item.answer.set_exception(
                    CallLostError(
                        f"the actor of {item.account} went away during the call",
                        kind=UpstreamKind.CONNECTION,
                        account=item.account,
                        billed=None,
                    )
                )
        with contextlib.suppress(GatewayError):
            await self._on_silence(name)
        self.wake()

    def _withdraw(self, item: _Waiting) -> None:
        """Forget a call that ended, was cancelled or ran out of time; stop it upstream where it still runs."""
        self._ready.pop(item.call.call_id, None)
        host = self._hosts.get(item.host)
        if host is not None and host.in_flight.pop(item.call.call_id, None) is not None:
            self._spawn(self._cancel(item.host, item.call.call_id))

    async def _cancel(self, name: str, call_id: str) -> None:
        with contextlib.suppress(GatewayError):  # a host that is gone has nothing left to stop
            await self._client.cancel(name, self._owner, [call_id])

    def _is_reachable(self, account: str, now_ns: int) -> bool:
        host = self._roster.host_of(account)
        return host is not None and self._silent_until_ns.get(host, 0) <= now_ns

    def _may_come(self, call: ModelCall) -> bool:
        """Tell whether an account that is starting, or whose actor is being restarted, may yet take the call."""
        orchestra, now_ns = self._roster.orchestra(), self._clock.monotonic_ns()
        names = [account.name for model in call.models for account in orchestra.accounts_of(model)]
        return any(not self._is_reachable(name, now_ns) for name in names)

    def _tell_waiting(self, item: _Waiting, start_in_s: float, reason: str) -> None:
        if start_in_s >= NEVER_S and self._may_come(item.call):
            start_in_s, reason = SILENCE_S, "its account is starting"
        if start_in_s >= NEVER_S and not item.answer.done():
            item.answer.set_exception(CapacityError(reason, remedy="look at `tutti accounts`, or name another model"))
        elif not item.told_waiting:
            item.told_waiting = True
            self._on_progress(CallProgress(call=item.call, kind="waiting", seconds=start_in_s, reason=reason))

    def _too_late(self, item: _Waiting) -> GatewayError:
        # Offered to an account that has not said yet whether it took it: it may have been sent.
        if item.submitted:
            return DeadlineError(f"{item.account} did not answer within {item.call.deadline_s:.0f} s")
        return CapacityError(f"no account could start the call within {item.call.deadline_s:.0f} s", retry_after_s=5.0)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task
