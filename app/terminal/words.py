"""How durations, tokens, money and foreign text look in a terminal. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

from app.domain.chat import Json

_HOUR_S = 3_600.0
_DAY_S = 86_400.0


def printable(text: str) -> str:
    """Return ``text`` without control characters, except line breaks and tabs.

    Titles and answers come from models: an escape sequence in one must not reach the terminal.
    """
    return "".join(letter for letter in text if letter in "\n\t" or letter.isprintable())


def one_line(text: str, chars_max: int) -> str:
    """Return ``text`` on one line, cut with an ellipsis."""
    flat = " ".join(printable(text).split())
    return flat if len(flat) <= chars_max else flat[: chars_max - 1].rstrip() + "…"


def seconds(value_s: float) -> str:
    """Return a duration as a reader wants it: 0.4 s, 12.3 s, 2 min 05 s."""
    if value_s < 60:
        return f"{max(0.0, value_s):.1f} s"
    minutes, rest = divmod(int(value_s), 60)
    return f"{minutes} min {rest:02d} s"


def span(value_s: float) -> str:
    """Return a long duration: in days or hours from two of them on."""
    if value_s >= 2 * _DAY_S:
        return f"{value_s / _DAY_S:.0f} days"
    return f"{value_s / _HOUR_S:.0f} h" if value_s >= 2 * _HOUR_S else seconds(value_s)


def money(cost_usd: str | None) -> str:
    """Return a cost; unknown and free are not the same."""
    if cost_usd is None:
        return "cost unknown"
    try:
        cost = Decimal(cost_usd)
    except InvalidOperation:
        return "cost unknown"
    if cost == 0:
        return "free"
    if cost < Decimal("0.01"):
        return f"${cost.normalize():f}" if cost >= Decimal("0.000001") else "<$0.000001"
    return f"${cost:.4f}"


def tokens(usage: Mapping[str, Json]) -> str:
    """Return input and output tokens: 1,204 → 310."""
    return f"{number(usage.get('input_tokens'))} → {number(usage.get('output_tokens'))}"


def number(value: Json) -> str:
    """Return an integer with groups of three digits."""
    return f"{int(value):,}" if isinstance(value, int | float) else "?"


def text_of(value: Json, default: str = "") -> str:
    """Return a JSON string, or ``default`` where there is none."""
    return value if isinstance(value, str) else default


def float_of(value: Json, default: float = 0.0) -> float:
    """Return a JSON number, or ``default`` where there is none."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else default


def object_of(value: Json) -> dict[str, Json]:
    """Return a JSON object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def list_of(value: Json) -> list[Json]:
    """Return a JSON list; an empty one for anything else."""
    return value if isinstance(value, list) else []
