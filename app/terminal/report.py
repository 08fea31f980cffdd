"""Renders a result document: the answer, the evaluation of every task, and where the time went. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console, Group, RenderableType
from rich.markdown import Markdown
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from app.domain.chat import Json
from app.terminal.words import float_of, list_of, money, object_of, one_line, printable, seconds, text_of, tokens

BAR_CHARS = 28

_STYLE_OF_STATUS = {"completed": "green", "partial": "yellow", "needs_answers": "yellow"}


def print_report(console: Console, document: Mapping[str, Json]) -> None:
    """Print everything a person wants to know of a run, the answer first."""
    print_answer(console, document)
    console.print(render_evaluation(document))
    console.print(render_time(document))
    console.print(render_summary(document))


def print_answer(console: Console, document: Mapping[str, Json]) -> None:
    """Print the answer: as Markdown on a terminal, as it is everywhere else."""
    answer = printable(text_of(document.get("answer"))).strip()
    if not answer:
        return
    if console.is_terminal:
        console.print(Rule("Answer"), Markdown(answer))
    else:
        console.print(Text(answer), soft_wrap=True)
    console.print()


def render_evaluation(document: Mapping[str, Json]) -> RenderableType:
    """Return a table with a row for every task: how it went, its score, the verdict and the evidence."""
    tasks = [object_of(task) for task in list_of(document.get("tasks"))]
    if not tasks:
        return Text("")
    judged = {text_of(object_of(item).get("task_id")): object_of(item) for item in list_of(document.get("evaluation"))}
    table = Table(title="Evaluation", title_justify="left", expand=False)
    for name in ("task", "status", "score", "verdict", "evidence", "by"):
        table.add_column(name, overflow="fold", justify="right" if name == "score" else "left")
    for task in tasks:
        item = judged.get(text_of(task.get("id")), {})
        status = text_of(task.get("status"))
        title = Text(f"{text_of(task.get('id'))} {one_line(text_of(task.get('title')), 40)}")
        attempts = int(float_of(task.get("attempts"), 1))
        table.add_row(
            title,
            Text(f"{status} ({attempts} attempts)" if attempts > 1 else status, style=_style(status)),
            Text(f"{float_of(item.get('score')):.2f}" if item else "–"),
            Text(one_line(text_of(item.get("verdict"), "not evaluated"), 60)),
            Text(one_line(text_of(item.get("evidence")) or text_of(task.get("error")), 90), style="dim"),
            Text(_by(task, item)),
        )
    return table


def render_time(document: Mapping[str, Json]) -> RenderableType:
    """Return bars of when each stage and task ran, with the makespan against its lower bound."""
    rows = [*_stage_rows(document), *_task_rows(document)]
    if not rows:
        return Text("")
    rows.sort(key=lambda row: (row[1], row[2]))
    end_s = max(row[2] for row in rows) or 1.0
    table = Table(title="Where the time went", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("what", min_width=12)
    table.add_column(f"0 s to {seconds(end_s)}", width=BAR_CHARS)
    table.add_column("seconds", justify="right", no_wrap=True)
    table.add_column("on")
    for name, start_s, finish_s, served_by, style in rows:
        bar = Text(bar_of(start_s, finish_s, end_s), style=style)
        what = Text(name, no_wrap=True, overflow="ellipsis")
        served = Text(served_by, style="dim", no_wrap=True, overflow="ellipsis")
        table.add_row(what, bar, Text(seconds(finish_s - start_s)), served)
    schedule = object_of(document.get("schedule"))
    if not schedule:
        return table
    makespan_s, bound_s = float_of(schedule.get("makespan_s")), float_of(schedule.get("lower_bound_s"))
    said = Text.assemble(
        ("makespan ", "bold"),
        seconds(makespan_s),
        (", lower bound ", "bold"),
        seconds(bound_s),
        f" ({makespan_s / bound_s:.2f} times the bound)" if bound_s > 0 else "",
        (", bound by ", "bold"),
        one_line(text_of(schedule.get("binding"), "unknown"), 80),
    )
    return Group(table, said)


def render_summary(document: Mapping[str, Json]) -> RenderableType:
    """Return status, usage, cost, assumptions and notes."""
    status = text_of(document.get("status"))
    usage = object_of(document.get("usage"))
    cost, budget = usage.get("cost_usd"), document.get("budget_usd")
    parts: list[RenderableType] = [
        Text.assemble(
            (text_of(document.get("run_id")), "bold"),
            " ",
            (status, _style(status)),
            f": {tokens(usage)} tokens, {money(cost if isinstance(cost, str) else None)}",
            f" of at most {money(budget)}" if isinstance(budget, str) else "",
        )
    ]
    error = text_of(document.get("error"))
    if error:
        parts.append(Text(printable(error), style="red"))
    parts.extend(Text(f"assumed: {printable(text_of(item))}") for item in list_of(document.get("assumptions")))
    parts.extend(Text(f"note: {printable(text_of(item))}", style="dim") for item in list_of(document.get("notes")))
    return Group(*parts)


def render_questions(document: Mapping[str, Json]) -> RenderableType:
    """Return the questions a run waits on, each with its options and default."""
    parts: list[RenderableType] = []
    for question in map(object_of, list_of(document.get("questions"))):
        parts.append(
            Text.assemble((text_of(question.get("id")), "bold"), f"  {printable(text_of(question.get('question')))}")
        )
        why = text_of(question.get("why"))
        if why:
            parts.append(Text(f"    why: {printable(why)}", style="dim"))
        options = [printable(text_of(option)) for option in list_of(question.get("options"))]
        if options:
            parts.append(Text(f"    options: {' | '.join(options)}"))
        default = text_of(question.get("default"))
        if default:
            parts.append(Text(f"    default: {printable(default)}"))
    return Group(*parts)


def bar_of(start_s: float, finish_s: float, end_s: float) -> str:
    """Return a bar from start to finish on a scale of 0 to ``end_s``; at least one mark wide."""
    first = min(BAR_CHARS - 1, int(start_s / end_s * BAR_CHARS))
    width = max(1, round((finish_s - start_s) / end_s * BAR_CHARS))
    return " " * first + "━" * min(width, BAR_CHARS - first)


def _stage_rows(document: Mapping[str, Json]) -> list[tuple[str, float, float, str, str]]:
    rows = []
    for stage in map(object_of, list_of(document.get("stages"))):
        served_by = _served(stage)
        start_s, finish_s = float_of(stage.get("started_s")), float_of(stage.get("finished_s"))
        rows.append((text_of(stage.get("name")), start_s, finish_s, served_by, "magenta"))
    return rows


def _task_rows(document: Mapping[str, Json]) -> list[tuple[str, float, float, str, str]]:
    rows = []
    for task in map(object_of, list_of(document.get("tasks"))):
        start, finish = task.get("started_s"), task.get("finished_s")
        if start is None or finish is None:
            continue
        name = f"{text_of(task.get('id'))} {one_line(text_of(task.get('title')), 30)}"
        rows.append((name, float_of(start), float_of(finish), _served(task), "cyan"))
    return rows


def _served(row: Mapping[str, Json]) -> str:
    account, model = text_of(row.get("account")), text_of(row.get("model"))
    return one_line(f"{account} {model}".strip(), 40)


def _by(task: Mapping[str, Json], evaluation: Mapping[str, Json]) -> str:
    words = {text_of(item.get("produced_by"), "model") for item in (task, evaluation) if item}
    return next(word for word in ("fallback", "repaired", "model", *words) if word in words)


def _style(status: str) -> str:
    return _STYLE_OF_STATUS.get(status, "red")
