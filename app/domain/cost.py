"""What a call cost in dollars, from its usage and the prices of the model table.

The edge of ``books.prices`` for whoever knows a model and no dated price row. Unknown stays unknown: a missing price is
None, never zero.
"""

from __future__ import annotations

from functools import lru_cache

from app.domain.accounts import ModelInfo
from app.domain.books.money import usd_from_nano
from app.domain.books.prices import PriceRow, Rates, price_nano
from app.domain.chat import Usage


def cost_usd(usage: Usage, model: ModelInfo) -> str | None:
    """Return the cost as decimal text, rounded up once to a nano-dollar; None where a price is unknown."""
    # The model table's rows have no peak hours, so the time does not matter.
    nano = price_nano(usage, row_of_model(model), at_s=0.0)
    return None if nano is None else usd_from_nano(nano)


def row_of_model(model: ModelInfo) -> PriceRow | None:
    """Return the model table's prices as an undated price row; None where input or output has no price."""
    if model.input_usd_per_mtok is None or model.output_usd_per_mtok is None:
        return None
    return _row(
        model.name,
        model.price_source or "",
        model.input_usd_per_mtok,
        model.output_usd_per_mtok,
        model.cache_read_usd_per_mtok or None,
    )


@lru_cache(maxsize=1_024)
def _row(model: str, source: str, fresh: str, output: str, cache_read: str | None) -> PriceRow:
    figures = "/".join((fresh, output, *([cache_read] if cache_read else [])))
    return PriceRow(
        price_id=f"table:{model}:{figures}",
        model=model,
        rates=Rates(input=fresh, output=output, cache_read=cache_read),
        source=source,
    )
