"""Nano-dollars inside, decimal dollars at the edge.

Sums of integers are exact and equal on both database engines. Rounding happens once per call, upwards: in ``prices``.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal, InvalidOperation

NANO_PER_USD = 1_000_000_000
USD_MIN = Decimal("0.000000001")
"""A nano-dollar; less is nothing."""
USD_MAX = 1_000_000_000
"""In one amount: nano-dollars are 64-bit integers in the store."""


def nano_from_usd(usd: str | Decimal) -> int:
    """Return ``usd`` dollars in nano-dollars, rounded up; raises decimal.InvalidOperation where it is no number."""
    return int((Decimal(usd) * NANO_PER_USD).to_integral_value(rounding=ROUND_CEILING))


def is_amount(usd: str) -> bool:
    """Return whether ``usd`` is an amount that the books can tell from nothing, and hold."""
    try:
        value = Decimal(usd)
    except InvalidOperation:
        return False
    return value.is_finite() and USD_MIN <= value <= USD_MAX


def usd_from_nano(nano: int) -> str:
    """Return nano-dollars as exact decimal text in dollars, without trailing zeros."""
    whole, rest = divmod(abs(nano), NANO_PER_USD)
    text = f"{whole}.{rest:09d}".rstrip("0").rstrip(".")
    return f"-{text}" if nano < 0 else text
