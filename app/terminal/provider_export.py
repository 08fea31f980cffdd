"""Reads a provider's export of usage or cost: CSV, whatever its columns are called. Decides nothing about it."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation

from app.domain.accounts import Orchestra
from app.domain.books.figures import ExportRow
from app.domain.books.money import nano_from_usd
from app.domain.errors import RequestError

COLUMNS: Mapping[str, Sequence[str]] = {
    "day": ("date", "day", "usage_date", "usage_date_utc", "start_time_iso", "start_time", "timestamp"),
    "account": ("account",),
    "model": ("model", "model_name", "model_version", "line_item"),
    "input": ("input_tokens", "prompt_tokens", "n_context_tokens_total", "input"),
    "output": ("output_tokens", "completion_tokens", "n_generated_tokens_total", "output"),
    "cost": ("cost", "cost_usd", "amount", "amount_value", "amount_usd", "total_cost"),
}
"""What we look for, and what providers call it."""
FILE_BYTES_MAX = 100_000_000
FIGURE_MAX = 1_000_000_000_000
"""Dollars or tokens of one line; more is a slip."""
_RELEASE = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2})$")
_SECONDS = re.compile(r"\d{9,10}(\.\d+)?")
_DAY_CHARS = 10


def parse_export(text: str, *, account: str | None, orchestra: Orchestra) -> list[ExportRow]:
    """Return the lines of an export.

    Args:
        text: The file.
        account: By which account it was fetched, where no column says so.
        orchestra: Knows the accounts, and which public names stand for their models.

    Raises:
        RequestError: columns are missing, or a line cannot be read; the message names it.
    """
    reader = csv.reader(text.lstrip("\ufeff").splitlines(), delimiter=_delimiter(text))
    head = next(reader, [])
    places = _places(head)
    if "account" not in places and account is None:
        raise RequestError(
            "Whose export it is, no column says.",
            param="--account",
            remedy=f"Name the account: {', '.join(one.name for one in orchestra.accounts)}.",
        )
    rows = []
    for number, cells in enumerate(reader, start=2):
        if any(cell.strip() for cell in cells):
            line = {name: cells[place].strip() if place < len(cells) else "" for name, place in places.items()}
            rows.append(_row(line, number, account=account, orchestra=orchestra))
    if not rows:
        raise RequestError("The export has no lines.", param="FILE", remedy="Export a range of days that had use.")
    return rows


def _delimiter(text: str) -> str:
    first = text.partition("\n")[0]
    return max((",", ";", "\t"), key=first.count)


def _places(head: Sequence[str]) -> dict[str, int]:
    names = [re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_") for name in head]
    places = {}
    for wanted, known in COLUMNS.items():
        found = next((name for name in known if name in names), None)
        if found is not None:
            places[wanted] = names.index(found)
    if "day" not in places or not places.keys() & {"cost", "input"}:
        raise RequestError(
            f"The export has the columns {', '.join(head) or '(none)'}: a day, and costs or tokens, are needed.",
            param="FILE",
            remedy="Name them date, model, input_tokens, output_tokens, cost in its first line.",
        )
    return places


def _row(line: Mapping[str, str], number: int, *, account: str | None, orchestra: Orchestra) -> ExportRow:
    name = line.get("account") or account or ""
    try:
        day = _day(line["day"])
        cost = _number(line.get("cost", "").lstrip("$"))
        tokens = {each: _number(line.get(each, "")) for each in ("input", "output")}
        return ExportRow(
            account=name,
            day=day,
            model=_public_name(line.get("model", ""), name, orchestra),
            input_tokens=None if tokens["input"] is None else int(tokens["input"]),
            output_tokens=None if tokens["output"] is None else int(tokens["output"]),
            cost_nano=None if cost is None else nano_from_usd(cost),
        )
    except (ValueError, InvalidOperation, OverflowError):
        said = ", ".join(value for value in line.values() if value)
        raise RequestError(
            f"Line {number} of the export cannot be read: {said[:100]}.",
            param="FILE",
            remedy="Write days as 2026-11-21, tokens as whole numbers, costs as decimal dollars.",
        ) from None


def _number(text: str) -> Decimal | None:
    """Return a figure; None for an empty cell. Raises ValueError or InvalidOperation where it is none."""
    if not text:
        return None
    number = Decimal(text.replace(",", ""))
    if not number.is_finite() or abs(number) > FIGURE_MAX:
        raise ValueError(text)
    return number


def _day(text: str) -> date:
    if _SECONDS.fullmatch(text):
        return datetime.fromtimestamp(float(text), UTC).date()
    if len(text) > _DAY_CHARS and "T" in text:
        moment = datetime.fromisoformat(text)
        return (moment.astimezone(UTC) if moment.tzinfo else moment).date()
    return date.fromisoformat(text[:_DAY_CHARS])


def _public_name(model: str, account: str, orchestra: Orchestra) -> str:
    """Return the name by which we booked it: exports have the provider's, often with the date of its release."""
    served = next((one.models for one in orchestra.accounts if one.name == account), ())
    bare = _RELEASE.sub("", model)
    for candidate in dict.fromkeys((model, bare)):
        for public, upstream in served:
            if candidate in (public, upstream) or candidate == _RELEASE.sub("", upstream):
                return public
    return model
