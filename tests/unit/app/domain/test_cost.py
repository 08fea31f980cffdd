"""A cost is exact, rounded up once, and unknown where a price is unknown."""

from __future__ import annotations

from typing import Any

from app.domain.accounts import ModelInfo
from app.domain.chat import Usage
from app.domain.cost import cost_usd


def a_model(**prices: Any) -> ModelInfo:
    return ModelInfo(name="m", family="f", **prices)


def test_cost_is_exact_and_counts_cached_input_at_its_own_price() -> None:
    """Cached tokens are inside input_tokens: charging them twice is the classic mistake."""
    model = a_model(input_usd_per_mtok="2.50", output_usd_per_mtok="15", cache_read_usd_per_mtok="0.25")
    usage = Usage(input_tokens=1_000, output_tokens=100, cache_read_tokens=400)

    assert cost_usd(usage, model) == "0.0031"


def test_cost_is_rounded_up_to_a_nano_dollar() -> None:
    """Rounding down would let the books fall below the bill."""
    assert cost_usd(
        Usage(input_tokens=1, output_tokens=0), a_model(input_usd_per_mtok="0.0001", output_usd_per_mtok="0")
    ) == ("0.000000001")


def test_cost_is_unknown_where_a_price_is_and_zero_where_it_is_free() -> None:
    """None and zero are different facts."""
    usage = Usage(input_tokens=10, output_tokens=10)

    assert cost_usd(usage, a_model(input_usd_per_mtok="1")) is None
    assert cost_usd(usage, a_model(input_usd_per_mtok="0", output_usd_per_mtok="0")) == "0"
