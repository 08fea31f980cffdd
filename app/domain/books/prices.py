"""Dated, tiered prices: what a call cost, and the most that it can cost.

All arithmetic is in integers, exact until one division that rounds up: the books may be a nano-dollar above the bill,
never below it. A price that is not known is None, never zero. Knows no price itself: rows come from the configuration
and the model table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, date, datetime
from decimal import ROUND_CEILING, Decimal, InvalidOperation, localcontext
from functools import lru_cache

from app.domain.books.tiers import STANDARD
from app.domain.chat import Usage

_RATE_DECIMALS = 12
"""A rate in dollars per million tokens, times 10^12, is whole: attodollars per token."""
_FACTOR_DECIMALS = 6
_PRODUCT_DIGITS = 60
"""More than any rate times any factor has."""
_ATTO_PER_NANO = 10**9
_HOURS_PER_DAY = 24
_ONE: int = 10**_FACTOR_DECIMALS
_TABLES_MAX = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Dollars per million tokens, as decimal text so that no digit is lost; "0" is free."""

    input: str
    output: str
    cache_read: str | None = None
    """None: as input."""
    cache_write: str | None = None
    """Writes kept five minutes, or whatever the provider's only lifetime is. None: as input."""
    cache_write_1h: str | None = None
    """None: as ``cache_write``."""
    reasoning: str | None = None
    """None: as output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LongContext:
    """Other rates for the whole of a request whose input is longer than the threshold."""

    above_input_tokens: int
    rates: Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakWindow:
    """Hours of the day, in UTC, in which every rate is multiplied."""

    from_hour: int
    """0 to 23."""
    to_hour: int
    """First hour that is outside again; not above ``from_hour`` means past midnight, equal means the whole day."""
    factor: str
    weekdays: tuple[int, ...] = ()
    """Days on which it begins, Monday is 0; empty means all."""

    def covers(self, at: datetime) -> bool:
        """Return whether the window is open at ``at``, in UTC."""
        weekday = at.weekday()
        if self.from_hour < self.to_hour:
            inside = self.from_hour <= at.hour < self.to_hour
        elif at.hour >= self.from_hour:
            inside = True
        else:
            inside = at.hour < self.to_hour
            weekday = (weekday - 1) % 7
        return inside and (not self.weekdays or weekday in self.weekdays)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceRow:
    """What a model costs from a day on."""

    price_id: str
    """Names these very figures: another figure is another row with another id."""
    model: str
    provider: str | None = None
    """None: whoever serves it."""
    effective_from: date = date.min
    """The first day, in UTC."""
    rates: Rates
    long_contexts: tuple[LongContext, ...] = ()
    batch_factor: str | None = None
    """Multiplies every rate of calls in a batch; None: no discount."""
    tier_factors: tuple[tuple[str, str], ...] = ()
    """By service tier, what every rate of calls that ask for it is multiplied by; what others cost is not known."""
    peaks: tuple[PeakWindow, ...] = ()
    source: str = ""
    """Whose page or table says so, and when it was read."""


def price_nano(usage: Usage, row: PriceRow | None, *, at_s: float, batch: bool = False) -> int | None:
    """Return what ``usage`` costs in nano-dollars, rounded up once; None where the price is unknown.

    Args:
        usage: What the provider says it consumed.
        row: From ``find_row``.
        at_s: When the call was sent, in seconds since 1970; decides peak hours.
        batch: Whether it went through the provider's batch interface.
    """
    if row is None:
        return None
    table = _compiled(row)
    rates = table.rates_for(usage.input_tokens)
    long_lived = min(usage.cache_write_1h_tokens, usage.cache_write_tokens)
    # A provider's counts that contradict each other are charged as they stand, never as a negative rest.
    fresh = max(0, usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens)
    spoken = max(0, usage.output_tokens - usage.reasoning_tokens)
    atto = (
        fresh * rates.input
        + usage.cache_read_tokens * rates.cache_read
        + (usage.cache_write_tokens - long_lived) * rates.cache_write
        + long_lived * rates.cache_write_1h
        + spoken * rates.output
        + usage.reasoning_tokens * rates.reasoning
    )
    peak = _peak_factor(row, table, at_s)
    return _round_up(atto * peak * (table.batch if batch else _ONE))


def ceiling_nano(input_tokens: int, output_tokens_max: int, row: PriceRow | None) -> int | None:
    """Return the most a call can cost, whatever its usage within those counts turns out to be, whenever it is sent.

    Args:
        input_tokens: The most it can read, cached or not.
        output_tokens_max: The most it can generate, reasoning included.
        row: From ``find_row``.
    """
    if row is None:
        return None
    table = _compiled(row)
    dearest_in, dearest_out = next((most for above, most in table.dearest if input_tokens > above), table.dearest_base)
    return _round_up((input_tokens * dearest_in + output_tokens_max * dearest_out) * table.factors_max)


def find_row(rows: Iterable[PriceRow], *, model: str, provider: str | None, at_s: float) -> PriceRow | None:
    """Return the row in force at ``at_s``: the provider's own before anybody's, then the newest; the last of equals."""
    day = datetime.fromtimestamp(at_s, UTC).date()
    found: PriceRow | None = None
    for row in rows:
        if row.model != model or row.provider not in (None, provider) or row.effective_from > day:
            continue
        if found is None or _rank(row) >= _rank(found):
            found = row
    return found


def at_tier(row: PriceRow | None, tier: str) -> PriceRow | None:
    """Return the row as it holds for calls at a service tier; None where it does not say what that costs.

    Its id names the tier after the row's own, so that every cost says at which tier it was made.

    Args:
        row: From ``find_row``.
        tier: From ``asked_tier``.
    """
    if row is None or tier == STANDARD:
        return row
    factor = dict(row.tier_factors).get(tier)
    return None if factor is None else _times(row, tier, factor)


def with_tiers(rows: Iterable[PriceRow]) -> list[PriceRow]:
    """Return the rows, each followed by what it becomes at its tiers: every row that a cost can name."""
    return [one for row in rows for one in (row, *(_times(row, *named) for named in row.tier_factors))]


def check_row(row: PriceRow) -> Sequence[str]:
    """Return what is wrong with the row, one sentence each; ``price_nano`` may be called with rows that pass."""
    problems = []
    for rates in (row.rates, *(long.rates for long in row.long_contexts)):
        for field in fields(Rates):
            text = getattr(rates, field.name)
            if text is not None and not _fits(text, _RATE_DECIMALS):
                problems.append(f"{field.name}: {text!r} is no amount in dollars with at most 12 decimals")
    factors = [row.batch_factor, *(peak.factor for peak in row.peaks), *(factor for _tier, factor in row.tier_factors)]
    problems += [
        f"{text!r} is no factor with at most 6 decimals"
        for text in factors
        if text is not None and not _fits(text, _FACTOR_DECIMALS)
    ]
    problems += [
        f"hours {peak.from_hour} to {peak.to_hour} are not in 0 to 24"
        for peak in row.peaks
        if not (0 <= peak.from_hour < _HOURS_PER_DAY and 0 <= peak.to_hour <= _HOURS_PER_DAY)
    ]
    problems += [f"weekday {day} is not in 0 to 6" for peak in row.peaks for day in peak.weekdays if not 0 <= day <= 6]
    problems += ["a threshold of tokens is negative" for long in row.long_contexts if long.above_input_tokens < 0]
    return problems


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rates:
    """Attodollars per token."""

    input: int
    output: int
    cache_read: int
    cache_write: int
    cache_write_1h: int
    reasoning: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """A price row in integers; factors in millionths."""

    base: _Rates
    long: tuple[tuple[int, _Rates], ...]
    """By threshold, the highest first."""
    dearest_base: tuple[int, int]
    """The most that a token of input and one of output can cost."""
    dearest: tuple[tuple[int, tuple[int, int]], ...]
    """The same by threshold, the highest first, of all rates that so much input may reach."""
    batch: int
    peaks: tuple[int, ...]
    factors_max: int
    """Of the dearest hour, without the discount of a batch."""

    def rates_for(self, input_tokens: int) -> _Rates:
        """Return the rates that hold for a request with that much input."""
        for above, rates in self.long:
            if input_tokens > above:
                return rates
        return self.base


@lru_cache(maxsize=1_024)
def _times(row: PriceRow, tier: str, factor: str) -> PriceRow:
    return replace(
        row,
        price_id=f"{row.price_id}:{tier}",
        rates=_rates_times(row.rates, factor),
        long_contexts=tuple(replace(long, rates=_rates_times(long.rates, factor)) for long in row.long_contexts),
        # Nobody promises two discounts on one call.
        batch_factor=None,
        tier_factors=(),
    )


def _rates_times(rates: Rates, factor: str) -> Rates:
    told = {name: text for name, text in asdict(rates).items() if text is not None}
    return replace(rates, **{name: _product(text, factor) for name, text in told.items()})


def _product(rate: str, factor: str) -> str:
    with localcontext(prec=_PRODUCT_DIGITS, rounding=ROUND_CEILING):
        return format(Decimal(rate) * Decimal(factor), "f")


_TABLES: dict[int, tuple[PriceRow, _Table]] = {}
"""By identity, which lasts as long as the row is kept here: to hash all figures of a row costs more than the sum."""


def _compiled(row: PriceRow) -> _Table:
    found = _TABLES.get(id(row))
    if found is None:
        if len(_TABLES) >= _TABLES_MAX:
            _TABLES.clear()
        found = _TABLES[id(row)] = row, _compile(row)
    return found[1]


def _compile(row: PriceRow) -> _Table:
    base = _rates(row.rates)
    long = sorted(((one.above_input_tokens, _rates(one.rates)) for one in row.long_contexts), key=lambda one: one[0])
    dearest, reachable = [], [base]
    for above, rates in long:
        reachable.append(rates)
        dearest.append((above, _dearest(reachable)))
    batch = _scaled(row.batch_factor or "1", _FACTOR_DECIMALS)
    peaks = tuple(_scaled(peak.factor, _FACTOR_DECIMALS) for peak in row.peaks)
    return _Table(
        base=base,
        long=tuple(reversed(long)),
        dearest_base=_dearest([base]),
        dearest=tuple(reversed(dearest)),
        batch=batch,
        peaks=peaks,
        factors_max=max((_ONE, *peaks)) * max(_ONE, batch),
    )


def _dearest(reachable: Sequence[_Rates]) -> tuple[int, int]:
    return (
        max(max(r.input, r.cache_read, r.cache_write, r.cache_write_1h) for r in reachable),
        max(max(r.output, r.reasoning) for r in reachable),
    )


def _rates(rates: Rates) -> _Rates:
    fresh = _scaled(rates.input, _RATE_DECIMALS)
    output = _scaled(rates.output, _RATE_DECIMALS)
    write = fresh if rates.cache_write is None else _scaled(rates.cache_write, _RATE_DECIMALS)
    return _Rates(
        input=fresh,
        output=output,
        cache_read=fresh if rates.cache_read is None else _scaled(rates.cache_read, _RATE_DECIMALS),
        cache_write=write,
        cache_write_1h=write if rates.cache_write_1h is None else _scaled(rates.cache_write_1h, _RATE_DECIMALS),
        reasoning=output if rates.reasoning is None else _scaled(rates.reasoning, _RATE_DECIMALS),
    )


def _scaled(text: str, decimals: int) -> int:
    """Return ``text`` times a power of ten; digits beyond are rounded up, as everything that is owed."""
    return int(Decimal(text).scaleb(decimals).to_integral_value(rounding=ROUND_CEILING))


def _fits(text: str, decimals: int) -> bool:
    try:
        value = Decimal(text)
    except InvalidOperation:
        return False
    return value.is_finite() and value >= 0 and value.scaleb(decimals) % 1 == 0


def _peak_factor(row: PriceRow, table: _Table, at_s: float) -> int:
    if not row.peaks:
        return _ONE
    at = datetime.fromtimestamp(at_s, UTC)
    return next((factor for peak, factor in zip(row.peaks, table.peaks, strict=True) if peak.covers(at)), _ONE)


def _round_up(atto_scaled: int) -> int:
    # Two factors in millionths are in the product.
    return -(-atto_scaled // (_ATTO_PER_NANO * _ONE * _ONE))


def _rank(row: PriceRow) -> tuple[bool, date]:
    return row.provider is not None, row.effective_from
