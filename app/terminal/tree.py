"""Renders a run's board as a tree of stages and tasks for a terminal. Pure: a board and a time in, a renderable out."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from app.terminal.board import STAGES, Row, RunBoard
from app.terminal.words import one_line, seconds, tokens

_MARKS = {
    "pending": ("○", "dim"),
    "queued": ("◌", "yellow"),
    "running": ("●", "cyan"),
    "judging": ("◐", "magenta"),
    "completed": ("✓", "green"),
    "failed": ("✗", "red"),
    "skipped": ("–", "dim"),
    "cancelled": ("–", "yellow"),
}

_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


def render_tree(board: RunBoard, now_s: float) -> RenderableType:
    """Return the tree as of ``now_s`` (wall seconds, the clock of the events)."""
    grid = Table.grid(padding=(0, 1))
    # On a narrow terminal rich shrinks columns that may wrap: the words, which are cut, and never the numbers.
    grid.add_column(min_width=20)
    grid.add_column(no_wrap=True)
    for _ in range(2):
        grid.add_column(min_width=8, max_width=22)
    for _ in range(3):
        grid.add_column(justify="right", no_wrap=True)
    before = [board.stages[name] for name in STAGES[:2] if name in board.stages]
    after = [board.stages[name] for name in STAGES[2:] if name in board.stages]
    tops: list[Row | None] = [*before, *([None] if board.tasks else []), *after]
    for number, row in enumerate(tops):
        last = number == len(tops) - 1
        guide = "└─ " if last else "├─ "
        if row is not None:
            _add(grid, guide, row, now_s)
            continue
        grid.add_row(Text.assemble((guide, "dim"), (f"tasks ({len(board.tasks)})", "bold")))
        rows = list(board.tasks.values())
        for index, task in enumerate(rows):
            corner = "└─ " if index == len(rows) - 1 else "├─ "
            _add(grid, ("   " if last else "│  ") + corner, task, now_s)
    return Group(_head(board, now_s), grid)


def _head(board: RunBoard, now_s: float) -> Text:
    took_s = (board.finished_at_s or now_s) - (board.started_at_s if board.started_at_s is not None else now_s)
    mark = " " if board.finished_at_s else f" {_SPINNER[int(now_s * 8) % len(_SPINNER)]} "
    head = Text.assemble((board.run_id or "run", "bold"), mark, (one_line(board.status or "starting", 40), "cyan"))
    head.append(f"  {seconds(took_s)}", style="dim")
    if board.goal:
        head.append(f"  {one_line(board.goal, 70)}")
    head.no_wrap = True
    head.overflow = "ellipsis"
    return head


def _add(grid: Table, guide: str, row: Row, now_s: float) -> None:
    mark, style = _MARKS.get(row.state, ("?", "red"))
    label = Text.assemble((guide, "dim"), (f"{mark} ", style), no_wrap=True, overflow="ellipsis")
    label.append(row.id if row.title == row.id else f"{row.id} {one_line(row.title, 60)}")
    if row.attempt > 1:
        label.append(f" (attempt {row.attempt})", style="yellow")
    if row.produced_by == "fallback":
        label.append(" (fallback)", style="yellow")
    if row.depends_on:
        label.append(f"  needs {' '.join(row.depends_on)}", style="dim")
    if row.note and row.state not in ("completed",):
        label.append(f"  {one_line(row.note, 60)}", style="dim")
    took_s = row.seconds(now_s)
    grid.add_row(
        label,
        Text(row.state, style=style),
        Text(one_line(row.account, 22), no_wrap=True, overflow="ellipsis"),
        Text(one_line(row.model, 22), style="dim", no_wrap=True, overflow="ellipsis"),
        Text("" if took_s is None else seconds(took_s)),
        Text(tokens(row.usage) if row.usage else "", style="dim"),
        Text(row.cost, style="dim"),
    )
