"""The part of the schema that concerns the books: budgets and prices.

``schema`` puts it into the whole, and the model table reads its own prices with it; checks that need more than one
field stand in ``books_references``.
"""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator

from app.domain.accounts import Provider
from app.domain.books.budgets import EVERYONE, OwnerKind, Window
from app.domain.books.money import NANO_PER_USD
from app.domain.books.tiers import STANDARD_NAMES
from app.settings.fields import EMPTY_IF_NULL, BaseUrl, ModelName, Share, refusal, whole
from app.settings.sections import Section, setting

USD_MAX = 1_000_000_000
OWNER_CHARS_MAX = 200
_OWNER_REMEDY = "write tenant, or team:NAME, user:NAME, key:NAME, run:NAME, with * as the NAME for each of them"
_HOURS = re.compile(r"(\d{1,2})(?::00)?\s*-\s*(\d{1,2})(?::00)?")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_PER_MTOK = "USD per million tokens"
_RATE = "price"


def _decimal(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = Decimal(str(value).strip())
    except ArithmeticError:
        return None
    return number if number.is_finite() else None


def _owner(value: object) -> object:
    """Return (kind, name); the tenant's name is empty: it has one for the whole configuration."""
    if isinstance(value, tuple):
        return value
    text = value.strip() if isinstance(value, str) else ""
    kind, colon, name = (part.strip() for part in text.partition(":"))
    if text == OwnerKind.TENANT.value:
        return OwnerKind.TENANT, ""
    if kind not in {each.value for each in OwnerKind if each is not OwnerKind.TENANT} or not colon:
        raise refusal("must say whose budget it is", _OWNER_REMEDY)
    if not name or len(name) > OWNER_CHARS_MAX or not name.isprintable() or (EVERYONE in name and name != EVERYONE):
        raise refusal(f"must name the {kind}, or all of them", _OWNER_REMEDY)
    return OwnerKind(kind), name


def _usd(value: object) -> object:
    if value is None:
        return None
    number = _decimal(value)
    if number is None or not 0 <= number <= USD_MAX:
        raise refusal("must be an amount in USD, 0 or more", "write for instance 50.00")
    nano = number * NANO_PER_USD
    if nano % 1:
        raise refusal("must not be finer than a billionth of a dollar", "write at most nine decimals")
    return int(nano)


def _time_zone(value: object) -> object:
    text = value.strip() if isinstance(value, str) else ""
    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        # Unknown is a KeyError, a path a ValueError, a directory ("Europe") an OSError.
        raise refusal("must be an IANA time zone", "write for instance Europe/Berlin, or UTC") from None
    return text


def _rate(value: object) -> object:
    number = _decimal(value)
    if number is None or not 0 <= number <= 100_000:
        raise refusal("must be a price in USD for a million tokens", "write a number, 0 for free")
    if number.scaleb(12) % 1:
        raise refusal("must not be finer than the twelfth decimal", "write at most twelve decimals")
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _factor(maximum: int) -> BeforeValidator:
    def check(value: object) -> object:
        number = _decimal(value)
        if number is None or not 0 <= number <= maximum or number.scaleb(6) % 1:
            raise refusal(f"must be a factor from 0 to {maximum}, with at most six decimals", "write for instance 0.5")
        return format(number, "f")

    return BeforeValidator(check)


def _tier(value: str) -> str:
    if not value or value in STANDARD_NAMES:
        raise refusal("is the standard tier, which the prices are of", "name another tier, as requests do")
    return value


def _day(value: object) -> object:
    if isinstance(value, date):
        return value
    text = value.strip() if isinstance(value, str) else ""
    try:
        if _DATE.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise refusal("must be a day", "write for instance 2026-08-01")


def _hours(value: object) -> object:
    if isinstance(value, tuple):
        return value
    found = _HOURS.fullmatch(value.strip()) if isinstance(value, str) else None
    first, last = (int(found.group(1)), int(found.group(2))) if found else (24, 25)
    if first > 23 or last > 24:
        raise refusal("must be whole hours of the day, in UTC", 'write for instance "01:00-04:00"')
    return first, last


def _weekday(value: object) -> object:
    text = value.strip().lower()[:3] if isinstance(value, str) else ""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if text not in _WEEKDAYS:
        raise refusal("must be a day of the week", f"write {', '.join(_WEEKDAYS)}")
    return _WEEKDAYS.index(text)


Rate = Annotated[str, BeforeValidator(_rate)]
"""Decimal text, in dollars per million tokens."""
Tiers = Annotated[dict[Annotated[str, AfterValidator(_tier)], Annotated[str, _factor(100)]], EMPTY_IF_NULL]
"""Decimal text by the tier's name."""
Usd = Annotated[int | None, BeforeValidator(_usd)]
"""Dollars going in, nano-dollars coming out."""
Tokens = Annotated[
    int | None,
    BeforeValidator(
        lambda value: (
            None
            if value is None
            else whole(0, 10**15, what="a whole number of tokens, 0 or more", remedy="write for instance 5000000")(
                value
            )
        )
    ),
]


class AlertsSection(Section):
    """Who hears that a budget comes near its end, beside the store's log."""

    webhook: BaseUrl | None = setting(
        None,
        "Gets a POST with JSON when a budget reaches its `soft` share; `text` in it says it in a sentence.",
        kind="http or https address",
        example="https://chat.example.com/hooks/tutti",
    )


class BudgetSection(Section):
    """One ceiling of what may be spent: checked before every call, for everything it may cost at most."""

    owner: Annotated[tuple[OwnerKind, str], BeforeValidator(_owner)] = setting(
        ...,
        "Whose: `tenant` (everybody together), `team:`, `user:`, `key:` or `run:` with a name. `*` as the name gives "
        "each of the kind one of their own, unless a budget of the same window names them.",
        kind="owner",
        example="team:research",
        alias="for",
    )
    window: Window = setting(
        ...,
        "When it begins anew; `total` never does.",
        kind="one of " + ", ".join(f"`{each.value}`" for each in Window),
        example="month",
    )
    usd: Usd = setting(
        None, "Money; null is unlimited.", kind="number, 0 or more, or null", unit="USD", example="50.00"
    )
    tokens: Tokens = setting(
        None,
        "Input and output tokens together; null is unlimited. At least one of `usd` and `tokens` is needed.",
        kind="whole number or null",
        unit="tokens",
        example="5000000",
    )
    soft: Share = setting(
        0.8,
        "From this share of it on people are told; nobody is stopped.",
        kind="number from 0 to 1",
        example="0.9",
    )
    hard: bool = setting(
        True,
        "Whether calls that no longer fit are refused; else it is only counted.",
        kind="true or false",
        example="false",
    )
    time_zone: Annotated[str, BeforeValidator(_time_zone)] = setting(
        "UTC", "Where its days and months begin.", kind="IANA time zone", example="Europe/Berlin"
    )


class RatesSection(Section):
    """What tokens cost. What is left out costs as input, or as output."""

    cache_read: Rate | None = setting(
        None, "Input that the provider had cached.", kind=_RATE, unit=_PER_MTOK, example="0.025", without="as `input`"
    )
    cache_write: Rate | None = setting(
        None, "Input that it keeps for five minutes.", kind=_RATE, unit=_PER_MTOK, example="1.25", without="as `input`"
    )
    cache_write_1h: Rate | None = setting(
        None, "Input that it keeps for an hour.", kind=_RATE, unit=_PER_MTOK, example="2", without="as `cache_write`"
    )
    reasoning: Rate | None = setting(
        None, "Output that is thought, not said.", kind=_RATE, unit=_PER_MTOK, example="8", without="as `output`"
    )


class LongContextSection(RatesSection):
    """Other prices for the whole of a request whose input is long."""

    above_tokens: Annotated[
        int, BeforeValidator(whole(0, 10**9, what="a whole number of tokens", remedy="write for instance 272000"))
    ] = setting(
        ..., "Longest input that the prices below it hold for.", kind="whole number", unit="tokens", example="272000"
    )
    input: Rate = setting(..., "Input.", kind=_RATE, unit=_PER_MTOK, example="10")
    output: Rate = setting(..., "Output.", kind=_RATE, unit=_PER_MTOK, example="45")


class PeakSection(Section):
    """Hours in which every price is multiplied."""

    hours: Annotated[tuple[int, int], BeforeValidator(_hours)] = setting(
        ..., "Whole hours, in UTC; past midnight where the second is not larger.", kind="hours", example='"01:00-04:00"'
    )
    weekdays: tuple[Annotated[int, BeforeValidator(_weekday)], ...] = setting(
        tuple, "Days on which they begin; all where none is named.", kind="list of days", example="[mon, tue, wed]"
    )
    factor: Annotated[str, _factor(100)] = setting(
        ..., "What prices are multiplied by.", kind="number from 0 to 100", example="2"
    )


class ExtraPrices(RatesSection):
    """What a price row may hold beside input and output."""

    effective_from: Annotated[date | None, BeforeValidator(lambda value: None if value is None else _day(value))] = (
        setting(
            None,
            "First day on which it holds, in UTC.",
            kind="day",
            example="2026-08-01",
            without="always",
            alias="from",
        )
    )
    batch: Annotated[str | None, _factor(10)] = setting(
        None,
        "What prices are multiplied by in the provider's batch interface.",
        kind="number from 0 to 10",
        example="0.5",
        without="1",
    )
    tiers: Tiers = setting(
        dict,
        "What prices are multiplied by where a request asks for a `service_tier`, or for Anthropic's `speed` or "
        "`inference_geo`; for two of them together as `fast+us`. Of a tier that is not named here the price is "
        "unknown.",
        kind="mapping of tier to a number from 0 to 100",
        example="{priority: 2, flex: 0.5}",
    )
    long_context: tuple[LongContextSection, ...] = setting(
        tuple,
        "Prices of requests whose input is longer.",
        kind="list of prices",
        example="[{above_tokens: 272000, input: 10, output: 45}]",
    )
    peak: tuple[PeakSection, ...] = setting(
        tuple, "Hours in which it is dearer.", kind="list of hours", example='[{hours: "01:00-04:00", factor: 2}]'
    )


class PriceSection(ExtraPrices):
    """What a model costs; stands in for the model table's row from its first day on, and whole."""

    model: ModelName = setting(..., "The model, by a name that accounts serve.", kind="model", example="gpt-5-mini")
    provider: Provider | None = setting(
        None, "Only where this provider serves it.", kind="provider", example="openai", without="whoever serves it"
    )
    input: Rate = setting(..., "Input; 0 is free.", kind=_RATE, unit=_PER_MTOK, example="0.25")
    output: Rate = setting(..., "Output.", kind=_RATE, unit=_PER_MTOK, example="2.00")


class TablePrices(ExtraPrices):
    """What the model table knows of a price beyond its three figures; ``input`` and ``output`` replace them."""

    input: Rate | None = None
    output: Rate | None = None
