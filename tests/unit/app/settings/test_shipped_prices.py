"""The prices that ship are what the providers' pages and tables said: dated, and with every rate that was said."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from app.domain.books.money import usd_from_nano
from app.domain.books.prices import PriceRow, at_tier, price_nano
from app.domain.chat import Usage
from app.settings.model_table import model_table

MILLION = 1_000_000
SUNDAY = datetime(2026, 11, 22, 2, tzinfo=UTC)
MONDAY = datetime(2026, 11, 23, 2, tzinfo=UTC)


def row_of(model: str) -> PriceRow:
    row = model_table().find_price(model)
    assert row is not None
    return row


def cost(model: str, usage: Usage, at: datetime = SUNDAY, *, batch: bool = False) -> Decimal:
    nano = price_nano(usage, row_of(model), at_s=at.timestamp(), batch=batch)
    assert nano is not None
    return Decimal(usd_from_nano(nano))


def test_every_row_says_from_when_it_holds_and_who_says_so() -> None:
    """A cost names its row, and the row must be traceable; none may hold since ever by mistake."""
    rows = {name: row.price for name, row in model_table().rows.items()}

    assert len(rows) > 40
    for name, row in rows.items():
        assert row is not None, name
        assert row.effective_from > date.min, name
        assert row.source, name


@pytest.mark.parametrize(
    ("model", "fresh", "cached", "output"),
    [
        ("gpt-5.6", "5", "0.50", "30"),
        ("gpt-5.6-terra", "2.50", "0.25", "15"),
        ("gpt-5.6-luna", "1", "0.10", "6"),
        ("gpt-5.5", "5", "0.50", "30"),
        ("gpt-5.4", "2.50", "0.25", "15"),
        ("gpt-5.4-mini", "0.75", "0.075", "4.50"),
        ("gpt-5.4-nano", "0.20", "0.02", "1.25"),
        ("gpt-5-2025-08-07", "1.25", "0.125", "10"),
        ("gpt-5-mini", "0.25", "0.025", "2"),
        ("gpt-4.1", "2", "0.50", "8"),
        ("gpt-4.1-mini", "0.40", "0.10", "1.60"),
        ("gpt-4.1-nano", "0.10", "0.025", "0.40"),
        ("gpt-4o", "2.50", "1.25", "10"),
        ("gpt-4o-mini", "0.15", "0.075", "0.60"),
        ("claude-fable-5", "10", "1", "50"),
        ("claude-opus-4-8", "5", "0.50", "25"),
        ("claude-opus-4-5", "5", "0.50", "25"),
        ("claude-sonnet-5", "2", "0.20", "10"),
        ("claude-sonnet-4-6", "3", "0.30", "15"),
        ("claude-haiku-4-5-20251001", "1", "0.10", "5"),
        ("gemini-3.1-pro-preview", "2", "0.20", "12"),
        ("gemini-3.5-flash", "1.50", "0.15", "9"),
        ("gemini-3-flash-preview", "0.50", "0.05", "3"),
        ("gemini-3.1-flash-lite", "0.25", "0.025", "1.50"),
        ("gemini-2.5-pro", "1.25", "0.125", "10"),
        ("gemini-2.5-flash", "0.30", "0.03", "2.50"),
        ("gemini-2.5-flash-lite", "0.10", "0.01", "0.40"),
        ("deepseek-flash", "0.15", "0.003", "0.60"),
        ("deepseek-v4-pro", "0.66", "0.022", "1.98"),
        ("deepseek-chat", "0.28", "0.028", "0.42"),
        ("qwen3-max", "1.20", "1.20", "6"),
        ("qwen3.5-plus", "0.40", "0.40", "2.40"),
        # With thinking, which nothing in the usage tells for sure.
        ("qwen-plus", "0.40", "0.40", "4"),
        ("qwen-flash", "0.05", "0.05", "0.40"),
        ("qwen-turbo", "0.05", "0.05", "0.50"),
        ("text-embedding-3-small", "0.02", "0.02", "0"),
        ("text-embedding-3-large", "0.13", "0.13", "0"),
        ("text-embedding-v4", "0.07", "0.07", "0"),
    ],
)
def test_rates_of_a_short_call_off_peak(model: str, fresh: str, cached: str, output: str) -> None:
    """Dollars per million tokens; a provider without a rate for cached input charges it as any."""
    few = 1_000
    per_mtok = Decimal(MILLION) / few

    assert cost(model, Usage(input_tokens=few, output_tokens=0)) * per_mtok == Decimal(fresh)
    assert cost(model, Usage(input_tokens=few, output_tokens=0, cache_read_tokens=few)) * per_mtok == Decimal(cached)
    assert cost(model, Usage(input_tokens=0, output_tokens=few)) * per_mtok == Decimal(output)


@pytest.mark.parametrize(
    ("model", "above", "fresh", "cached", "output"),
    [
        ("gpt-5.6-sol", 272_000, "10", "1", "45"),
        ("gpt-5.6-terra", 272_000, "5", "0.5", "22.5"),
        ("gemini-3.1-pro-preview", 200_000, "4", "0.4", "18"),
        ("gemini-2.5-pro", 200_000, "2.5", "0.25", "15"),
        ("qwen3-max", 32_000, "2.4", "2.4", "12"),
        ("qwen3-max", 128_000, "3", "3", "15"),
        ("qwen3.5-plus", 256_000, "0.5", "0.5", "3"),
        ("qwen-flash", 256_000, "0.25", "0.25", "2"),
    ],
)
def test_a_long_context_costs_more_from_its_threshold_on(
    model: str, above: int, fresh: str, cached: str, output: str
) -> None:
    """The whole of the call, not what is beyond."""
    long = above + 1
    read = cost(model, Usage(input_tokens=long, output_tokens=0))
    out = cost(model, Usage(input_tokens=long, output_tokens=MILLION)) - read

    assert read * MILLION == long * Decimal(fresh)
    assert cost(model, Usage(input_tokens=long, output_tokens=0, cache_read_tokens=long)) * MILLION == long * Decimal(
        cached
    )
    assert out == Decimal(output)
    assert cost(model, Usage(input_tokens=above, output_tokens=0)) < read * Decimal("0.85")


@pytest.mark.parametrize(
    ("at", "factor"),
    [
        (MONDAY, 2),
        (MONDAY.replace(hour=0, minute=59), 1),
        (MONDAY.replace(hour=4), 1),
        (MONDAY.replace(hour=6), 2),
        (MONDAY.replace(hour=9, minute=59), 2),
        (MONDAY.replace(hour=10), 1),
        (SUNDAY, 1),
    ],
)
@pytest.mark.parametrize("model", ["deepseek-flash", "deepseek-v4-pro"])
def test_deepseek_is_half_as_dear_off_peak(model: str, at: datetime, factor: int) -> None:
    """Peak: 01:00 to 04:00 and 06:00 to 10:00 UTC on workdays."""
    usage = Usage(input_tokens=3_000, output_tokens=500, cache_read_tokens=1_000)

    assert cost(model, usage, at) == factor * cost(model, usage, SUNDAY)


@pytest.mark.parametrize(
    ("model", "short", "long"),
    [
        ("claude-fable-5", "12.5", "20"),
        ("claude-opus-4-8", "6.25", "10"),
        ("claude-sonnet-5", "2.5", "4"),
        ("claude-sonnet-4-6", "3.75", "6"),
        ("claude-haiku-4-5", "1.25", "2"),
        ("gpt-5.6", "6.25", "6.25"),
        ("gpt-5.6-terra", "3.125", "3.125"),
        ("gpt-5.6-luna", "1.25", "1.25"),
    ],
)
def test_writing_a_cache_costs_more_than_reading_without(model: str, short: str, long: str) -> None:
    """By how long it is kept, where the provider tells them apart."""
    usage = Usage(input_tokens=1_000, output_tokens=0, cache_write_tokens=1_000)

    assert cost(model, usage) * 1_000 == Decimal(short)
    assert cost(model, replace(usage, cache_write_1h_tokens=1_000)) * 1_000 == Decimal(long)


def test_a_batch_costs_half_where_the_table_says_so() -> None:
    """And as much as any call where nobody says anything: never too little."""
    usage = Usage(input_tokens=1_000, output_tokens=1_000)

    assert cost("gpt-5.6-sol", usage, batch=True) * 2 == cost("gpt-5.6-sol", usage)
    assert cost("gpt-5.5", usage, batch=True) == cost("gpt-5.5", usage)


@pytest.mark.parametrize(
    ("model", "tier", "factor"),
    [
        ("gpt-5.6", "priority", 2),
        ("gpt-5.6", "flex", Decimal("0.5")),
        ("claude-opus-4-8", "fast", 2),
        ("claude-opus-4-7", "fast", 6),
        ("claude-opus-4-6", "fast", 6),
        ("claude-opus-4-6", "fast+us", Decimal("6.6")),
        ("claude-opus-4-8", "fast+us", Decimal("2.2")),
        ("claude-fable-5", "us", Decimal("1.1")),
        ("claude-sonnet-4-6", "us", Decimal("1.1")),
    ],
)
def test_a_service_tier_costs_what_the_table_says(model: str, tier: str, factor: Decimal) -> None:
    """All of the call."""
    usage = Usage(input_tokens=1_000, output_tokens=1_000, cache_read_tokens=500)
    nano = price_nano(usage, at_tier(row_of(model), tier), at_s=SUNDAY.timestamp())

    assert nano is not None
    assert Decimal(usd_from_nano(nano)) == factor * cost(model, usage)


def test_a_service_tier_of_which_the_table_says_nothing_has_no_price() -> None:
    """Unknown, not the standard rate."""
    for name, row in model_table().rows.items():
        named = {tier for tier, _factor in row.price.tier_factors} if row.price else set()
        for tier in {"priority", "flex", "fast", "scale", "us", "eu", "priority+us"} - named:
            assert at_tier(row.price, tier) is None, name
