"""The plan that code makes where no model could: the whole request as one task."""

from __future__ import annotations

from app.domain.accounts import Tier
from app.domain.plan import Criterion, ExpectedOutput, MergePlan, Plan, PlannedTask

TITLE_CHARS_MAX = 80


def single_task_plan(request: str, *, task_type: str = "general", reason: str) -> Plan:
    """Return a plan of one task that asks for the whole request.

    Args:
        request: The user's words; they become the instruction as they are.
        task_type: A type that some model may take.
        reason: Why it was not split; shown to the user.
    """
    task = PlannedTask(
        id="t1",
        title=short_title(request),
        instruction=request.strip(),
        task_type=task_type,
        min_tier=Tier.CHEAP,
        expected_output=ExpectedOutput(format="markdown", description="the complete answer"),
        criteria=(
            Criterion(id="c1", statement="There is an answer.", check="not_empty"),
            Criterion(id="c2", statement="The answer does everything that the instruction asks for."),
        ),
        effort="L",
    )
    return Plan(
        goal=short_title(request, 300),
        tasks=(task,),
        merge=MergePlan(strategy="concat"),
        reason=reason,
        produced_by="fallback",
    )


def short_title(text: str, chars_max: int = TITLE_CHARS_MAX) -> str:
    """Return ``text`` on one line, cut at a word."""
    line = " ".join(text.split())
    if len(line) <= chars_max:
        return line
    cut = line[: chars_max - 1]
    return (cut.rsplit(" ", 1)[0] if " " in cut[chars_max // 2 :] else cut) + "…"
