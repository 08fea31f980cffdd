"""Turns a section of prices into a price row of the domain; for the configuration and the model table alike."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

from app.domain.books.prices import LongContext, PeakWindow, PriceRow, Rates
from app.settings.books_schema import ExtraPrices, RatesSection

ID_CHARS = 10


def extend_row(row: PriceRow, extra: ExtraPrices) -> PriceRow:
    """Return ``row`` with what ``extra`` says beside input and output."""
    return replace(
        row,
        rates=_with(row.rates, extra),
        effective_from=extra.effective_from or row.effective_from,
        batch_factor=extra.batch,
        tier_factors=tuple(sorted(extra.tiers.items())),
        long_contexts=tuple(
            LongContext(
                above_input_tokens=section.above_tokens,
                rates=_with(Rates(input=section.input, output=section.output), section),
            )
            for section in extra.long_context
        ),
        peaks=tuple(
            PeakWindow(
                from_hour=section.hours[0],
                to_hour=section.hours[1],
                factor=section.factor,
                weekdays=tuple(sorted(set(section.weekdays))),
            )
            for section in extra.peak
        ),
    )


def name_row(row: PriceRow, origin: str) -> PriceRow:
    """Return the row with an id made of all it says: another figure is another id."""
    digest = sha256(repr(replace(row, price_id="")).encode()).hexdigest()[:ID_CHARS]
    return replace(row, price_id=f"{origin}:{row.model}:{digest}")


def _with(rates: Rates, section: RatesSection) -> Rates:
    """Return ``rates`` with those that the section gives."""
    return replace(
        rates,
        cache_read=section.cache_read or rates.cache_read,
        cache_write=section.cache_write or rates.cache_write,
        cache_write_1h=section.cache_write_1h or rates.cache_write_1h,
        reasoning=section.reasoning or rates.reasoning,
    )
