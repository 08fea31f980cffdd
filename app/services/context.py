"""What every role knows of the run it works for: its text, its language, its day, its deadline, its priorities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

from app.domain.accounts import Orchestra
from app.domain.language import detect_language
from app.domain.plan import Plan, Question
from app.domain.planning.estimate import task_ranks, work_calls
from app.domain.ports import Clock
from app.domain.run import RunRecord
from app.services.models import worker_models

RUN_TIMEOUT_S = 3_600.0
"""For a run that names none."""
CALL_TIMEOUT_S = 600.0
"""No single call is waited for longer."""
STAGE_RANK_S = 3_600.0
"""Priority of stages that everything else of their run waits for."""


class Equipment(Protocol):
    """The part of a conductor's tools that a context is made from."""

    @property
    def clock(self) -> Clock: ...
    @property
    def orchestra(self) -> Orchestra: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """One run, as its roles see it."""

    run_id: str
    request: str
    """The user's words."""
    language: str
    """Language code of the request; ``und`` where it cannot be told."""
    today: str
    """ISO date, UTC."""
    clock: Clock
    deadline_ns: int
    """On the clock's monotonic scale."""
    questions: tuple[Question, ...] = ()
    """What the user was asked, so that answers can be read with their questions."""
    ranks_s: Mapping[str, float] = field(default_factory=dict)
    """Task id to upward rank in seconds; empty before there is a plan."""

    @classmethod
    def of(cls, record: RunRecord, tools: Equipment) -> RunContext:
        """Return the context of ``record``, with the ranks of its plan where it has one."""
        wall_s = tools.clock.wall_s()
        left_s = max(0.0, (record.request.timeout_s or RUN_TIMEOUT_S) - (wall_s - record.clock_starts_s))
        context = cls(
            run_id=record.run_id,
            request=record.request.text,
            language=detect_language(record.request.text),
            today=datetime.fromtimestamp(wall_s, UTC).date().isoformat(),
            clock=tools.clock,
            deadline_ns=tools.clock.monotonic_ns() + int(left_s * 1e9),
            questions=record.questions,
        )
        return context.with_plan(record.plan, tools.orchestra) if record.plan else context

    def with_plan(self, plan: Plan, orchestra: Orchestra) -> RunContext:
        """Return this context with the priorities that follow from ``plan``."""
        models = {task.id: worker_models(orchestra, task) for task in plan.tasks}
        seconds = {task_id: call.seconds for task_id, call in work_calls(plan, orchestra, models).items()}
        return replace(self, ranks_s=task_ranks(plan, seconds))

    def seconds_left(self) -> float:
        """Return how long an answer is worth anything, in seconds; at least a moment, at most one call's limit."""
        left_s = (self.deadline_ns - self.clock.monotonic_ns()) / 1e9
        return min(CALL_TIMEOUT_S, max(0.1, left_s))

    def rank_s(self, task_id: str | None) -> float:
        """Return the priority of a call for that task, or for a stage of the run."""
        if task_id is None:
            return STAGE_RANK_S
        return self.ranks_s.get(task_id, 0.0)
