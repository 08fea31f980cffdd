"""A price is exact, rounded up once, dated; and no usage within its counts costs more than the ceiling."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.books.money import nano_from_usd, usd_from_nano
from app.domain.books.prices import (
    LongContext,
    PeakWindow,
    PriceRow,
    Rates,
    at_tier,
    ceiling_nano,
    check_row,
    find_row,
    price_nano,
    with_tiers,
)
from app.domain.chat import Usage
from tests.effort import examples

NOON_S = datetime(2026, 11, 18, 12, tzinfo=UTC).timestamp()
"""A Wednesday."""
PLAIN = PriceRow(price_id="p", model="m", rates=Rates(input="2.50", output="15", cache_read="0.25"))

decimals = st.decimals(min_value=0, max_value=80, places=4, allow_nan=False).map(str)
maybe = st.none() | decimals
rates = st.builds(
    Rates, input=decimals, output=decimals, cache_read=maybe, cache_write=maybe, cache_write_1h=maybe, reasoning=maybe
)
factors = st.sampled_from(["0.5", "0.75", "1", "1.1", "2", "6"])
peaks = st.builds(
    PeakWindow,
    from_hour=st.integers(0, 23),
    to_hour=st.integers(0, 24),
    factor=factors,
    weekdays=st.lists(st.integers(0, 6), max_size=3).map(tuple),
)
long_contexts = st.builds(LongContext, above_input_tokens=st.integers(0, 3_000), rates=rates)
rows = st.builds(
    PriceRow,
    price_id=st.just("p"),
    model=st.just("m"),
    rates=rates,
    long_contexts=st.lists(long_contexts, max_size=3).map(tuple),
    batch_factor=st.none() | factors,
    tier_factors=factors.map(lambda factor: (("priority", factor),)),
    peaks=st.lists(peaks, max_size=2).map(tuple),
)


@st.composite
def usages(draw: st.DrawFn, input_max: int, output_max: int) -> Usage:
    given_in, out = draw(st.integers(0, input_max)), draw(st.integers(0, output_max))
    read = draw(st.integers(0, given_in))
    written = draw(st.integers(0, given_in - read))
    return Usage(
        input_tokens=given_in,
        output_tokens=out,
        cache_read_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=draw(st.integers(0, written)),
        reasoning_tokens=draw(st.integers(0, out)),
    )


@settings(max_examples=examples(400), deadline=None)
@given(
    data=st.data(),
    row=st.builds(at_tier, rows, st.sampled_from(["", "priority"])),
    input_max=st.integers(0, 5_000),
    output_max=st.integers(0, 5_000),
)
def test_no_usage_within_its_counts_costs_more_than_the_ceiling(
    data: st.DataObject, row: PriceRow, input_max: int, output_max: int
) -> None:
    """Else a hold is no hold: cached, tiered, reasoning, peak and batch rates included, at every service tier."""
    usage = data.draw(usages(input_max, output_max))
    cost = price_nano(
        usage,
        row,
        at_s=data.draw(st.floats(0, 4e9)),
        batch=data.draw(st.booleans()),
    )
    most = ceiling_nano(input_max, output_max, row)

    assert check_row(row) == []
    assert cost is not None
    assert most is not None
    assert 0 <= cost <= most


@settings(max_examples=examples(200), deadline=None)
@given(usage=usages(3_000_000, 400_000), fresh=decimals, output=decimals, read=decimals, batch=st.booleans())
def test_price_is_the_exact_amount_rounded_up_once(
    usage: Usage, fresh: str, output: str, read: str, batch: bool
) -> None:
    """Two roundings would drift; rounding down would put the books below the bill."""
    row = PriceRow(
        price_id="p", model="m", rates=Rates(input=fresh, output=output, cache_read=read), batch_factor="0.5"
    )
    exact = (
        (usage.input_tokens - usage.cache_read_tokens) * Fraction(fresh)
        + usage.cache_read_tokens * Fraction(read)
        + usage.output_tokens * Fraction(output)
    ) * 1_000

    assert price_nano(usage, row, at_s=0, batch=batch) == ceil(exact / 2 if batch else exact)


def test_every_kind_of_token_has_its_own_rate() -> None:
    """Cached and reasoning tokens are inside input and output: charging them twice is the classic mistake."""
    row = replace(
        PLAIN,
        rates=Rates(input="1", output="10", cache_read="0.1", cache_write="1.25", cache_write_1h="2", reasoning="20"),
    )
    usage = Usage(
        input_tokens=100,
        output_tokens=10,
        cache_read_tokens=40,
        cache_write_tokens=30,
        cache_write_1h_tokens=10,
        reasoning_tokens=4,
    )

    cost = price_nano(usage, row, at_s=0)

    assert cost == 30 * 1_000 + 40 * 100 + 20 * 1_250 + 10 * 2_000 + 6 * 10_000 + 4 * 20_000


def test_long_context_rates_hold_for_the_whole_request_above_the_threshold() -> None:
    """At the threshold the ordinary rates still hold; one token more and everything is dearer, output too."""
    row = replace(PLAIN, long_contexts=(LongContext(above_input_tokens=100, rates=Rates(input="5", output="20")),))

    assert price_nano(Usage(input_tokens=100, output_tokens=1), row, at_s=0) == 100 * 2_500 + 15_000
    assert price_nano(Usage(input_tokens=101, output_tokens=1), row, at_s=0) == 101 * 5_000 + 20_000


@pytest.mark.parametrize(
    ("hour", "day", "expected"),
    [(7, 18, 1), (8, 18, 2), (15, 18, 2), (16, 18, 1), (10, 21, 1), (23, 18, 3), (3, 19, 3), (5, 19, 1), (3, 18, 1)],
)
def test_peak_hours_multiply_on_their_weekdays_and_past_midnight(hour: int, day: int, expected: int) -> None:
    """A window past midnight belongs to the day on which it began."""
    row = replace(
        PLAIN,
        peaks=(
            PeakWindow(from_hour=8, to_hour=16, factor="2", weekdays=(0, 1, 2, 3, 4)),
            PeakWindow(from_hour=22, to_hour=5, factor="3", weekdays=(2,)),
        ),
    )
    at_s = datetime(2026, 11, day, hour, 30, tzinfo=UTC).timestamp()

    assert price_nano(Usage(input_tokens=0, output_tokens=1), row, at_s=at_s) == 15_000 * expected


def test_find_row_takes_the_newest_in_force_and_the_providers_own_first() -> None:
    """A price that begins tomorrow is not charged today."""
    old = replace(PLAIN, price_id="old", effective_from=date(2026, 1, 1))
    new = replace(PLAIN, price_id="new", effective_from=date(2026, 11, 18))
    later = replace(PLAIN, price_id="later", effective_from=date(2026, 11, 19))
    own = replace(PLAIN, price_id="own", provider="azure", effective_from=date(2026, 1, 1))
    override = replace(new, price_id="override")

    def found(*given_rows: PriceRow, provider: str = "openai", model: str = "m") -> str | None:
        row = find_row(given_rows, model=model, provider=provider, at_s=NOON_S)
        return None if row is None else row.price_id

    assert found(later, new, old, own) == "new"
    assert found(new, old, own, provider="azure") == "own"
    assert found(new, override) == "override"
    assert found(later) is None
    assert found(new, model="other") is None


def test_an_unknown_price_is_none_and_a_free_one_zero() -> None:
    """None and zero are different facts: a silent zero is what breaks budgets."""
    usage = Usage(input_tokens=10, output_tokens=10)

    assert price_nano(usage, None, at_s=0) is None
    assert ceiling_nano(10, 10, None) is None
    assert price_nano(usage, replace(PLAIN, rates=Rates(input="0", output="0")), at_s=0) == 0


def test_a_service_tier_multiplies_every_rate_of_ceiling_and_cost() -> None:
    """Long contexts, caches and peak hours included: a provider that doubles its price doubles all of it."""
    row = replace(
        PLAIN,
        rates=Rates(input="1", output="10", cache_read="0.1", cache_write="1.25", cache_write_1h="2", reasoning="20"),
        long_contexts=(LongContext(above_input_tokens=100, rates=Rates(input="5", output="20", cache_read="0.5")),),
        peaks=(PeakWindow(from_hour=12, to_hour=13, factor="3"),),
        tier_factors=(("flex", "0.5"), ("priority", "2")),
    )
    for input_tokens in (100, 101):
        usage = Usage(
            input_tokens=input_tokens,
            output_tokens=10,
            cache_read_tokens=40,
            cache_write_tokens=30,
            cache_write_1h_tokens=10,
            reasoning_tokens=4,
        )
        for at_s in (0.0, NOON_S):
            cost = price_nano(usage, row, at_s=at_s)
            dear = price_nano(usage, at_tier(row, "priority"), at_s=at_s)
            cheap = price_nano(usage, at_tier(row, "flex"), at_s=at_s)
            assert cost is not None
            assert (dear, cheap) == (2 * cost, cost // 2)
        ceiling = ceiling_nano(input_tokens, 10, row)
        assert ceiling is not None
        assert ceiling_nano(input_tokens, 10, at_tier(row, "priority")) == 2 * ceiling


def test_a_service_tier_that_the_row_does_not_name_has_no_price() -> None:
    """The standard rate for a dearer tier would put the books below the bill."""
    row = replace(PLAIN, tier_factors=(("flex", "0.5"),))

    assert at_tier(row, "") is row
    assert at_tier(row, "priority") is None
    assert at_tier(PLAIN, "flex") is None
    assert at_tier(None, "") is at_tier(None, "flex") is None


def test_a_row_at_a_tier_is_named_after_both() -> None:
    """The name that a cost carries says at which tier it was made, and its figures can be had by that name."""
    row = replace(PLAIN, tier_factors=(("flex", "0.5"), ("priority", "2")))

    rows = {one.price_id: one for one in with_tiers([row, replace(PLAIN, price_id="q")])}

    assert list(rows) == ["p", "p:flex", "p:priority", "q"]
    for tier in ("flex", "priority"):
        found = at_tier(row, tier)
        assert found is not None
        assert rows[found.price_id] == found
    assert rows["p:priority"].rates == Rates(input="5.00", output="30", cache_read="0.50")


def test_a_tier_and_a_batch_are_no_two_discounts() -> None:
    """Half of a half is what no provider's page says."""
    row = replace(PLAIN, batch_factor="0.5", tier_factors=(("flex", "0.5"),))
    usage = Usage(input_tokens=1_000, output_tokens=100)

    assert price_nano(usage, at_tier(row, "flex"), at_s=0, batch=True) == price_nano(usage, row, at_s=0, batch=True)


def test_the_rate_of_a_tier_is_rounded_up_never_down() -> None:
    """Beyond the twelfth decimal, where a tier's factor may lead."""
    row = replace(PLAIN, rates=Rates(input="0.000000000001", output="0"), tier_factors=(("flex", "0.000001"),))
    usage = Usage(input_tokens=10**9, output_tokens=0)

    assert price_nano(usage, at_tier(row, "flex"), at_s=0) == 1


def test_contradicting_counts_are_charged_as_they_stand() -> None:
    """A provider that reports more cached than read must not earn us a negative amount."""
    usage = Usage(input_tokens=10, output_tokens=1, cache_read_tokens=50, reasoning_tokens=3)

    assert price_nano(usage, PLAIN, at_s=0) == 50 * 250 + 3 * 15_000


def test_check_row_names_what_is_wrong() -> None:
    """Parsed once at the edge; inside, the figures are trusted."""
    row = replace(
        PLAIN,
        rates=Rates(input="-1", output="much", cache_read="0.0000000000001"),
        batch_factor="half",
        tier_factors=(("flex", "third"),),
        peaks=(PeakWindow(from_hour=24, to_hour=3, factor="1", weekdays=(7,)),),
        long_contexts=(LongContext(above_input_tokens=-1, rates=Rates(input="NaN", output="1")),),
    )

    problems = "\n".join(check_row(row))

    for word in (
        "input: '-1'",
        "output: 'much'",
        "cache_read",
        "'half'",
        "'third'",
        "hours 24",
        "weekday 7",
        "negative",
        "'NaN'",
    ):
        assert word in problems


@given(nano=st.integers(-(10**18), 10**18))
def test_dollars_and_nano_dollars_convert_without_loss(nano: int) -> None:
    """The edge shows what the books hold."""
    assert nano_from_usd(usd_from_nano(nano)) == nano


def test_dollars_below_a_nano_dollar_round_up() -> None:
    """What is owed is never rounded away."""
    assert nano_from_usd("0.0000000001") == 1
    assert usd_from_nano(1_500_000_000) == "1.5"
    assert usd_from_nano(0) == "0"
