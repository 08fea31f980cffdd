"""The commands of the books: usage, budgets, books verify, books reconcile."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import typer
from rich.text import Text

from app.domain.books.budgets import Ledger
from app.domain.books.figures import ReconcileLine
from app.domain.books.money import NANO_PER_USD, usd_from_nano
from app.domain.books.unknown import UnknownHold
from app.domain.books.usage import Dimension
from app.domain.chat import Json
from app.domain.errors import GatewayError, RequestError
from app.domain.events.facts import verified_told
from app.http.books_wire import unknown_json
from app.http.usage_parameters import UsageParameters
from app.http.usage_wire import usage_csv
from app.terminal import books_source
from app.terminal.books_tables import render_budgets, render_differences, render_reconciliation, render_usage
from app.terminal.connect import Target
from app.terminal.output import ExitStatus, emit_json, standard_error, standard_output
from app.terminal.provider_export import FILE_BYTES_MAX, parse_export
from app.terminal.told import tell

TOLERANCE_PERCENT = 0.5
ROUNDING_NANO = NANO_PER_USD // 200
"""Half a cent: exports are rounded to cents, and what is not more says nothing."""
_UNITS_S = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_AGO = re.compile(r"(\d{1,6})([mhdw])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What `tutti usage` was given."""

    by: Sequence[str] = ()
    since: str | None = None
    until: str | None = None
    time_zone: str = "UTC"
    where: Sequence[str] = ()


async def usage(target: Target, asked: Asked, *, as_csv: bool, as_json: bool) -> int:
    """Print what was used and spent.

    Raises:
        RequestError: an option cannot be understood.
    """
    now_s = time.time()
    parameters = UsageParameters(
        since=_instant(asked.since, now_s),
        until=_instant(asked.until, now_s),
        time_zone=asked.time_zone,
        group_by=asked.by,
        filters=_filters(asked.where),
    )
    document = await books_source.get_usage(target, parameters)
    if as_json:
        emit_json(document)
    elif as_csv:
        typer.echo(usage_csv(document), nl=False)
    elif not document["data"]:
        standard_output().print("Nothing was booked in this time.")
    else:
        standard_output().print(render_usage(document))
    return int(ExitStatus.ANSWERED)


async def budgets(target: Target, *, as_json: bool) -> int:
    """Print what is left of every budget."""
    document = await books_source.get_budgets(target)
    rows = cast("list[dict[str, Any]]", document["data"])
    if as_json:
        emit_json(document)
    elif rows:
        standard_output().print(render_budgets(rows, time.time()))
    else:
        standard_output().print("No budgets. Add `budgets:` to the configuration; docs/configuration.md shows how.")
    return int(ExitStatus.ANSWERED)


def verify(target: Target, *, as_json: bool) -> int:
    """Add the books up again, tell that it was done, and print what differs; status 1 where anything does."""
    found, unknown = books_source.verify(target)
    try:
        tell(books_source.configuration(target), *verified_told(len(found), time.time()))
    except GatewayError as error:
        # Whoever may read the books need not be one who may write events.
        standard_error().print(Text(f"not kept as an event: {error.message}"))
    if as_json:
        emit_json(
            {
                "ok": not found,
                "differences": [
                    {"check": one.check, "subject": one.subject, "stored": one.stored, "computed": one.computed}
                    for one in found
                ],
                "unknown_holds": [unknown_json(one) for one in unknown],
            }
        )
    else:
        console = standard_output()
        console.print(render_differences(found) if found else "The books add up.")
        _print_unknown(unknown)
    return int(ExitStatus.DIFFERENT if found else ExitStatus.ANSWERED)


def reconcile(target: Target, file: Path, *, account: str | None, tolerance_percent: float, as_json: bool) -> int:
    """Print a provider's export beside the books; status 1 where they drift apart by more than the tolerance.

    Raises:
        RequestError: the export cannot be read.
    """
    orchestra = books_source.configuration(target)
    if account is not None and account not in {one.name for one in orchestra.accounts}:
        # One that was removed still has its entries.
        standard_error().print(Text(f"no account is called {account!r} any more"))
    export = parse_export(_text(file), account=account, orchestra=orchestra)
    lines, unknown = books_source.reconcile(target, export)
    drifting = [line for line in lines if drifts(line, tolerance_percent)]
    totals = _totals(lines)
    if as_json:
        emit_json(
            {
                "ok": not drifting,
                "tolerance_percent": tolerance_percent,
                "lines": [_line_json(line, drifts=line in drifting) for line in lines],
                "totals": [_line_json(line, drifts=drifts(line, tolerance_percent)) for line in totals],
                "unknown_holds": [unknown_json(one) for one in unknown],
            }
        )
    else:
        console = standard_output()
        console.print(render_reconciliation(lines, drifting))
        console.print(Text("together"))
        console.print(render_reconciliation(totals, [line for line in totals if drifts(line, tolerance_percent)]))
        words = f"{len(drifting)} of {len(lines)} lines differ by more than {tolerance_percent:g} %"
        console.print(words if drifting else f"No line differs by more than {tolerance_percent:g} %.")
        # What they bought is in the provider's figures, and in none of ours.
        _print_unknown(unknown)
    return int(ExitStatus.DIFFERENT if drifting else ExitStatus.ANSWERED)


def drifts(line: ReconcileLine, tolerance_percent: float) -> bool:
    """Return whether ours and theirs differ by more than the tolerance, and by more than rounding makes."""
    theirs = line.theirs or 0
    apart = abs(line.ours - theirs)
    if line.ledger is Ledger.USD and apart <= ROUNDING_NANO:
        return False
    return Decimal(apart) * 100 > Decimal(str(tolerance_percent)) * max(theirs, 0)


def _totals(lines: Sequence[ReconcileLine]) -> list[ReconcileLine]:
    """Return the sums by account and unit, dated with the first day."""
    totals = []
    for account, ledger in sorted({(line.account, line.ledger) for line in lines}):
        same = [line for line in lines if (line.account, line.ledger) == (account, ledger)]
        theirs, ours = sum(line.theirs or 0 for line in same), sum(line.ours for line in same)
        totals.append(
            ReconcileLine(
                account=account,
                day=min(line.day for line in same),
                model="",
                ledger=ledger,
                theirs=theirs,
                ours=ours,
                unpriced_calls=sum(line.unpriced_calls for line in same),
                verdict="equal" if ours == theirs else "ours_lower" if ours < theirs else "ours_higher",
            )
        )
    return totals


def _line_json(line: ReconcileLine, *, drifts: bool) -> dict[str, Json]:
    def amount(value: int | None) -> str | None:
        return None if value is None else usd_from_nano(value) if line.ledger is Ledger.USD else str(value)

    return {
        "day": line.day.isoformat(),
        "account": line.account,
        "model": line.model or None,
        "unit": line.ledger.value,
        "theirs": amount(line.theirs),
        "ours": amount(line.ours),
        "drift_percent": None if line.drift_share is None else round(line.drift_share * 100, 4),
        "unpriced_calls": line.unpriced_calls,
        "verdict": line.verdict,
        "drifts": drifts,
    }


def _print_unknown(unknown: Sequence[UnknownHold]) -> None:
    if unknown:
        usd = usd_from_nano(sum(one.amount_nano or 0 for one in unknown))
        words = "hold of a dead process counts" if len(unknown) == 1 else "holds of dead processes count"
        standard_output().print(
            Text(f"{len(unknown)} {words} as spent, ${usd} at most: what was billed, only the provider's export says.")
        )
        standard_output().print("`tutti books unknown` lists them, `tutti books settle HOLD` settles one.")


def _instant(text: str | None, now_s: float) -> str | None:
    """Return ``7d`` and its like as seconds since 1970; anything else as it is."""
    found = _AGO.fullmatch(text.strip()) if text is not None else None
    return text if found is None else f"{max(0.0, now_s - int(found.group(1)) * _UNITS_S[found.group(2)]):.3f}"


def _filters(where: Sequence[str]) -> dict[Dimension, list[str]]:
    filters: dict[Dimension, list[str]] = {}
    for item in where:
        name, equals, value = item.partition("=")
        if not equals or name not in {each.value for each in Dimension}:
            raise RequestError(
                f"A filter is written NAME=VALUE; this is {item!r}.",
                param="--where",
                remedy=f"Use one of {', '.join(each.value for each in Dimension)}, for instance model=gpt-5-mini.",
            )
        filters.setdefault(Dimension(name), []).append(value)
    return filters


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise RequestError(f"The file {str(file)!r} cannot be read: {error.strerror}.", param="FILE") from None
    if len(content) > FILE_BYTES_MAX:
        raise RequestError("The export is larger than 100 MB.", param="FILE", remedy="Export fewer days.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError(
            f"The file {str(file)!r} is not UTF-8 text.", param="FILE", remedy="Save it as CSV."
        ) from None
