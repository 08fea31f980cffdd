"""The plan of a run: a DAG of tasks with acceptance criteria, as values.

Parsing, validation and repair live in ``app/domain/planning``; nothing here decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from app.domain.accounts import Tier

ProducedBy = Literal["model", "repaired", "fallback"]
"""Whether a model's answer was used as it came, after repair, or replaced by code's fallback."""

CheckKind = Literal["judge", "json_valid", "contains", "regex", "min_items", "max_words", "cites_inputs", "not_empty"]
"""How a criterion is checked; all but ``judge`` by code."""

OutputFormat = Literal["text", "markdown", "json", "code", "table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """One thing that an artifact must satisfy."""

    id: str
    statement: str
    check: CheckKind = "judge"
    check_arg: str | None = None
    must: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """What a task takes from an earlier one."""

    task_id: str
    uses: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedOutput:
    """Shape of a task's artifact."""

    format: OutputFormat = "text"
    description: str = ""
    max_words: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTask:
    """One subtask: self-contained for a worker that sees only this and the named inputs."""

    id: str
    title: str
    instruction: str
    out_of_scope: str = ""
    depends_on: tuple[Dependency, ...] = ()
    task_type: str = "general"
    """The capability; decides which models may take it."""
    min_tier: Tier = Tier.CHEAP
    expected_output: ExpectedOutput = ExpectedOutput()
    criteria: tuple[Criterion, ...] = ()
    effort: Literal["S", "M", "L"] = "M"
    side_effects: bool = False

    @property
    def dependency_ids(self) -> tuple[str, ...]:
        """Ids of the tasks whose results this one takes."""
        return tuple(dependency.task_id for dependency in self.depends_on)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergePlan:
    """How the results become one answer."""

    strategy: Literal["concat", "synthesise", "vote", "pick_best", "code"] = "synthesise"
    instruction: str = ""
    covers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An immutable plan version."""

    goal: str
    tasks: tuple[PlannedTask, ...]
    merge: MergePlan = MergePlan()
    assumptions: tuple[str, ...] = ()
    reason: str = ""
    """Why it was split like this, or not split."""
    produced_by: ProducedBy = "model"
    prompt_version: str = ""
    version: int = 1

    def task(self, task_id: str) -> PlannedTask:
        """Return the task of that id; raises KeyError."""
        for task in self.tasks:
            if task.id == task_id:
                return task
        raise KeyError(task_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A fact that is missing and would change what is delivered."""

    id: str
    question: str
    why: str = ""
    options: tuple[str, ...] = ()
    default: str = ""
    dimension: Literal["goal", "input", "constraint", "context"] = "goal"
    cost_if_wrong: int = 3
    """1 to 5."""
    probability_default_wrong: float = 0.5
    """0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CriterionVerdict:
    """The judgement of one criterion."""

    criterion_id: str
    verdict: Literal["met", "not_met", "cannot_tell"]
    evidence: str = ""
    """A verbatim quote, found in the artifact by code, or what a check computed."""
    reasoning: str = ""
    fix_hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the judge said of one artifact; ``passed`` is computed by code."""

    task_id: str
    attempt: int
    passed: bool
    verdicts: tuple[CriterionVerdict, ...] = ()
    produced_by: ProducedBy = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvaluation:
    """The coordinator model's final evaluation of one task."""

    task_id: str
    score: float
    """0 to 1."""
    verdict: str
    evidence: str = ""
    produced_by: ProducedBy = "model"
