"""What a call cost, from its usage and the model's price row.

Deliberately simple until the books take over: list prices per million tokens, cached input at its own rate where the
row has one. Unknown stays unknown: a missing price is None, never zero.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal

from app.domain.accounts import ModelInfo
from app.domain.chat import Usage

NANO_USD = Decimal("0.000000001")
PER_TOKENS = Decimal(1_000_000)


def cost_usd(usage: Usage, model: ModelInfo) -> str | None:
    """Return the cost as decimal text, rounded up once to a nano-dollar; None where a price is unknown."""
    if model.input_usd_per_mtok is None or model.output_usd_per_mtok is None:
        return None
    input_price = Decimal(model.input_usd_per_mtok)
    cached_price = Decimal(model.cache_read_usd_per_mtok) if model.cache_read_usd_per_mtok else input_price
    fresh_tokens = usage.input_tokens - usage.cache_read_tokens
    total = (
        fresh_tokens * input_price
        + usage.cache_read_tokens * cached_price
        + usage.output_tokens * Decimal(model.output_usd_per_mtok)
    ) / PER_TOKENS
    return format(total.quantize(NANO_USD, rounding=ROUND_CEILING).normalize() + 0, "f")
