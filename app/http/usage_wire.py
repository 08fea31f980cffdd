"""Writes what the books say as JSON and CSV: money as decimal text in dollars, unknown as null and counted.

Used by the routes and by the command line, which reads the database itself where no server is named.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from app.domain.books.budgets import Ledger
from app.domain.books.entries import Correction, Ending, UsageEntry
from app.domain.books.figures import BudgetFigures
from app.domain.books.money import usd_from_nano
from app.domain.books.sums import SUMS
from app.domain.books.usage import Period, UsageQuery, UsageRow
from app.domain.chat import Json

View = Literal["stats", "costs"]

_COUNTS = (
    *("calls", "unpriced", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"),
    *("cache_write_1h_tokens", "reasoning_tokens"),
)
FIGURES: Mapping[View, tuple[str, ...]] = {
    "stats": (*_COUNTS, "mean_s", "cost_usd", "savings_usd"),
    "costs": ("calls", "unpriced", "input_tokens", "output_tokens", "cost_usd", "savings_usd"),
}
"""What a row says, by view."""
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet runs a cell that begins so; names come from clients."""


def usage_json(query: UsageQuery, rows: Sequence[UsageRow], view: View) -> dict[str, Json]:
    """Return the answer to a question about usage, with what all rows come to."""
    sums = {name: sum(getattr(row, name) for row in rows) for name in SUMS}
    return {
        "from_s": query.from_s,
        "to_s": query.to_s,
        "time_zone": query.time_zone,
        "period": query.period.value,
        "group_by": [dimension.value for dimension in query.group_by],
        "data": [
            {
                "period": row.period or None,
                "group": dict(zip((dimension.value for dimension in query.group_by), row.group, strict=True)),
                **_figures({name: getattr(row, name) for name in SUMS}, view),
            }
            for row in rows
        ],
        "total": _figures(sums, view),
    }


def usage_csv(document: Mapping[str, Any]) -> str:
    """Return the rows of a ``usage_json`` document as CSV; unknown money is an empty cell."""
    groups: list[str] = document["group_by"]
    periods = document["period"] != Period.ALL.value
    figures = [*document["total"]]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*(["period"] if periods else []), *groups, *figures])
    for row in document["data"]:
        cells = [*([row["period"]] if periods else []), *(_cell(row["group"][name]) for name in groups)]
        writer.writerow([*cells, *("" if row[name] is None else row[name] for name in figures)])
    return out.getvalue()


def budgets_json(figures: Iterable[BudgetFigures]) -> dict[str, Json]:
    """Return budgets, burnt down; amounts are decimal text in the budget's unit."""
    return {"data": [_budget(one) for one in figures]}


def entry_json(entry: UsageEntry) -> dict[str, Json]:
    """Return one entry as it was booked."""
    usage, owners = entry.usage, entry.owners
    bought = entry.ending is not Ending.CACHE_HIT
    return {
        "entry_id": entry.entry_id,
        "at_s": entry.at_s,
        "tenant": owners.tenant,
        "team": owners.team,
        "user": owners.user,
        "key": owners.key,
        "run": owners.run,
        "task_id": entry.task_id,
        "task_type": entry.task_type,
        "account": entry.account,
        "provider": entry.provider,
        "model": entry.model,
        "ending": entry.ending.value,
        "input_tokens": usage.input_tokens if bought else 0,
        "output_tokens": usage.output_tokens if bought else 0,
        "cache_read_tokens": usage.cache_read_tokens if bought else 0,
        "cache_write_tokens": usage.cache_write_tokens if bought else 0,
        "cache_write_1h_tokens": usage.cache_write_1h_tokens if bought else 0,
        "reasoning_tokens": usage.reasoning_tokens if bought else 0,
        "usage_source": usage.source,
        "cost_usd": "0" if not bought else None if entry.cost_nano is None else usd_from_nano(entry.cost_nano),
        "price_id": entry.price_id,
        "batch": entry.batch,
        "savings_usd": usd_from_nano(entry.savings_nano),
        "duration_s": entry.duration_s,
        "ttft_s": entry.ttft_s,
        "request_id": entry.request_id,
        "trace_id": entry.trace_id,
        "error_kind": entry.error_kind,
    }


def correction_json(correction: Correction) -> dict[str, Json]:
    """Return a corrected entry as it stands now, and what that adds to the sums: unknown money counts there as none."""
    added = dict(zip(SUMS, correction.differences, strict=True))
    return {
        "correction_id": correction.correction_id,
        **entry_json(correction.entry),
        "difference": {
            **{name: added[name] for name in _COUNTS},
            "cost_usd": usd_from_nano(added["cost_nano"]),
            "savings_usd": usd_from_nano(added["savings_nano"]),
        },
    }


def _figures(sums: Mapping[str, int], view: View) -> dict[str, Json]:
    calls, unpriced, cost_nano = sums["calls"], sums["unpriced"], sums["cost_nano"]
    unknown = unpriced > 0 and cost_nano == 0
    said: dict[str, Json] = {
        **{name: sums[name] for name in _COUNTS},
        "mean_s": round(sums["duration_ms"] / calls / 1_000, 3) if calls > 0 else None,
        "cost_usd": None if unknown else usd_from_nano(cost_nano),
        "savings_usd": usd_from_nano(sums["savings_nano"]),
    }
    return {name: said[name] for name in FIGURES[view]}


def _budget(one: BudgetFigures) -> dict[str, Json]:
    def amount(value: int) -> str:
        return usd_from_nano(value) if one.ledger is Ledger.USD else str(value)

    return {
        "budget_id": one.budget_id,
        "kind": one.owner_kind.value,
        "name": one.owner_name,
        "window": one.window.value,
        "window_key": one.window_key,
        "starts_s": one.starts_s,
        "resets_s": one.ends_s,
        "unit": one.ledger.value,
        "limit": amount(one.limit),
        "spent": amount(one.spent),
        "held": amount(one.held),
        "unknown": amount(one.unknown),
        "left": amount(one.left),
        "forecast": None if one.forecast is None else amount(one.forecast),
        "exhausted_s": one.exhausted_s,
        "soft": one.soft_share,
        "hard": one.hard,
    }


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text
