"""Renders usage, budgets and checks of the books as people read them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from app.domain.books.budgets import Ledger
from app.domain.books.figures import Difference, ReconcileLine
from app.domain.books.money import usd_from_nano
from app.terminal.words import money, number, one_line, seconds, span

BAR_CELLS = 20
NOBODY = "(none)"
_DAY_S = 86_400.0
OWNERS = ("team", "user", "key", "run")


def render_usage(document: Mapping[str, Any]) -> Table:
    """Return one row per group and period of a ``usage_json`` document, and what they come to."""
    table = _table()
    groups: list[str] = document["group_by"]
    periods = document["period"] != "all"
    for name in (*([document["period"]] if periods else []), *groups):
        table.add_column(name, overflow="fold")
    for name in ("calls", "tokens", "cached", "mean", "cost", "saved"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in document["data"]:
        head = [*([row["period"]] if periods else []), *(row["group"][name] or NOBODY for name in groups)]
        table.add_row(*(Text(one_line(text, 60)) for text in head), *_figures(row))
    if len(document["data"]) != 1:
        table.add_section()
        rest = [""] * (len(groups) + periods - 1)
        head = ["total", *rest] if groups or periods else []
        table.add_row(*head, *_figures(document["total"]), style="bold")
    return table


def render_budgets(budgets: Sequence[Mapping[str, Any]], now_s: float) -> Table:
    """Return one row per budget: how far it is burnt down, how fast, and when it will be at its end."""
    table = _table()
    table.add_column("budget", overflow="fold")
    table.add_column("window", overflow="fold")
    table.add_column("used", no_wrap=True)
    for name in ("spent", "held", "unknown", "left", "limit"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("outlook", overflow="fold")
    for one in budgets:
        window = one["window"] if one["resets_s"] is None else f"{one['window']}, {span(one['resets_s'] - now_s)} left"
        name = one["kind"] if one["kind"] == "tenant" else f"{one['kind']} {one['name']}"
        figures = (_amount(one, one[each]) for each in ("spent", "held", "unknown", "left", "limit"))
        table.add_row(
            Text(one_line(name, 60)),
            Text(window),
            _bar(one),
            *(Text(figure) for figure in figures),
            _outlook(one, now_s),
        )
    return table


def render_differences(found: Sequence[Difference]) -> Table:
    """Return what does not add up."""
    table = _table()
    for name in ("check", "of", "stored", "computed"):
        table.add_column(name, overflow="fold")
    for one in found:
        table.add_row(*(Text(one_line(text, 200)) for text in (one.check, one.subject, one.stored, one.computed)))
    return table


def render_reconciliation(lines: Sequence[ReconcileLine], drifting: Sequence[ReconcileLine]) -> Table:
    """Return the provider's figures beside ours, by day and model; what drifts is marked."""
    table = _table()
    for name in ("day", "account", "model", "unit"):
        table.add_column(name, overflow="fold")
    for name in ("theirs", "ours", "drift", "unpriced"):
        table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        share = line.drift_share
        drift = "not exported" if line.theirs is None else "–" if share is None else f"{share:+.2%}"
        figures = (
            "–" if line.theirs is None else _exact(line.ledger, line.theirs),
            _exact(line.ledger, line.ours),
            drift,
            str(line.unpriced_calls or ""),
        )
        places = (line.day.isoformat(), line.account, line.model or "(all)", line.ledger.value)
        style = "red" if line in drifting else ""
        table.add_row(*(Text(one_line(text, 60), style=style) for text in (*places, *figures)))
    return table


def render_unknown(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return one row a hold: whose it is, how old, and how much it may have been at most."""
    found = _table()
    for name in ("hold", "whose", "account", "model"):
        found.add_column(name, overflow="fold")
    for name in ("age", "at most", "tokens", "calls"):
        found.add_column(name, justify="right", no_wrap=True)
    for one in rows:
        whose = ", ".join(f"{kind} {one[kind]}" for kind in OWNERS if one[kind]) or NOBODY
        names = (one["hold_id"], whose, one["account"] or NOBODY, one["model"] or NOBODY)
        figures = (span(one["age_s"]), money(one["usd"]), number(one["tokens"]), str(one["calls"]))
        found.add_row(*(Text(one_line(text, 80)) for text in names), *(Text(text) for text in figures))
    return found


def burn_per_s(one: Mapping[str, Any], now_s: float) -> Decimal | None:
    """Return what a budget spends a second since its window began; None for a window without beginning."""
    elapsed_s = now_s - one["starts_s"]
    if one["resets_s"] is None or elapsed_s <= 0:
        return None
    return (Decimal(one["spent"]) + Decimal(one["unknown"])) / Decimal(elapsed_s)


def _table() -> Table:
    return Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)


def _figures(row: Mapping[str, Any]) -> tuple[Text, ...]:
    cost = money(row["cost_usd"])
    if row["unpriced"] and row["cost_usd"] is not None:
        cost = f"{cost} + {number(row['unpriced'])} unpriced"
    saved = "" if row["savings_usd"] == "0" else money(row["savings_usd"])
    mean = "" if row["mean_s"] is None else seconds(row["mean_s"])
    tokens = f"{number(row['input_tokens'])} → {number(row['output_tokens'])}"
    figures = (number(row["calls"]), tokens, number(row["cache_read_tokens"]), mean, cost, saved)
    return tuple(Text(figure) for figure in figures)


def _bar(one: Mapping[str, Any]) -> Text:
    """Return a bar of what is spent, unknown and held, against the limit."""
    limit = Decimal(one["limit"])
    used = [Decimal(one[name]) for name in ("spent", "unknown", "held")]
    if not limit:
        return Text("█" * BAR_CELLS, style="red")
    bar, filled = Text(), 0
    reached, total = 0, Decimal(0)
    for value, letter, style in zip(used, "█▓▒", ("", "red", "dim"), strict=True):
        total += max(value, Decimal(0))
        reached = min(BAR_CELLS, round(total / limit * BAR_CELLS))
        bar.append(letter * (reached - filled), style=style)
        filled = reached
    bar.append("░" * (BAR_CELLS - filled), style="dim")
    share = (used[0] + used[1]) / limit
    bar.append(f" {share:.0%}", style="red" if share >= 1 else "yellow" if share >= Decimal(str(one["soft"])) else "")
    return bar


def _outlook(one: Mapping[str, Any], now_s: float) -> Text:
    rate = burn_per_s(one, now_s)
    said = []
    if rate:
        said.append(f"{_amount(one, str(rate * Decimal(_DAY_S)))} a day")
    if one["forecast"] is not None and rate:
        said.append(f"{_amount(one, one['forecast'])} at its end")
    over = Decimal(one["spent"]) + Decimal(one["unknown"]) >= Decimal(one["limit"])
    if over:
        said.append("used up")
    elif one["exhausted_s"] is not None:
        at = datetime.fromtimestamp(one["exhausted_s"], UTC)
        said.append(f"runs out {at:%Y-%m-%d %H:%M} UTC")
    if not one["hard"]:
        said.append("only counted")
    return Text(", ".join(said), style="red" if over else "yellow" if one["exhausted_s"] is not None else "")


def _amount(one: Mapping[str, Any], text: str) -> str:
    value = Decimal(text)
    if one["unit"] != "usd":
        return number(round(value))
    # Below a cent two digits that say something.
    return f"${value:.2f}" if value == 0 or abs(value) >= Decimal("0.01") else f"${Decimal(f'{value:.1e}'):f}"


def _exact(ledger: Ledger, value: int) -> str:
    return f"${usd_from_nano(value)}" if ledger is Ledger.USD else number(value)
