"""What a run's calls cost: the ceiling held before each is sent, and the entry that ends it.

Makes the books' commands; ``run_caller`` commits them in one transaction with the call's own row, so that the row, the
entry and the balance never disagree. Sends nothing and keeps nothing.

What a call may cost at most is that of the dearest account that might serve it; what nobody knows afterwards is booked
as all of that, so that the books are never below the provider's bill.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from app.domain.accounts import EndpointClass, Orchestra
from app.domain.books.budgets import Owners
from app.domain.books.entries import Command, Ending, Expire, Hold, Settle, UsageEntry, Void
from app.domain.books.money import usd_from_nano
from app.domain.books.prices import PriceRow, ceiling_nano, price_nano
from app.domain.calls import CallAnswer, ModelCall
from app.domain.chat import NO_USAGE, Usage
from app.domain.errors import CapacityError, GatewayError, RequestError, UpstreamError
from app.domain.estimate import estimate_tokens
from app.domain.ports import Clock
from app.domain.run import CallRecord, CallState
from app.domain.trace_context import trace_id
from app.services.pricing import INPUT_MARGIN, PriceList, saved_nano, without_answer
from app.services.telemetry.accounts import measure_spend

GRACE_S = 120.0
"""A hold outlives its call's deadline by so much: then its conductor is taken for dead."""

_STATES = {
    Ending.ANSWERED: CallState.DONE,
    Ending.FAILED: CallState.FAILED,
    Ending.UNKNOWN: CallState.UNKNOWN,
    Ending.CANCELLED: CallState.CANCELLED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seller:
    """Somebody who might serve a call: what it costs there."""

    model: str
    account: str
    provider: str
    price: PriceRow | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a call's row and the books end."""

    record: CallRecord
    commands: tuple[Command, ...]


@dataclass(slots=True)
class RunBooks:
    """Makes the commands of one run.

    Args:
        orchestra: The newest known configuration.
        clock: Time.
        owners: On whose behalf the run buys, the run itself among them.
    """

    orchestra: Callable[[], Orchestra]
    clock: Clock
    owners: Owners
    task_types: Mapping[str, str] = field(default_factory=dict)
    """By task id, once there is a plan."""
    _prices: PriceList = field(init=False)

    def __post_init__(self) -> None:
        self._prices = PriceList(self.orchestra, self.clock)

    @property
    def holder(self) -> str:
        """Who settles this run's holds, in every life of its conductor."""
        return f"run/{self.owners.run}"

    def hold(self, call: ModelCall) -> Hold:
        """Return the hold of a call's true ceiling, named as the call is."""
        sellers, now_s = self._sellers(call), self.clock.wall_s()
        amounts = [ceiling_nano(most.input_tokens, most.output_tokens, one.price) for one, most in sellers]
        known = [amount for amount in amounts if amount is not None]
        return Hold(
            hold_id=call.call_id,
            owners=self.owners,
            amount_nano=max(known) if sellers and len(known) == len(amounts) else None,
            tokens=max((most.input_tokens + most.output_tokens for _one, most in sellers), default=0),
            at_s=now_s,
            expires_s=now_s + call.deadline_s + GRACE_S,
            holder=self.holder,
            covers=(call.call_id,),
        )

    def answered(self, record: CallRecord, call: ModelCall, answer: CallAnswer) -> Ended:
        """Return how a call ends that was answered; the cost on its row is that of its entry."""
        account = next((one for one in self.orchestra().accounts if one.name == answer.account), None)
        provider = "" if account is None else account.provider.value
        batch = account is not None and account.endpoint is EndpointClass.BATCH
        price = self._prices.find(answer.model, provider)
        now_s, duration_s = self.clock.wall_s(), answer.finished_at_s - answer.started_at_s
        sent_s = now_s - duration_s
        cost = price_nano(answer.usage, price, at_s=sent_s, batch=batch)
        entry = replace(
            self._entry(call, Ending.ANSWERED, answer.usage),
            account=answer.account,
            provider=provider,
            model=answer.model,
            cost_nano=cost,
            price_id=price.price_id if price is not None else None,
            savings_nano=saved_nano(answer.usage, price, cost, at_s=sent_s, batch=batch),
            batch=batch,
            duration_s=duration_s,
        )
        done = replace(
            record,
            account=answer.account,
            model=answer.model,
            provider_id=answer.result.provider_id,
            answer=answer.result.text,
        )
        return self._end(done, entry)

    def failed(self, record: CallRecord, call: ModelCall, error: GatewayError) -> Ended:
        """Return how a call ends that failed: free, billed whole, or nobody knows."""
        account = error.account if isinstance(error, UpstreamError) else ""
        if isinstance(error, CapacityError | RequestError):
            return self.unsent(record, CallState.FAILED, error.message)
        dearest, most, amount = self._dearest(call, account)
        ending, usage = without_answer(error, most)
        entry = self._entry(call, ending, usage)
        if isinstance(error, UpstreamError):
            entry = replace(entry, account=account, error_kind=error.kind.value)
        done = replace(record, account=account or None, error=error.message)
        return self._end(done, _charged(entry, dearest, amount))

    def unsent(self, record: CallRecord, state: CallState, error: str | None = None) -> Ended:
        """Return how a call ends that never left: the books are as if it had not been meant."""
        now_s = self.clock.wall_s()
        ended = replace(record, state=state, settled_s=now_s, error=error)
        return Ended(record=ended, commands=(Void(hold_id=record.key, at_s=now_s),))

    def cancelled(self, record: CallRecord, call: ModelCall) -> Ended:
        """Return how a call ends that was stopped on its way: the provider may have billed all of it."""
        dearest, most, amount = self._dearest(call, "")
        return self._end(record, _charged(self._entry(call, Ending.CANCELLED, most), dearest, amount))

    def forgotten(self) -> Command:
        """Return what to tell the books of calls that an earlier conductor left on their way: nobody knows."""
        return Expire(at_s=self.clock.wall_s(), holder=self.holder)

    def _end(self, record: CallRecord, entry: UsageEntry) -> Ended:
        measure_spend(entry)
        # What a row says was used and paid is what was booked for it.
        ended = replace(
            record,
            state=_STATES[entry.ending],
            usage=entry.usage,
            cost_usd=None if entry.cost_nano is None else usd_from_nano(entry.cost_nano),
            settled_s=entry.at_s,
        )
        return Ended(record=ended, commands=(Settle(hold_id=record.key, entries=(entry,), at_s=entry.at_s),))

    def _entry(self, call: ModelCall, ending: Ending, usage: Usage) -> UsageEntry:
        task_type = self.task_types.get(call.task_id or "", "") if call.purpose == "task" else call.purpose
        return UsageEntry(
            entry_id=call.call_id,
            at_s=self.clock.wall_s(),
            owners=self.owners,
            task_id=call.task_id or "",
            task_type=task_type,
            ending=ending,
            usage=usage,
            trace_id=trace_id(),
        )

    def _dearest(self, call: ModelCall, account: str) -> tuple[Seller | None, Usage, int | None]:
        """Return who would have charged most for the call, and how much; at ``account`` where that is known."""
        sellers = self._sellers(call)
        sellers = [found for found in sellers if found[0].account == account] or sellers
        if not sellers:
            return None, NO_USAGE, None
        priced = [(ceiling_nano(most.input_tokens, most.output_tokens, one.price), one, most) for one, most in sellers]
        # A price that nobody knows is no low one: it stays unknown.
        amount, seller, most = max(priced, key=lambda found: (found[0] is None, found[0] or 0))
        return seller, most, amount

    def _sellers(self, call: ModelCall) -> list[tuple[Seller, Usage]]:
        """Return who might serve the call and the most that it can consume there."""
        orchestra = self.orchestra()
        input_tokens = estimate_tokens(call.request) * INPUT_MARGIN
        found = []
        for name in call.models:
            model = next((one for one in orchestra.models if one.name == name), None)
            if model is None:
                continue
            output_tokens = call.request.output_tokens_max or model.output_tokens_max
            most = Usage(input_tokens=input_tokens, output_tokens=output_tokens, source="estimated")
            for account in orchestra.accounts_of(name):
                provider = account.provider.value
                seller = Seller(
                    model=name,
                    account=account.name,
                    provider=provider,
                    price=self._prices.find(name, provider),
                )
                found.append((seller, most))
        return found


def _charged(entry: UsageEntry, seller: Seller | None, amount: int | None) -> UsageEntry:
    """Return the entry with the most that it may have cost; nothing where nothing was consumed."""
    if seller is not None:
        price_id = seller.price.price_id if seller.price is not None else None
        provider = seller.provider if entry.account == seller.account else ""
        entry = replace(entry, model=seller.model, provider=provider, price_id=price_id)
    return replace(entry, cost_nano=0 if entry.usage == NO_USAGE else amount)
