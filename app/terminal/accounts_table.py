"""Renders accounts as operators watch them: state, limits and their use, calls in flight, last error. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.table import Table
from rich.text import Text

from app.domain.views import AccountView, LiveCheck
from app.terminal.words import number, one_line, seconds

NOBODY = "(no identity)"

_STYLE_OF_STATE = {
    "healthy": "green",
    "half_open": "yellow",
    "cooling_minute": "yellow",
    "cooling_day": "red",
    "dead": "red",
    "starting": "dim",
    "draining": "dim",
}


def render_accounts(rows: Sequence[AccountView], *, by_identity: bool) -> Table:
    """Return one row per account and model; with ``by_identity`` grouped under whose account it is, with totals."""
    table = Table(expand=False)
    columns = [
        "account",
        "provider",
        "model",
        "state",
        "used / limit",
        "in flight",
        "cooldown",
        "calls",
        "tokens",
        "last error",
    ]
    for name in columns:
        right = name in ("in flight", "cooldown", "calls", "tokens")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    if not by_identity:
        for row in sorted(rows, key=lambda row: (row.account, row.model)):
            _add(table, row)
        return table
    ordered = sorted(rows, key=lambda row: (row.identity is None, row.identity or "", row.account, row.model))
    for identity, group in groupby(ordered, key=lambda row: row.identity or NOBODY):
        members = list(group)
        _add_total(table, identity, members)
        for row in members:
            _add(table, row, indent="  ")
        table.add_section()
    return table


def render_checks(rows: Sequence[LiveCheck]) -> Table:
    """Return how one tiny call per account went."""
    table = Table(title="Live check", title_justify="left")
    for name in ("account", "provider", "model", "", "seconds", "message"):
        table.add_column(name, overflow="fold", justify="right" if name == "seconds" else "left")
    for row in rows:
        mark = Text("✓ answers", style="green") if row.ok else Text("✗ fails", style="red")
        message = Text(one_line(row.message, 200))
        table.add_row(Text(row.account), row.provider, Text(row.model), mark, seconds(row.seconds), message)
    return table


def _add(table: Table, row: AccountView, *, indent: str = "") -> None:
    limits = "  ".join(f"{view.name} {number(view.used)}/{number(view.limit)}" for view in row.limits) or "unlimited"
    table.add_row(
        Text(f"{indent}{row.account}"),
        Text(row.provider),
        Text(row.model),
        Text(row.state, style=_STYLE_OF_STATE.get(row.state, "")),
        Text(f"{limits}  ({row.quota_group})" if row.quota_group else limits),
        Text(str(row.in_flight)),
        Text(seconds(row.cooldown_s) if row.cooldown_s > 0 else "–"),
        Text(number(row.calls)),
        Text(f"{number(row.input_tokens)} → {number(row.output_tokens)}"),
        Text(one_line(row.last_error or "", 80), style="red"),
    )


def _add_total(table: Table, identity: str, members: Sequence[AccountView]) -> None:
    healthy = sum(row.state == "healthy" for row in members)
    accounts = len({row.account for row in members})
    total_in, total_out = sum(row.input_tokens for row in members), sum(row.output_tokens for row in members)
    table.add_row(
        Text(identity, style="bold"),
        Text(f"{accounts} account{'s' if accounts > 1 else ''}", style="bold"),
        "",
        Text(f"{healthy} of {len(members)} healthy", style="bold"),
        "",
        Text(str(sum(row.in_flight for row in members)), style="bold"),
        "",
        Text(number(sum(row.calls for row in members)), style="bold"),
        Text(f"{number(total_in)} → {number(total_out)}", style="bold"),
        "",
    )
