"""Renders a plan: its tasks, what each waits for, and the estimate of tokens, cost and lower bound. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from app.domain.chat import Json
from app.terminal.words import float_of, list_of, money, number, object_of, one_line, printable, seconds, text_of


def render_plan(plan: Mapping[str, Json]) -> RenderableType:
    """Return the DAG as a table, with its estimate below."""
    table = Table(title=one_line(text_of(plan.get("goal"), "Plan"), 90), title_justify="left")
    for name in ("task", "title", "type", "after", "models"):
        table.add_column(name, overflow="fold")
    for task in map(object_of, list_of(plan.get("tasks"))):
        table.add_row(
            Text(text_of(task.get("id"))),
            Text(printable(text_of(task.get("title")))),
            Text(text_of(task.get("task_type"))),
            Text(" ".join(text_of(needed) for needed in list_of(task.get("depends_on"))) or "–"),
            Text(", ".join(text_of(model) for model in list_of(task.get("models"))), style="dim"),
        )
    parts: list[RenderableType] = [table]
    estimate = object_of(plan.get("estimate"))
    if estimate:
        cost = estimate.get("cost_usd")
        parts.append(
            Text(
                f"estimate: {number(estimate.get('input_tokens'))} input and {number(estimate.get('output_tokens'))} "
                f"output tokens, {money(cost if isinstance(cost, str) else None)}; "
                f"lower bound {seconds(float_of(estimate.get('lower_bound_s')))}, "
                f"bound by {text_of(estimate.get('binding'), 'unknown')}"
            )
        )
    if plan.get("produced_by") == "fallback":
        parts.append(Text("No model could plan this; it is one task, made by code.", style="yellow"))
    parts.extend(Text(f"assumes: {printable(text_of(item))}") for item in list_of(plan.get("assumptions")))
    return Group(*parts)
