"""What a provider's prompt cache saved."""

from __future__ import annotations

import pytest

from app.domain.books.prices import PriceRow, Rates, price_nano
from app.domain.chat import Usage
from app.services.pricing import saved_nano

ROW = PriceRow(price_id="m@1", model="m", rates=Rates(input="2", output="4", cache_read="0.5", cache_write="2.5"))


@pytest.mark.parametrize(
    ("usage", "saved"),
    [
        (Usage(input_tokens=100, output_tokens=10), 0),
        (Usage(input_tokens=100, output_tokens=10, cache_read_tokens=60), 60 * 1_500),
        (Usage(input_tokens=100, output_tokens=10, cache_read_tokens=100), 100 * 1_500),
        (Usage(input_tokens=100, output_tokens=10, cache_write_tokens=60), 0),
        (Usage(input_tokens=100, output_tokens=10, cache_read_tokens=60, cache_write_tokens=40), 60 * 1_500),
    ],
)
def test_prompt_that_the_provider_had_kept_saves_the_difference_of_the_prices(usage: Usage, saved: int) -> None:
    """Input read from its cache, at the full price less what it cost; writing costs more and saves nothing yet."""
    cost = price_nano(usage, ROW, at_s=0.0)

    assert saved_nano(usage, ROW, cost, at_s=0.0) == saved


def test_nothing_is_known_to_be_saved_where_the_price_is_unknown() -> None:
    """Neither the full price nor the other is known."""
    assert saved_nano(Usage(input_tokens=9, output_tokens=1, cache_read_tokens=9), None, None, at_s=0.0) == 0
