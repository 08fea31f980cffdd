"""What a client's service tier costs is held before its call and booked after it, from the same price."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from app.domain.accounts import Orchestra
from app.domain.books.budgets import BudgetSpec, OwnerKind, Owners, Window
from app.domain.books.entries import Hold
from app.domain.books.prices import PriceRow, Rates
from app.domain.chat import ChatRequest, Usage
from app.domain.errors import QuotaError
from app.domain.gateway import ANONYMOUS, EmbeddingRequest
from app.domain.leases import PermitReport
from app.services.gateway.attempts import Bid
from app.services.gateway.permits import Permit
from app.services.gateway.spending import Billing, Extent, Spending
from app.services.pricing import INPUT_MARGIN
from app.services.roster import SnapshotRoster
from tests.fakes.books import PRICE, LedgerBooks, a_spending
from tests.fakes.permit_hosts import an_account, an_orchestra
from tests.fakes.permit_world import play
from tests.fakes.virtual_time import VirtualClock

ROW = replace(PRICE, tier_factors=(("flex", "0.5"), ("priority", "2")))
"""2 and 4 dollars per million tokens."""
USED = Usage(input_tokens=100, output_tokens=10)
USED_NANO = 100 * 2_000 + 10 * 4_000
MOST = Extent(input_tokens=100, output_tokens_max=50)
HELD_NANO = INPUT_MARGIN * 100 * 2_000 + 50 * 4_000
BUDGET = BudgetSpec(owner_kind=OwnerKind.TENANT, owner_name="default", window=Window.TOTAL, limit_nano=10**9)
PERMIT = Permit(call_id="c", account="a", model="m", host="h")
BILLING = Billing(owners=Owners(tenant="default"))


@asynccontextmanager
async def books_of(
    clock: VirtualClock, *budgets: BudgetSpec, row: PriceRow = ROW
) -> AsyncIterator[tuple[Spending, LedgerBooks]]:
    roster = SnapshotRoster()
    orchestra: Orchestra = replace(an_orchestra([an_account("a")]), prices=(row,), budgets=budgets)
    roster.update(orchestra, {"a": "h"}, ())
    async with a_spending(roster, clock, *budgets) as (spending, books):
        yield spending, books


def least_hold(books: LedgerBooks) -> int:
    """Return the smallest amount that was held for a call."""
    asked = [command for message in books.messages for command in message if isinstance(command, Hold)]
    assert asked
    return min(command.amount_nano or 0 for command in asked)


def bid(request: ChatRequest) -> Bid[ChatRequest]:
    return Bid(
        request=request,
        candidates=(),
        input_tokens=100,
        output_tokens_max=50,
        caller=ANONYMOUS,
        deadline_s=60.0,
        queue_s=30.0,
    )


@pytest.mark.parametrize(
    ("asked", "dear", "cheap"),
    [(None, 1, 1), ("auto", 1, 1), ("default", 1, 1), ("priority", 2, 1), ("flex", 1, 2)],
)
def test_a_tier_is_held_and_booked_at_its_price(asked: str | None, dear: int, cheap: int) -> None:
    """As the client's body says it: what is answered, what nobody knows, and what the client is told."""

    async def story(clock: VirtualClock) -> None:
        extra = () if asked is None else (("service_tier", f'"{asked}"'),)
        extent = bid(ChatRequest(model="m", messages=(), extra=extra)).extent
        async with books_of(clock, BUDGET) as (spending, books):
            await spending.begin(PERMIT, "openai", BILLING, extent)
            assert least_hold(books) >= HELD_NANO * dear // cheap
            spending.end(PERMIT, PermitReport(call_id="c", ending="answered", usage=USED))
            lost = replace(PERMIT, call_id="d")
            await spending.begin(lost, "openai", BILLING, extent)
            spending.end(lost, PermitReport(call_id="d", ending="cancelled"))
            await asyncio.sleep(5.0)
            told = spending.cost_usd("m", "openai", USED, tier=extent.tier)

            costs = [entry.cost_nano for entry in books.booked()]
            assert sorted(cost or 0 for cost in costs) == [USED_NANO * dear // cheap, HELD_NANO * dear // cheap]
            name = f"{ROW.price_id}:{asked}" if dear != cheap else ROW.price_id
            assert {entry.price_id for entry in books.booked()} == {name}
            assert told == {1: "0.00024", 2: "0.00048"}.get(dear if cheap == 1 else 0, "0.00012")

    play(story)


def test_a_tier_without_a_price_is_refused_where_a_money_budget_applies() -> None:
    """Nothing is sent that may cost what nobody knows."""

    async def story(clock: VirtualClock) -> None:
        async with books_of(clock, BUDGET) as (spending, books):
            with pytest.raises(QuotaError):
                await spending.begin(PERMIT, "openai", BILLING, replace(MOST, tier="scale"))
            await asyncio.sleep(5.0)

            assert books.booked() == []

    play(story)


def test_a_tier_without_a_price_is_booked_as_unpriced_elsewhere() -> None:
    """Null and never the standard rate; its tokens count."""

    async def story(clock: VirtualClock) -> None:
        async with books_of(clock) as (spending, books):
            await spending.begin(PERMIT, "openai", BILLING, replace(MOST, tier="scale"))
            spending.end(PERMIT, PermitReport(call_id="c", ending="answered", usage=USED))
            await asyncio.sleep(5.0)

            (entry,) = books.booked()
            assert (entry.cost_nano, entry.price_id, entry.usage) == (None, None, USED)
            assert spending.cost_usd("m", "openai", USED, tier="scale") is None
            assert spending.cost_usd("m", "openai", USED) == "0.00024"

    play(story)


def test_what_nobody_knows_is_booked_at_the_dearest_rate_that_was_held() -> None:
    """A stream that was cut may have written all of its prompt to the provider's cache."""
    row = replace(ROW, rates=Rates(input="2", output="4", cache_write="2.5", cache_write_1h="4"))

    async def story(clock: VirtualClock) -> None:
        async with books_of(clock, BUDGET, row=row) as (spending, books):
            await spending.begin(PERMIT, "openai", BILLING, MOST)
            spending.end(PERMIT, PermitReport(call_id="c", ending="cancelled"))
            await asyncio.sleep(5.0)

            (entry,) = books.booked()
            assert entry.cost_nano == INPUT_MARGIN * 100 * 4_000 + 50 * 4_000
            assert (entry.usage.input_tokens, entry.usage.source) == (INPUT_MARGIN * 100, "estimated")

    play(story)


def test_a_prompt_that_is_kept_for_an_hour_is_booked_at_the_price_of_an_hour() -> None:
    """Anthropic charges twice its input for it, and a quarter on top for five minutes: clients choose."""
    hourly = replace(ROW, rates=Rates(input="2", output="4", cache_write="2.5", cache_write_1h="4"))
    used = Usage(input_tokens=100, output_tokens=10, cache_write_tokens=90, cache_write_1h_tokens=60)

    async def story(clock: VirtualClock) -> None:
        async with books_of(clock, BUDGET, row=hourly) as (spending, books):
            await spending.begin(PERMIT, "openai", BILLING, MOST)
            spending.end(PERMIT, PermitReport(call_id="c", ending="answered", usage=used))
            await asyncio.sleep(5.0)

            (entry,) = books.booked()
            assert entry.cost_nano == 10 * 2_000 + 30 * 2_500 + 60 * 4_000 + 10 * 4_000
            assert entry.usage == used

    play(story)


def test_an_answer_from_the_cache_saves_what_its_tier_would_have_cost() -> None:
    """The key of the cache holds the tier."""

    async def story(clock: VirtualClock) -> None:
        async with books_of(clock) as (spending, books):
            spending.cached(BILLING, "m", USED, tier="priority")
            await asyncio.sleep(5.0)

            (entry,) = books.booked()
            assert (entry.cost_nano, entry.savings_nano) == (0, 2 * USED_NANO)

    play(story)


def test_a_bid_for_vectors_has_its_tier_too() -> None:
    """Bodies of embeddings are passed on like others."""
    wanted = Bid(
        request=EmbeddingRequest(model="m", inputs=("a",), extra=(("service_tier", '"flex"'),)),
        candidates=(),
        input_tokens=1,
        output_tokens_max=0,
        caller=ANONYMOUS,
        deadline_s=60.0,
        queue_s=30.0,
    )

    assert wanted.extent.tier == "flex"
