"""Gets permits for calls: from the hand where an account has given spare ones, else in fair order from its actor.

The fast way costs no message (``spares``). The slow way is the dispatcher's (late binding, scheduling-and-evaluation.md
4.3): waiting calls stay here, in fair order, and are bound to an account only when it can start them within a horizon.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace

from app.domain.calls import Admission
from app.domain.errors import CapacityError, GatewayError, RequestError, UpstreamError, UpstreamKind
from app.domain.gateway import ServiceClass
from app.domain.leases import Exchanged, PermitReport, PermitWish
from app.domain.load import LoadRow, why_late
from app.domain.permit_office import OTHERS_TURN
from app.domain.placement import NEVER_S, Board, Choice, Wait, place
from app.domain.ports import Clock, PermitHosts
from app.domain.prospect import Prospect
from app.services.gateway.host_mail import REPORT_DELAY_S, HostMail, Letter
from app.services.gateway.spares import EDGE_S, RECHECK_S, REFUSED_PAUSE_S, Slot, Slots
from app.services.gateway.wants import Bounds, Permit, Waiting, WaitingCalls, Want
from app.services.roster import SnapshotRoster

__all__ = ["Bounds", "Permit", "PermitDesk", "Want"]

HORIZON_S = 0.5
MISSES_MAX = 32
"""So many calls that no spare permit fits, and the others are not tried."""
SOON_S = 0.001
WAITED_FOR_S = 0.2
"""Reports wait this long for the next wish while calls wait for the minute's limits: starts are bound earlier."""
TICK_S = 0.2
CLOSED_MAX_S = 2.0
"""After a refusal the account's actor is asked again at the latest after this: it knows, and may know better."""

_log = logging.getLogger(__name__)


class PermitDesk:
    """One per replica.

    Args:
        hosts: The account actors.
        roster: What is known of accounts and load.
        clock: Time.
        owner: Name of this holder; unique per life.
        on_silence: Told when a host does not answer.
        bounds: As configured.

    Not thread-safe: one event loop.
    """

    def __init__(
        self,
        hosts: PermitHosts,
        roster: SnapshotRoster,
        clock: Clock,
        *,
        owner: str,
        on_silence: Callable[[str], Awaitable[None]],
        bounds: Bounds = Bounds(),
    ) -> None:
        self._roster = roster
        self._clock = clock
        self._owner = owner
        self._bounds = bounds
        self._slots = Slots()
        self._mail: HostMail[Waiting] = HostMail(hosts, clock, owner, self, on_silence)
        self._queue = WaitingCalls(bounds.queue_max)
        self._numbers = itertools.count(1)
        self._wake = asyncio.Event()
        self._look_ns = 0
        """When a start comes within the horizon, or a call that was refused may ask again."""
        self._held: Counter[str] = Counter()
        """Permits in use, by the host that gave them."""

    @property
    def waiting(self) -> int:
        """Calls that wait for a permit."""
        return len(self._queue)

    @property
    def outstanding(self) -> int:
        """Permits in use."""
        return sum(slot.outstanding for slot in self._slots)

    def wake(self) -> None:
        """Look at the waiting calls again: load or membership changed."""
        self._wake.set()

    async def acquire(self, want: Want, *, timeout_s: float) -> Permit:
        """Return a permit that may be used now.

        Raises:
            CapacityError: the queue is full, nobody can ever serve, or no start came within ``timeout_s``;
                ``retry_after_s`` is the earliest recovery known, None where nobody serves these models at all.
            RequestError: the call is larger than a whole limit of every account.
        """
        if not self._queue:
            permit = self._take(want, self._clock.monotonic_ns())
            if permit is not None:
                return permit
        return await self._wait(want, timeout_s)

    def is_able(self, account: str, model: str, *, within_s: float) -> bool:
        """Tell whether that account serves that model now or within so many seconds, as far as known."""
        now_ns = self._clock.monotonic_ns()
        row = self._roster.row(account, model)
        if row is None or row.state == "dead" or not self._is_reachable(account, model, now_ns):
            return False
        return max(row.cooldown_s, row.closed_s) - (now_ns / 1e9 - row.observed_at_s) <= within_s

    def report(self, permit: Permit, report: PermitReport) -> None:
        """Say what became of a permit; must be called exactly once for each."""
        slot = self._slots.of(permit.account, permit.model)
        slot.outstanding -= 1
        slot.yield_ns = 0  # what it held is free
        self._held[permit.host] -= 1
        if not self._held[permit.host]:
            del self._held[permit.host]
        if report.ending == "answered" and not self._is_timed(slot):
            slot.note_call(report.duration_s)
        if report.error is not None:
            self._close(slot, report.error)
        self._mail.report(permit.host, report, within_s=self._patience_s(slot) if report.error is None else 0.0)

    async def run(self) -> None:
        """Serve waiting calls for ever; the owner runs this as its one background task."""
        ticked_ns = self._clock.monotonic_ns()
        while True:
            with contextlib.suppress(TimeoutError):
                # Not ``wait_for``: that of Python 3.11 may swallow the cancellation that ends this task.
                left_s = (self._look_ns - self._clock.monotonic_ns()) / 1e9
                async with asyncio.timeout(min(TICK_S, max(left_s, SOON_S))):
                    await self._wake.wait()
            self._wake.clear()
            now_ns = self._clock.monotonic_ns()
            if now_ns - ticked_ns >= TICK_S * 1e9:
                self._tick(now_ns, (now_ns - ticked_ns) / 1e9)
                ticked_ns = now_ns
            try:
                self._place_waiting(now_ns)
            except Exception:  # noqa: BLE001  outermost edge: without this task no waiting call is ever served again
                _log.exception("nothing can be placed")

    async def aclose(self) -> None:
        """Give spare permits back and say what is unsaid."""
        for slot in self._slots:
            self._return_spares(slot)
        await self._mail.aclose()

    # How answers are read: host_mail.Reader.

    def on_news(self, host: str, news: Exchanged, *, reborn: bool, refused: bool) -> None:
        """See ``host_mail.Reader``."""
        for row in news.rows:
            self._roster.note(row)
        if reborn:
            for slot in self._slots:
                slot.drop_from(host)  # the new life does not know them
        elif refused:
            self._return_all(host)
        if self._queue:
            self.wake()

    def on_answer(self, host: str, letter: Letter[Waiting], answer: Exchanged) -> None:
        """See ``host_mail.Reader``."""
        now_ns = self._clock.monotonic_ns()
        for bundle_wish in letter.bundles:
            self._slots.of(bundle_wish.account, bundle_wish.model).asked = False
        for bundle in answer.bundles:
            self._slots.of(bundle.account, bundle.model).take_bundle(bundle, letter.asked_ns, host)
        for (item, wish), admission in zip(letter.wishes, answer.admissions, strict=True):
            self._take_admission(host, item, wish, admission, now_ns)

    def on_lost(self, host: str, letter: Letter[Waiting]) -> None:
        """See ``host_mail.Reader``."""
        self._return_all(host)
        for bundle_wish in letter.bundles:
            self._slots.of(bundle_wish.account, bundle_wish.model).asked = False
        for item, wish in letter.wishes:
            if item.asked is wish:
                item.asked = None
        self.wake()

    def _return_all(self, host: str) -> None:
        for slot in self._slots:
            for call_id in slot.drop_from(host):
                self._mail.report(host, PermitReport(call_id=call_id, ending="withdrawn"), within_s=REPORT_DELAY_S)

    def _take(self, want: Want, now_ns: int) -> Permit | None:
        """Return a permit from the hand, if there is one."""
        slot, lighter = self._slots.choose(
            want.candidates, want.input_tokens, want.output_tokens_max, want.avoid_accounts, now_ns
        )
        if slot is None:
            return None
        call_id, *_validity, host = slot.spares.popleft()
        self._use(slot, want, host)
        lighter_host = self._roster.host_of(lighter.account) if lighter is not None else None
        if lighter is not None and lighter_host is not None:
            lighter.note_demand(want.input_tokens, want.output_tokens_max)
            self._ask(lighter, want, lighter_host)
        return Permit(call_id=call_id, account=slot.account, model=slot.model, host=host)

    def _use(self, slot: Slot, want: Want, host: str) -> None:
        slot.outstanding += 1
        self._held[host] += 1
        slot.note_demand(want.input_tokens, want.output_tokens_max)
        self._ask(slot, want, host)

    def _ask(self, slot: Slot, want: Want, host: str) -> None:
        """Ask for spare permits where they run low; batch work takes none from the others."""
        if want.service_class is ServiceClass.BATCH or (self._queue and self._is_short(slot)):
            return
        wish = slot.wish()
        if wish is not None:
            self._mail.ask_spares(host, wish)

    def _is_short(self, slot: Slot) -> bool:
        """Tell whether so little is left there that no spare permits are given."""
        row, now_s = self._roster.row(slot.account, slot.model), self._clock.monotonic_ns() / 1e9
        return row is not None and any(
            each.level + (now_s - row.observed_at_s) * each.rate_per_s < each.capacity / 4 for each in row.buckets
        )

    def _return_spares(self, slot: Slot, until_ns: int | None = None) -> None:
        for call_id, host in slot.drop(until_ns):
            self._mail.report(host, PermitReport(call_id=call_id, ending="withdrawn"), within_s=self._patience_s(slot))

    def _patience_s(self, slot: Slot) -> float:
        """Return how long a report may wait: what it frees is of use to who waits, or where permits are not spare."""
        if self._queue:
            row = self._roster.row(slot.account, slot.model)
            by_slots = row is None or (row.concurrency is not None and 2 * row.in_flight >= row.concurrency)
            return 0.0 if by_slots else WAITED_FOR_S
        return slot.patience_s(REPORT_DELAY_S)

    def _close(self, slot: Slot, error: UpstreamError) -> None:
        """Send nothing more where it was just refused; the account's actor says the rest."""
        if error.kind in (UpstreamKind.MINUTE_LIMIT, UpstreamKind.DAY_LIMIT, UpstreamKind.DEAD_KEY):
            pause_s = min(error.retry_after_s if error.retry_after_s is not None else 1.0, CLOSED_MAX_S)
            slot.closed_ns = max(slot.closed_ns, self._clock.monotonic_ns() + int(pause_s * 1e9))
            self._return_spares(slot)

    async def _wait(self, want: Want, timeout_s: float) -> Permit:
        if self._queue.full:
            self._make_room(want)
        item = self._enqueue(want)
        unseen = True
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    permit, start_ns = await item.answer
                    unseen = False
                    if await self._reached(permit, start_ns):
                        return permit
                    # The account began to cool down before the promised start.
                    item.answer = asyncio.get_running_loop().create_future()
                    item.asked, unseen = None, True
                    self._push(item, again=True)
        except TimeoutError:
            reason = item.reason or "all accounts are busy"
            raise CapacityError(
                f"no account could start the call within {timeout_s:.0f} s: {reason}",
                retry_after_s=self._earliest_s(want),
            ) from None
        finally:
            self._leave(item, unseen=unseen)

    def _make_room(self, want: Want) -> None:
        """Refuse the newest call of whoever waits most, else this one: a burst may not shut others out."""
        full = CapacityError("too many calls are waiting already", retry_after_s=self._earliest_s(want) or 1.0)
        displaced = self._queue.find_displaced(want.caller)
        if displaced is None:
            raise full
        self._refuse(displaced, full)

    def _enqueue(self, want: Want) -> Waiting:
        item = Waiting(
            want=want,
            ready=want.ready(f"{self._owner}/{next(self._numbers)}"),
            answer=asyncio.get_running_loop().create_future(),
        )
        self._push(item)
        return item

    def _push(self, item: Waiting, *, again: bool = False) -> None:
        if self._queue.push(item, again=again):
            self.wake()

    def _leave(self, item: Waiting, *, unseen: bool) -> None:
        """Forget a call that was served or gave up; a permit that nobody saw goes back."""
        self._queue.remove(item, served=False)
        if not item.answer.done():
            item.answer.cancel()  # a permit that comes later finds this and goes back
        elif unseen and not item.answer.cancelled() and item.answer.exception() is None:
            permit, _start_ns = item.answer.result()
            self._withdraw(permit)

    def _withdraw(self, permit: Permit) -> None:
        self.report(permit, PermitReport(call_id=permit.call_id, ending="withdrawn"))

    async def _reached(self, permit: Permit, start_ns: int) -> bool:
        """Wait for a promised start; False, and the permit goes back, where a refusal came in between."""
        try:
            while (left_ns := start_ns - self._clock.monotonic_ns()) > 0:  # noqa: ASYNC110  time is waited for
                await asyncio.sleep(left_ns / 1e9)
        except asyncio.CancelledError:
            self._withdraw(permit)
            raise
        if self._is_cooling(permit.account, permit.model):
            self._withdraw(permit)
            return False
        return True

    def _is_cooling(self, account: str, model: str) -> bool:
        """Tell whether a refusal was met there, by us or as another holder met it."""
        now_ns = self._clock.monotonic_ns()
        row = self._roster.row(account, model)
        return not self._slots.is_open(account, model, now_ns) or (
            row is not None and (row.state == "dead" or row.cooldown_s > now_ns / 1e9 - row.observed_at_s)
        )

    def _earliest_s(self, want: Want) -> float | None:
        (found,) = place([want.ready("")], self._roster.load(), self._clock.monotonic_ns() / 1e9)
        return found.start_in_s if found.start_in_s < NEVER_S else None

    def _place_waiting(self, now_ns: int) -> None:
        self._look_ns = now_ns + int(TICK_S * 1e9)
        if not self._queue:
            return
        if any(slot.spares for slot in self._slots):
            self._give_spares(now_ns)
        rows = [
            row
            for row in self._roster.load()
            if self._queue.wants(row.model) and self._is_reachable(row.account, row.model, now_ns)
        ]
        board = Board(rows, now_ns / 1e9, horizon_s=HORIZON_S)
        decided = self._queue.decide(board, now_ns, is_asking=lambda item: self._is_asking(item, now_ns))
        hosts = {self._bind(item, decision, now_ns) for item, decision in decided}
        for host in hosts:
            if host is not None:
                self._mail.send(host)

    def _give_spares(self, now_ns: int) -> None:
        misses = 0
        for item in self._queue.peek():
            if self._is_asking(item, now_ns):
                continue
            permit = self._take(item.want, now_ns)
            if permit is not None:
                self._give(item, permit, now_ns)
                continue
            misses += 1
            if misses >= MISSES_MAX:
                return

    def _is_asking(self, item: Waiting, now_ns: int) -> bool:
        return item.asked is not None and not self._mail.is_silent(item.asked_host, now_ns)

    def _look_at(self, at_ns: int) -> None:
        self._look_ns = min(self._look_ns, at_ns)

    def _bind(self, item: Waiting, decision: Choice | Wait, now_ns: int) -> str | None:
        """Ask for the permit of a call whose start is near; return whom."""
        if isinstance(decision, Wait):
            item.reason = decision.reason
        else:
            row = self._roster.row(decision.account, decision.model)
            slot = self._slots.of(decision.account, decision.model)
            due = (decision.account, decision.model) == item.due[:2] and item.due[2] <= now_ns
            if slot.is_worth_asking(
                0.0 if due else decision.start_in_s, HORIZON_S, now_ns, known_at_s=row.observed_at_s if row else 0.0
            ):
                host = self._roster.host_of(decision.account)
                assert host is not None, "rows of accounts without a host are not reachable"
                item.asked, item.asked_host = self._wish(item, decision), host
                self._mail.wish(host, item, item.asked)
                return host
            self._look_at(now_ns + int((decision.start_in_s - HORIZON_S) * 1e9))
            item.reason = why_late(decision.account, row)
        if decision.start_in_s >= NEVER_S and not self._may_come(item.want, now_ns):
            self._refuse(item, CapacityError(item.reason, remedy="look at `tutti accounts`, or name another model"))
        return None

    def _wish(self, item: Waiting, choice: Choice) -> PermitWish:
        return PermitWish(
            call_id=f"{self._owner}/{next(self._numbers)}",
            account=choice.account,
            model=choice.model,
            input_tokens=item.want.input_tokens,
            output_tokens_max=item.want.output_tokens_max,
            horizon_s=HORIZON_S + EDGE_S,
            headroom=self._bounds.batch_headroom if item.want.service_class is ServiceClass.BATCH else 0.0,
        )

    def _is_reachable(self, account: str, model: str, now_ns: int) -> bool:
        host = self._roster.host_of(account)
        if host is None or self._mail.is_silent(host, now_ns):
            return False
        opens_ns = self._slots.opens_ns(account, model)
        if opens_ns > now_ns and self._queue:
            self._look_at(opens_ns)
        return opens_ns <= now_ns

    def _may_come(self, want: Want, now_ns: int) -> bool:
        """Tell whether an account that is starting, restarting or cooling may yet take the call."""
        return any(
            not self._is_reachable(account, candidate.model, now_ns)
            or self._roster.row(account, candidate.model) is None
            for candidate in want.candidates
            for account in candidate.accounts
        )

    def _take_admission(self, host: str, item: Waiting, wish: PermitWish, admission: Admission, now_ns: int) -> None:
        if admission.admitted:
            self._use(self._slots.of(wish.account, wish.model), item.want, host)
            permit = Permit(call_id=wish.call_id, account=wish.account, model=wish.model, host=host)
            self._give(item, permit, now_ns + int(admission.start_in_s * 1e9))
            return
        if item.asked is not wish:
            return  # its host took so long that the call went elsewhere meanwhile
        item.asked, item.reason = None, admission.reason
        if admission.too_large:
            self._exclude(item, wish)
            return
        slot = self._slots.of(wish.account, wish.model)
        due_ns = slot.note_refusal(admission.start_in_s, HORIZON_S, now_ns, turn=admission.reason == OTHERS_TURN)
        item.due = (wish.account, wish.model, due_ns)
        pause_s = min(max(admission.start_in_s - HORIZON_S, REFUSED_PAUSE_S), RECHECK_S)
        item.not_before_ns = now_ns + int(pause_s * 1e9)
        self._look_at(max(item.not_before_ns, slot.yield_ns))

    def _exclude(self, item: Waiting, wish: PermitWish) -> None:
        left = item.ready.only - {(wish.account, wish.model)}
        item.ready = replace(item.ready, only=left)
        if not left:
            size = f"{wish.input_tokens} + {wish.output_tokens_max} tokens"
            message = f"the call of {size} needs more than a whole limit of every account"
            self._refuse(item, RequestError(message, param="max_tokens", remedy="ask for less output"))

    def _give(self, item: Waiting, permit: Permit, start_ns: int) -> None:
        self._queue.remove(item, served=True)
        if item.answer.done():
            self._withdraw(permit)
        else:
            item.answer.set_result((permit, start_ns))

    def _refuse(self, item: Waiting, error: GatewayError) -> None:
        self._queue.remove(item, served=False)
        if not item.answer.done():
            item.answer.set_exception(error)

    def _tick(self, now_ns: int, seconds: float) -> None:
        """Return spares that are out of date, follow the demand, say that we live."""
        for slot in self._slots:
            if slot.is_idle(now_ns) and self._roster.host_of(slot.account) is None:
                self._slots.forget(slot)  # removed from the configuration
                continue
            slot.tick(seconds)
            self._return_spares(slot, now_ns)
        self._compare_speeds()
        self._mail.beat(set(self._held), now_ns)

    def _is_timed(self, slot: Slot) -> bool:
        """Tell whether the account's speed is known: then how long its calls took by chance does not matter."""
        row = self._roster.row(slot.account, slot.model)
        return slot.measured and row is not None and row.tokens_per_s is not None

    def _compare_speeds(self) -> None:
        """Let spare permits be drawn by what placement goes by: how long the same call takes at each account."""
        by_model: dict[str, list[LoadRow]] = {}
        for each in self._roster.load():
            by_model.setdefault(each.model, []).append(each)
        prospects = {model: Prospect(own, None) for model, own in by_model.items()}
        for slot in self._slots:
            row = self._roster.row(slot.account, slot.model)
            if row is not None and self._is_timed(slot):
                slot.call_s = prospects[slot.model].answer_s(row)
