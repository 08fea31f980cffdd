"""The owner's side of permits: grants them out of an account host's books and settles what their holders report.

Pure: time is an argument. A permit is a reservation like any other, so holders together can never exceed a limit; a
holder that falls silent is taken to have used everything it held.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from app.domain.account_state import SECOND_NS, AccountBook, Decision, Ending, Order
from app.domain.calls import Admission
from app.domain.errors import UpstreamKind
from app.domain.leases import (
    BUNDLE_MAX,
    PERMIT_VALID_MAX_S,
    PERMIT_VALID_S,
    Bundle,
    BundleWish,
    Exchange,
    PermitReport,
    PermitWish,
)

SILENCE_NS = 30 * SECOND_NS
"""A holder that has said nothing for this long is gone, and so are its connections to the provider."""
NOT_SERVED = "not served here now"
"""Refused for no limit: the account is unknown here, or its host is draining."""
OTHERS_TURN = "others have waited longer"
HUNGRY_NS = SECOND_NS
"""A holder that was refused asks again within this, or does not want any more."""
TURN_S = 0.1
"""For so long a new start within the horizon is kept for the holder whose turn it is."""
_EPOCH_ENDS = frozenset({UpstreamKind.MINUTE_LIMIT, UpstreamKind.DAY_LIMIT, UpstreamKind.DEAD_KEY})


@dataclass(slots=True)
class _Owner:
    seen_ns: int
    settled: int = 0
    granted: int = 0
    """Numbers of the latest messages that were settled and granted."""
    held: dict[str, tuple[Order, int]] = field(default_factory=dict)
    """With the number of the message that was answered with it."""
    hungry: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)
    """By (account, model): when and by which limit its latest wish was refused, if nothing was granted since."""
    fed_ns: dict[tuple[str, str], int] = field(default_factory=dict)
    """When it was last granted something."""

    def count(self, pair: tuple[str, str]) -> int:
        """Return how many permits of that (account, model) it holds."""
        return sum((order.account, order.model) == pair for order, _number in self.held.values())


class PermitOffice:
    """Grants and settles permits.

    Args:
        book: The host's limiters and health.
        life: Unique per life of the host; names bundles.

    Not thread-safe: the actor's event loop is the lock.
    """

    def __init__(self, book: AccountBook, life: str) -> None:
        self._book = book
        self._life = life
        self._owners: dict[str, _Owner] = {}
        self._numbers = itertools.count()
        self.epoch = 0
        self.closed = False
        """Draining: nothing more is granted."""

    def settle(self, message: Exchange, now_ns: int, wall_ns: int) -> set[tuple[str, str]]:
        """Book what became of permits; unknown ones (settled before, or of another life) are ignored.

        A message that was overtaken by a later one is ignored: its owner has called it lost and said everything again.

        Returns:
            The (account, model) pairs that moved.
        """
        owner = self._owner(message.owner, now_ns)
        moved: set[tuple[str, str]] = set()
        if 0 < message.number <= owner.settled:
            return moved
        owner.settled = max(owner.settled, message.number)
        unheard = [call_id for call_id, (_order, number) in owner.held.items() if number in message.lost]
        lost = [PermitReport(call_id=call_id, ending="withdrawn") for call_id in unheard]
        for report in (*lost, *message.reports):
            order, _number = owner.held.pop(report.call_id, (None, 0))
            if order is not None:
                self._book_report(order, report, now_ns, wall_ns)
                moved.add((order.account, order.model))
        return moved

    def grant(self, message: Exchange, now_ns: int, wall_ns: int) -> tuple[list[Admission], list[Bundle]]:
        """Answer wishes one by one, in order, and bundles while there is plenty."""
        owner = self._owner(message.owner, now_ns)
        closed = self.closed or 0 < message.number <= owner.granted or message.number < owner.settled
        owner.granted = max(owner.granted, message.number)
        admissions = [
            self._admit(owner, wish, now_ns, wall_ns)
            if not closed and self._book.serves(wish.account, wish.model)
            else Admission(call_id=wish.call_id, admitted=False, start_in_s=1.0, reason=NOT_SERVED)
            for wish in message.wishes
        ]
        bundles = [
            bundle
            for wish in message.bundles
            if not closed
            and self._book.serves(wish.account, wish.model)
            and (bundle := self._bundle(owner, wish, now_ns, wall_ns)) is not None
        ]
        return admissions, bundles

    def sweep(self, now_ns: int) -> None:
        """Settle everything that silent holders held, as used."""
        for name, owner in list(self._owners.items()):
            if now_ns - owner.seen_ns > SILENCE_NS:
                del self._owners[name]
                for call_id, (order, _number) in owner.held.items():
                    self._book.end(order, call_id, Ending.CANCELLED, now_ns)

    @property
    def held(self) -> int:
        """Permits that are out."""
        return sum(len(owner.held) for owner in self._owners.values())

    def held_by(self, owner: str) -> int:
        """Return how many permits one holder has."""
        found = self._owners.get(owner)
        return len(found.held) if found is not None else 0

    def _owner(self, name: str, now_ns: int) -> _Owner:
        owner = self._owners.setdefault(name, _Owner(seen_ns=now_ns))
        owner.seen_ns = now_ns
        return owner

    def _admit(self, owner: _Owner, wish: PermitWish, now_ns: int, wall_ns: int) -> Admission:
        if wish.call_id in owner.held:
            raise ValueError(f"the permit {wish.call_id!r} is already out")
        decision = self._book.admit(
            wish, wish.call_id, now_ns, wall_ns, horizon_s=wish.horizon_s, headroom=wish.headroom
        )
        pair = (wish.account, wish.model)
        if decision.admitted and wish.horizon_s > 0 and self._is_others_turn(owner, wish, decision, now_ns):
            self._book.end(wish, wish.call_id, Ending.WITHDRAWN, now_ns)
            owner.hungry[pair] = now_ns, OTHERS_TURN
            return Admission(
                call_id=wish.call_id, admitted=False, start_in_s=wish.horizon_s + TURN_S / 4, reason=OTHERS_TURN
            )
        if decision.admitted:
            owner.held[wish.call_id] = wish, owner.granted
            owner.hungry.pop(pair, None)
            if wish.horizon_s > 0:
                owner.fed_ns[pair] = now_ns
        elif wish.horizon_s > 0 and not decision.refused_for_good:
            # Who wants it now or never takes no turns: callers' users come and go, and nothing is kept of them.
            owner.hungry[pair] = now_ns, decision.reason
        return Admission(
            call_id=wish.call_id,
            admitted=decision.admitted,
            start_in_s=decision.start_in_s,
            reason=decision.reason,
            too_large=decision.refused_for_good,
        )

    def _is_others_turn(self, owner: _Owner, wish: PermitWish, decision: Decision, now_ns: int) -> bool:
        """Tell whether another holder was refused lately and comes first.

        A holder with calls under way hears of every change at once, one without asks now and then: without turns the
        first would get everything. A start at the edge of the horizon goes to whoever was served longer ago, which
        costs nothing, since it lies ahead; a slot goes to whoever holds fewer.
        """
        pair = (wish.account, wish.model)
        others = [
            (each, each.hungry[pair][1])
            for each in self._owners.values()
            if each is not owner and pair in each.hungry and now_ns - each.hungry[pair][0] < HUNGRY_NS
        ]
        if not others:
            return False
        if decision.start_in_s > wish.horizon_s - TURN_S:
            return any(each.fed_ns.get(pair, 0) < owner.fed_ns.get(pair, 0) for each, _limit in others)
        mine = owner.count(pair)
        return any(limit == "concurrency" and each.count(pair) < mine for each, limit in others)

    def _bundle(self, owner: _Owner, wish: BundleWish, now_ns: int, wall_ns: int) -> Bundle | None:
        prefix, count = f"{self._life}/{next(self._numbers)}", 0
        order = PermitWish(
            call_id=prefix,
            account=wish.account,
            model=wish.model,
            input_tokens=wish.input_tokens,
            output_tokens_max=wish.output_tokens_max,
        )
        spare = min(wish.count, BUNDLE_MAX, self._book.spare(order, now_ns))
        valid_s = PERMIT_VALID_MAX_S if self._book.is_far_from_limits(order, spare) else PERMIT_VALID_S
        for number in range(spare):
            call_id = f"{prefix}/{number}"
            decision = self._book.admit(order, call_id, now_ns, wall_ns, horizon_s=0.0, usable_s=valid_s)
            if not decision.admitted:
                break
            owner.held[call_id] = order, owner.granted
            count = number + 1
        if count == 0:
            return None
        return Bundle(
            prefix=prefix,
            account=wish.account,
            model=wish.model,
            count=count,
            input_tokens=wish.input_tokens,
            output_tokens_max=wish.output_tokens_max,
            valid_s=valid_s,
        )

    def _book_report(self, order: Order, report: PermitReport, now_ns: int, wall_ns: int) -> None:
        ticket = report.call_id
        if report.ending == "answered":
            self._book.succeed(
                order,
                ticket,
                report.usage,
                report.observations,
                now_ns,
                duration_s=report.duration_s,
                ttft_s=report.ttft_s,
            )
        elif report.ending == "failed" and report.error is not None:
            self._book.fail(order, ticket, report.error, now_ns, wall_ns)
            self.epoch += report.error.kind in _EPOCH_ENDS
        else:
            self._book.end(
                order, ticket, Ending.WITHDRAWN if report.ending == "withdrawn" else Ending.CANCELLED, now_ns
            )
