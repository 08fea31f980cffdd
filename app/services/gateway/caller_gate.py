"""Admits calls against their caller's own limits, exactly and across replicas.

The limiters live in one actor, an account host like any other whose "accounts" are the callers (``hosting``); here are
only permits of them. A caller over its limit is refused at once: unlike an account's, its limit is not worth waiting
for. Only for a slot it waits a moment: one that is free may not be known to be yet, as reports wait for company, and
another replica may have it to spare. While that actor is away, as it is for seconds when it is restarted, calls wait
for it: nothing is let past unchecked.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import get_args

from app.domain.account_state import TOO_MANY
from app.domain.allowance import NOTHING, Allowance, InHand, allowances, tightest
from app.domain.calls import Admission
from app.domain.chat import Usage
from app.domain.errors import CapacityError, InternalError, QuotaError
from app.domain.gateway import Caller, Candidate
from app.domain.hosting import CALLERS_HOST, CALLERS_MODEL, caller_account, is_user, user_account
from app.domain.leases import PERMIT_VALID_S, Exchanged, PermitReport, PermitWish
from app.domain.limits import LimitName
from app.domain.load import LoadRow
from app.domain.ports import Clock, PermitHosts
from app.services.gateway.host_mail import REPORT_DELAY_S, HostMail, Letter
from app.services.gateway.spares import Slot, Slots

PATIENCE_S = 10.0
"""A call waits for the limiters so long, if they are away; less where its own time is shorter."""
ASK_AGAIN_S = 0.25
"""Between two questions to limiters that live, but do not know this caller yet."""
TICK_S = 0.2
SLOT_PATIENCE_S = PERMIT_VALID_S + TICK_S + 2 * REPORT_DELAY_S
"""A call waits so long for a slot: by then what another replica has to spare has come back."""
IDLE_RATE = 0.01
"""Calls a second below which a caller is forgotten here."""
USER_ROWS_MAX = 10_000
"""Users whose limits' last known state is kept here, for the headers of their answers."""
_LIMITS = frozenset(get_args(LimitName))


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A call that its caller's limits let pass; settle it once."""

    caller: str
    held: tuple[tuple[str, str], ...] = ()
    """(account, permit) of every limit that it counts against."""


@dataclass(slots=True, eq=False)
class _Asking:
    answer: asyncio.Future[bool]
    """Admitted, or False: nobody can say now."""


class CallerGate:
    """One per replica.

    Args:
        hosts: The actor of the callers' limiters, reached like account actors.
        clock: Time.
        owner: Name of this holder; unique per life.
        on_silence: Told when that actor does not answer.

    Not thread-safe: one event loop.
    """

    def __init__(
        self, hosts: PermitHosts, clock: Clock, *, owner: str, on_silence: Callable[[str], Awaitable[None]]
    ) -> None:
        self._clock = clock
        self._owner = owner
        self._slots = Slots()
        self._rows: dict[str, LoadRow] = {}
        self._user_rows: OrderedDict[str, LoadRow] = OrderedDict()
        self._users_held = 0
        self._mail: HostMail[_Asking] = HostMail(hosts, clock, owner, self, on_silence)
        self._numbers = itertools.count(1)

    async def admit(
        self,
        caller: Caller,
        input_tokens: int,
        output_tokens_max: int,
        user: str | None = None,
        *,
        deadline_s: float = PATIENCE_S,
    ) -> Admitted:
        """Reserve for one call, of one user where users have limits: those who name none are one.

        Waits ``deadline_s`` seconds and ``PATIENCE_S`` at most, and only for limiters that cannot be asked.

        Raises:
            QuotaError: a limit is used up; ``retry_after_s`` says when it is not.
            CapacityError: more users than can be kept apart call within a minute.
            InternalError: the limiters cannot be asked: nothing is let past them.
        """
        ends_ns = self._clock.monotonic_ns() + int(min(deadline_s, PATIENCE_S) * 1e9)
        held: tuple[tuple[str, str], ...] = ()
        if not caller.user_limits.unlimited:
            # First: a user over the limit must not touch what the others have.
            account = user_account(caller.name, user or "")
            held = ((account, await self._ask(account, input_tokens, output_tokens_max, ends_ns)),)
            self._users_held += 1
        if not caller.limits.unlimited:
            try:
                own = await self._reserve(caller_account(caller.name), input_tokens, output_tokens_max, ends_ns)
            except BaseException:
                self.settle(Admitted(caller=caller.name, held=held), None, sent=False)
                raise
            held = (*held, own)
        return Admitted(caller=caller.name, held=held)

    def settle(self, admitted: Admitted, usage: Usage | None, *, sent: bool = True) -> None:
        """Replace the reservation by what was used; None where that is unknown. ``sent=False`` gives it back."""
        for account, call_id in admitted.held:
            within_s = REPORT_DELAY_S
            if is_user(account):
                self._users_held -= 1
            else:
                slot = self._slots.of(account, CALLERS_MODEL)
                slot.outstanding -= 1
                within_s = slot.patience_s(REPORT_DELAY_S)
            if not sent:
                report = PermitReport(call_id=call_id, ending="withdrawn")
            elif usage is None:
                report = PermitReport(call_id=call_id, ending="cancelled")
            else:
                report = PermitReport(call_id=call_id, ending="answered", usage=usage)
            self._mail.report(CALLERS_HOST, report, within_s=within_s)

    def allowances(self, caller: Caller, user: str | None = None) -> tuple[Allowance, ...]:
        """Return what is left of the caller's limits, or of the user's where that is less, as last known."""
        now_s = self._clock.monotonic_ns() / 1e9
        found = []
        if not caller.limits.unlimited and (row := self._rows.get(caller_account(caller.name))) is not None:
            slot = self._slots.of(row.account, CALLERS_MODEL)
            found.append(allowances(caller.limits, row, now_s, _in_hand(slot)))
        if not caller.user_limits.unlimited:
            row = self._user_rows.get(user_account(caller.name, user or ""))
            if row is not None:
                found.append(allowances(caller.user_limits, row, now_s))
        return tightest(found)

    async def run(self) -> None:
        """Return what is out of date, for ever; the owner runs this as a background task."""
        while True:
            await asyncio.sleep(TICK_S)
            now_ns = self._clock.monotonic_ns()
            for slot in self._slots:
                slot.tick(TICK_S)
                self._return_spares(slot, now_ns)
                if slot.is_idle(now_ns) and slot.rate < IDLE_RATE:
                    self._slots.forget(slot)
            used = self._users_held > 0 or any(slot.outstanding for slot in self._slots)
            self._mail.beat({CALLERS_HOST} if used else set(), now_ns)

    async def aclose(self) -> None:
        """Give spare permits back and say what is unsaid."""
        for slot in self._slots:
            self._return_spares(slot)
        await self._mail.aclose()

    # How answers are read: host_mail.Reader.

    def on_news(self, host: str, news: Exchanged, *, reborn: bool, refused: bool) -> None:
        """See ``host_mail.Reader``."""
        for row in news.rows:
            if is_user(row.account):
                self._user_rows[row.account] = row
                self._user_rows.move_to_end(row.account)
            else:
                self._rows[row.account] = row
        while len(self._user_rows) > USER_ROWS_MAX:
            self._user_rows.popitem(last=False)
        if reborn:
            for slot in self._slots:
                slot.spares.clear()  # the new life does not know them

    def on_answer(self, host: str, letter: Letter[_Asking], answer: Exchanged) -> None:
        """See ``host_mail.Reader``."""
        for wish in letter.bundles:
            self._slots.of(wish.account, wish.model).asked = False
        for bundle in answer.bundles:
            self._slots.of(bundle.account, bundle.model).take_bundle(bundle, letter.asked_ns, host)
        for (asking, permit_wish), admission in zip(letter.wishes, answer.admissions, strict=True):
            if admission.admitted and asking.answer.done():
                report = PermitReport(call_id=permit_wish.call_id, ending="withdrawn")
                self._mail.report(host, report, within_s=REPORT_DELAY_S)
            elif admission.admitted:
                asking.answer.set_result(True)
            elif not asking.answer.done():
                refusal = _refusal(admission, "user" if is_user(permit_wish.account) else "key")
                if refusal is None:
                    asking.answer.set_result(False)
                else:
                    asking.answer.set_exception(refusal)

    def on_lost(self, host: str, letter: Letter[_Asking]) -> None:
        """See ``host_mail.Reader``."""
        for slot in self._slots:
            self._return_spares(slot)
            slot.asked = False
        for asking, _wish in letter.wishes:
            if not asking.answer.done():
                asking.answer.set_result(False)

    async def _reserve(self, account: str, input_tokens: int, output_tokens_max: int, ends_ns: int) -> tuple[str, str]:
        """Take a spare permit, or ask for one."""
        candidates, now_ns = (Candidate(model=CALLERS_MODEL, accounts=(account,)),), self._clock.monotonic_ns()
        slot, _lighter = self._slots.choose(candidates, input_tokens, output_tokens_max, frozenset(), now_ns)
        if slot is not None:
            call_id = slot.spares.popleft()[0]
        else:
            call_id = await self._ask(account, input_tokens, output_tokens_max, ends_ns)
            slot = self._slots.of(account, CALLERS_MODEL)
        slot.outstanding += 1
        slot.note_demand(input_tokens, output_tokens_max)
        wish = slot.wish()
        if wish is not None:
            self._mail.ask_spares(CALLERS_HOST, wish)
        return account, call_id

    async def _ask(self, account: str, input_tokens: int, output_tokens_max: int, ends_ns: int) -> str:
        """Return a permit's id; asks until somebody can say, each time for another permit.

        One that a lost message may have been granted goes back (``host_mail``), so that none counts twice.
        """
        slot_until_ns, pause_s = self._clock.monotonic_ns() + int(SLOT_PATIENCE_S * 1e9), REPORT_DELAY_S
        taken: QuotaError | None = None
        while (left_s := (ends_ns - self._clock.monotonic_ns()) / 1e9) > 0:
            wish = PermitWish(
                call_id=f"{self._owner}/{next(self._numbers)}",
                account=account,
                model=CALLERS_MODEL,
                input_tokens=input_tokens,
                output_tokens_max=output_tokens_max,
                horizon_s=0.0,
            )
            try:
                async with asyncio.timeout(left_s):
                    if await self._asked(wish):
                        return wish.call_id
                    taken = None
                    await asyncio.sleep(ASK_AGAIN_S)
            except QuotaError as error:
                if error.limit != "concurrency" or self._clock.monotonic_ns() >= slot_until_ns:
                    raise
                taken = error
                await asyncio.sleep(min(pause_s, left_s))
                pause_s = min(2 * pause_s, ASK_AGAIN_S)
            except TimeoutError:
                break
        raise taken or InternalError("the callers' limits cannot be checked now", remedy="try again in a few seconds")

    async def _asked(self, wish: PermitWish) -> bool:
        asking = _Asking(asyncio.get_running_loop().create_future())
        self._mail.wish(CALLERS_HOST, asking, wish)
        self._mail.send(CALLERS_HOST)
        try:
            return await asking.answer
        except BaseException:
            # A permit that came in the very moment in which we gave up; later ones find nobody and go back.
            given = asking.answer.done() and not asking.answer.cancelled() and asking.answer.exception() is None
            if given and asking.answer.result():
                self._mail.report(
                    CALLERS_HOST, PermitReport(call_id=wish.call_id, ending="withdrawn"), within_s=REPORT_DELAY_S
                )
            raise

    def _return_spares(self, slot: Slot, until_ns: int | None = None) -> None:
        for call_id, _host in slot.drop(until_ns):
            self._mail.report(CALLERS_HOST, PermitReport(call_id=call_id, ending="withdrawn"), within_s=REPORT_DELAY_S)


def _in_hand(slot: Slot) -> InHand:
    """Return what the spare permits hold, taking all to be of the size of the oldest."""
    if not slot.spares:
        return NOTHING
    _call_id, _expires_ns, input_tokens, output_tokens, _host = slot.spares[0]
    count = len(slot.spares)
    return InHand(count=count, input_tokens=count * input_tokens, output_tokens=count * output_tokens)


def _refusal(admission: Admission, whose: str) -> QuotaError | CapacityError | None:
    """Return what a caller is told; None where the limits are not known yet."""
    if admission.too_large:
        limit = admission.reason.rsplit(" ", 1)[-1]
        return QuotaError(
            f"this call needs more than the whole limit {limit} of your {whose}",
            limit=limit,
            retry_after_s=None,
            remedy="ask for less in one call",
        )
    if admission.reason == TOO_MANY:
        return CapacityError(f"{TOO_MANY}: their limits cannot all be kept", retry_after_s=admission.start_in_s)
    if admission.reason not in _LIMITS:
        return None
    return QuotaError(
        f"your {whose}'s limit {admission.reason!r} is used up",
        limit=admission.reason,
        retry_after_s=admission.start_in_s,
        remedy=f"come back in {max(1, round(admission.start_in_s))} s, or ask for a larger limit",
    )
