"""What attempts cost: a ceiling held before each, an entry in the books after it, whoever pays.

Between ``attempts``, which knows how an attempt ended, and ``bookkeeper``, which tells the books. What is held is the
call's true ceiling; what nobody can know (a cut stream, a lost answer) is booked as all that it may have been, so that
the books are never below the provider's bill.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from app.domain.accounts import Orchestra
from app.domain.books.budgets import OwnerKind, Owners
from app.domain.books.entries import Ending, UsageEntry
from app.domain.books.money import usd_from_nano
from app.domain.books.prices import PriceRow, at_tier, ceiling_nano, price_nano
from app.domain.books.tiers import STANDARD
from app.domain.chat import NO_USAGE, Usage
from app.domain.leases import PermitReport
from app.domain.ports import Clock
from app.services.gateway.bookkeeper import Bookkeeper
from app.services.gateway.permits import Permit
from app.services.gateway.purses import Ceiling, Ticket
from app.services.pricing import INPUT_MARGIN, PriceList, saved_nano, without_answer
from app.services.roster import SnapshotRoster
from app.services.telemetry.accounts import measure_spend


@dataclass(frozen=True, slots=True, kw_only=True)
class Billing:
    """On whose behalf a client's call is made, and what it is called in the books."""

    owners: Owners = field(default_factory=Owners)
    request_id: str = ""
    task_type: str = ""
    trace_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How large an attempt may become."""

    input_tokens: int
    """Estimated."""
    output_tokens_max: int
    """All choices together."""
    tier: str = STANDARD
    """From ``asked_tier``: what is held and what is booked are both at its price."""

    @property
    def most(self) -> Usage:
        """All that it may consume: held before it leaves, and booked where nobody knows."""
        return Usage(
            input_tokens=self.input_tokens * INPUT_MARGIN, output_tokens=self.output_tokens_max, source="estimated"
        )


class Spends(Protocol):
    """Who keeps the books of attempts; implemented by ``Spending``."""

    async def begin(self, permit: Permit, provider: str, billing: Billing, extent: Extent) -> None:
        """Hold the ceiling of an attempt; raises QuotaError where a budget has no room, InternalError without books."""

    def end(self, permit: Permit, report: PermitReport) -> None:
        """Book how it ended; nothing where it was never sent."""

    def cached(self, billing: Billing, model: str, usage: Usage, *, tier: str = STANDARD) -> None:
        """Book an answer out of our own cache: nothing was bought, and so much not paid."""

    def cost_usd(self, model: str, provider: str, usage: Usage, *, tier: str = STANDARD) -> str | None:
        """Return what that usage costs now, as decimal text; None where the price is unknown."""


@dataclass(slots=True, eq=False)
class _Open:
    ticket: Ticket
    billing: Billing
    most: Usage
    provider: str
    price: PriceRow | None
    sent_s: float


class Spending:
    """One per replica.

    Args:
        keeper: Tells the books.
        roster: Knows prices and budgets.
        clock: Time.

    Not thread-safe: one event loop.
    """

    def __init__(self, keeper: Bookkeeper, roster: SnapshotRoster, clock: Clock) -> None:
        self._keeper = keeper
        self._roster = roster
        self._clock = clock
        self._open: dict[str, _Open] = {}
        self._prices = PriceList(roster.orchestra, clock)
        self._limited: frozenset[OwnerKind] = frozenset()
        """The kinds of owners that any budget is for, and the tenant, whose sums are always kept."""
        self._limited_in: Orchestra | None = None

    async def begin(self, permit: Permit, provider: str, billing: Billing, extent: Extent) -> None:
        """See ``Spends``."""
        price, now_s = self._price(permit.model, provider, extent.tier), self._clock.wall_s()
        most = extent.most
        ceiling = Ceiling(
            ceiling_nano(most.input_tokens, most.output_tokens, price), most.input_tokens + most.output_tokens
        )
        ticket = await self._keeper.hold(self._held_for(billing.owners), ceiling)
        self._open[permit.call_id] = _Open(ticket, billing, most, provider, price, now_s)

    def end(self, permit: Permit, report: PermitReport) -> None:
        """See ``Spends``."""
        found = self._open.pop(permit.call_id, None)
        if found is None:
            return
        entry = None if report.ending == "withdrawn" else self._entry(found, permit, report)
        if entry is not None:
            measure_spend(entry)
        found.ticket.close(entry)

    def cached(self, billing: Billing, model: str, usage: Usage, *, tier: str = STANDARD) -> None:
        """See ``Spends``."""
        price = self._price(model, "", tier)
        saved = price_nano(usage, price, at_s=self._clock.wall_s())
        self._keeper.note(
            UsageEntry(
                entry_id=self._keeper.entry_id(),
                at_s=self._clock.wall_s(),
                owners=billing.owners,
                task_type=billing.task_type,
                model=model,
                ending=Ending.CACHE_HIT,
                usage=usage,
                cost_nano=0,
                savings_nano=saved or 0,
                request_id=billing.request_id,
                trace_id=billing.trace_id,
            )
        )

    def cost_usd(self, model: str, provider: str, usage: Usage, *, tier: str = STANDARD) -> str | None:
        """See ``Spends``."""
        nano = price_nano(usage, self._price(model, provider, tier), at_s=self._clock.wall_s())
        return None if nano is None else usd_from_nano(nano)

    def _price(self, model: str, provider: str, tier: str) -> PriceRow | None:
        return at_tier(self._prices.find(model, provider), tier)

    def _held_for(self, owners: Owners) -> Owners:
        """Return the owners whose budgets apply: calls of all others share their holds."""
        orchestra = self._roster.orchestra()
        if orchestra is not self._limited_in:
            self._limited = frozenset((OwnerKind.TENANT, *(budget.owner_kind for budget in orchestra.budgets)))
            self._limited_in = orchestra
        return Owners(**{kind.value: owners.name_of(kind) for kind in self._limited})

    def _entry(self, found: _Open, permit: Permit, report: PermitReport) -> UsageEntry:
        ending, usage = _outcome(report, found.most)
        # Of what nobody knows also the rate is unknown: the dearest, as it was held.
        unknown = usage == found.most
        cost = found.ticket.ceiling.nano if unknown else price_nano(usage, found.price, at_s=found.sent_s)
        return UsageEntry(
            entry_id=self._keeper.entry_id(),
            at_s=self._clock.wall_s(),
            owners=found.billing.owners,
            task_type=found.billing.task_type,
            account=permit.account,
            provider=found.provider,
            model=permit.model,
            ending=ending,
            usage=usage,
            cost_nano=0 if usage == NO_USAGE else cost,
            price_id=found.price.price_id if found.price is not None else None,
            savings_nano=saved_nano(usage, found.price, cost, at_s=found.sent_s),
            duration_s=report.duration_s,
            ttft_s=report.ttft_s,
            request_id=found.billing.request_id,
            trace_id=found.billing.trace_id,
            error_kind=report.error.kind.value if report.error is not None else "",
        )


def _outcome(report: PermitReport, most: Usage) -> tuple[Ending, Usage]:
    """Return how an attempt ended and what it consumed; all it may have where that is not known."""
    if report.ending == "answered":
        return Ending.ANSWERED, report.usage
    if report.ending == "cancelled":
        return Ending.CANCELLED, report.usage if report.usage != NO_USAGE else most
    return without_answer(report.error, most)
