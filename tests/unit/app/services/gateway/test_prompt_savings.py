"""What a provider's prompt cache saved a client's call is booked with it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from app.domain.books.prices import Rates
from app.domain.leases import PermitReport
from tests.fakes.permit_world import play
from tests.fakes.virtual_time import VirtualClock
from tests.unit.app.services.gateway.test_spending import BILLING, MOST, PERMIT, ROW, USED, USED_NANO, books_of


def test_input_that_the_provider_had_kept_is_booked_at_its_price_and_as_saved() -> None:
    """Its usage says how much of the input that was."""
    row = replace(ROW, rates=Rates(input="2", output="4", cache_read="0.5"))

    async def story(clock: VirtualClock) -> None:
        async with books_of(clock, row=row) as (spending, books):
            await spending.begin(PERMIT, "openai", BILLING, MOST)
            usage = replace(USED, cache_read_tokens=60)
            spending.end(PERMIT, PermitReport(call_id="c", ending="answered", usage=usage))
            await asyncio.sleep(5.0)

            (entry,) = books.booked()
            assert (entry.cost_nano, entry.savings_nano) == (USED_NANO - 60 * 1_500, 60 * 1_500)

    play(story)
