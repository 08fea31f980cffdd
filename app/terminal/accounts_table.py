"""Renders accounts as operators watch them: state, limits and their use, calls in flight, last error. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.box import SIMPLE_HEAD
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
    with_errors = any(row.last_error for row in rows)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in ("account", "model", "state", "used/limit", "in flight", "calls", "tokens"):
        right = name in ("in flight", "calls", "tokens")
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=right)
    if with_errors:
        table.add_column("last error", overflow="fold")
    if not by_identity:
        for row in sorted(rows, key=lambda row: (row.account, row.model)):
            table.add_row(*_cells(row), *_error(row, with_errors))
        return table
    ordered = sorted(rows, key=lambda row: (row.identity is None, row.identity or "", row.account, row.model))
    for identity, group in groupby(ordered, key=lambda row: row.identity or NOBODY):
        members = list(group)
        table.add_row(*_totals(identity, members), style="bold")
        for row in members:
            table.add_row(*_cells(row, indent="  "), *_error(row, with_errors))
        table.add_section()
    return table


def render_checks(rows: Sequence[LiveCheck]) -> Table:
    """Return how one tiny call per account went."""
    table = Table(title="Live check", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in ("account", "model", "", "seconds", "message"):
        table.add_column(name, overflow="fold", justify="right" if name == "seconds" else "left")
    for row in rows:
        mark = Text("✓ answers", style="green") if row.ok else Text("✗ fails", style="red")
        message = Text(one_line(row.message, 200))
        table.add_row(Text(row.account), Text(f"{row.provider}/{row.model}"), mark, seconds(row.seconds), message)
    return table


def _cells(row: AccountView, *, indent: str = "") -> tuple[Text, ...]:
    limits = "\n".join(f"{view.name} {number(view.used)}/{number(view.limit)}" for view in row.limits) or "unlimited"
    state = f"{row.state} {seconds(row.cooldown_s)}" if row.cooldown_s > 0 else row.state
    return (
        Text(f"{indent}{row.account}"),
        Text(f"{row.provider}/{row.model}"),
        Text(state, style=_STYLE_OF_STATE.get(row.state, "")),
        Text(f"{limits}\nin {row.quota_group}" if row.quota_group else limits),
        Text(str(row.in_flight)),
        Text(number(row.calls)),
        Text(f"{number(row.input_tokens)} → {number(row.output_tokens)}"),
    )


def _error(row: AccountView, with_errors: bool) -> tuple[Text, ...]:
    return (Text(one_line(row.last_error or "", 80), style="red"),) if with_errors else ()


def _totals(identity: str, members: Sequence[AccountView]) -> tuple[Text, ...]:
    healthy = sum(row.state == "healthy" for row in members)
    accounts = len({row.account for row in members})
    tokens_in, tokens_out = sum(row.input_tokens for row in members), sum(row.output_tokens for row in members)
    return (
        Text(identity),
        Text(f"{accounts} account{'s' if accounts > 1 else ''}"),
        Text(f"{healthy} of {len(members)} healthy"),
        Text(""),
        Text(str(sum(row.in_flight for row in members))),
        Text(number(sum(row.calls for row in members))),
        Text(f"{number(tokens_in)} → {number(tokens_out)}"),
    )
