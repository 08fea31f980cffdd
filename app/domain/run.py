"""A project run: its states, its events and its result document.

Values only. The document is the promise of every way in: command line, HTTP and job return the same one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Literal, cast

from app.domain.books.budgets import Owners
from app.domain.chat import NO_USAGE, Json, Usage
from app.domain.plan import Plan, ProducedBy, Question, TaskEvaluation
from app.domain.trace_context import TraceContext


class RunStatus(StrEnum):
    """Where a run stands. The last five are what a document may say; the first are on the way."""

    ACCEPTED = "accepted"
    CLARIFYING = "clarifying"
    PLANNING = "planning"
    RUNNING = "running"
    MERGING = "merging"
    EVALUATING = "evaluating"
    NEEDS_ANSWERS = "needs_answers"
    COMPLETED = "completed"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """True where nothing will change any more."""
        return self in (RunStatus.COMPLETED, RunStatus.PARTIAL, RunStatus.FAILED, RunStatus.CANCELLED)


class TaskState(StrEnum):
    PENDING = "pending"
    QUEUED = "queued"
    """Inputs are there; waiting for an account."""
    RUNNING = "running"
    JUDGING = "judging"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """An input it needs failed."""
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """True where nothing will change any more."""
        return self in (TaskState.COMPLETED, TaskState.FAILED, TaskState.SKIPPED, TaskState.CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What a user asks for, and how far Tutti may go for it."""

    text: str
    assume_defaults: bool = False
    """Never ask: take the defaults and record them as assumptions."""
    timeout_s: float | None = None
    tokens_max: int | None = None
    """Ceiling over all calls of the run, input and output."""
    plan_only: bool = False
    idempotency_key: str | None = None
    budget_usd: str | None = None
    """Most that the run may cost, as decimal text; None: no ceiling of its own."""
    buyers: Owners = field(default_factory=Owners)
    """On whose behalf it is; kept apart from what is asked, so that it makes no other request of it."""
    trace: TraceContext | None = None
    """The trace that it is part of, in all its lives; kept apart as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReport:
    """One task in the result document. Times are seconds since the run was accepted."""

    id: str
    title: str
    task_type: str
    depends_on: tuple[str, ...]
    status: Literal["completed", "failed", "skipped", "cancelled"]
    account: str | None
    model: str | None
    attempts: int
    started_s: float | None
    finished_s: float | None
    produced_by: ProducedBy
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """The accepted output of one task and what it cost, redone attempts and judging included."""

    output: str
    usage: Usage
    cost_usd: str | None = None
    """Decimal text; None where a price is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleReport:
    """Where the time went, over first dispatch to last result."""

    makespan_s: float
    lower_bound_s: float
    """Provable, from realised durations: no schedule on these accounts could have been faster."""
    binding: str
    """What binds it: critical path, requests, tokens, concurrency, and of which accounts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReport:
    """One stage of the run outside its tasks: clarify, plan, merge or evaluate."""

    name: str
    started_s: float
    finished_s: float
    account: str | None = None
    model: str | None = None
    produced_by: ProducedBy = "model"
    usage: Usage = NO_USAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultDocument:
    """What every way in returns."""

    run_id: str
    status: RunStatus
    answer: str = ""
    tasks: tuple[TaskReport, ...] = ()
    results: dict[str, TaskResult] = field(default_factory=dict)
    evaluation: tuple[TaskEvaluation, ...] = ()
    assumptions: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
    usage: Usage = NO_USAGE
    cost_usd: str | None = None
    schedule: ScheduleReport | None = None
    stages: tuple[StageReport, ...] = ()
    notes: tuple[str, ...] = ()
    """What a user should know: substituted models, the embedded model, missing parts."""
    budget_usd: str | None = None
    """The run's own ceiling, if it had one; decimal text."""
    error: str | None = None

    def to_json(self) -> dict[str, Json]:
        """Return the document as documented in docs/http.md; usage and cost stand together."""
        document = _json_object(asdict(self))
        cost = document.pop("cost_usd")
        document["status"] = self.status.value
        document["usage"] = _usage_json(self.usage, cost)
        document["results"] = {
            task_id: {
                "output": result.output,
                "usage": _usage_json(result.usage, result.cost_usd),
                "cost_usd": result.cost_usd,
            }
            for task_id, result in self.results.items()
        }
        return document


def _usage_json(usage: Usage, cost_usd: Json) -> dict[str, Json]:
    return {**_json_object(asdict(usage)), "cost_usd": cost_usd}


def _json_object(values: dict[str, object]) -> dict[str, Json]:
    return {name: _json(value) for name, value in values.items()}


def _json(value: object) -> Json:
    """Return what JSON makes of a dataclass field: tuples are lists, closed sets their values."""
    match value:
        case dict():
            return _json_object(value)
        case tuple() | list():
            return [_json(item) for item in value]
        case StrEnum():
            return value.value
        case _:
            return cast("Json", value)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent:
    """One line of a run's progress log; ``seq`` grows without gaps within the run, from 1."""

    run_id: str
    seq: int
    kind: str
    """Dotted name: run.accepted, plan.ready, task.started, call.finished, ... (docs/http.md lists them)."""
    at_s: float
    """Wall clock, seconds since the epoch."""
    task_id: str | None = None
    attempt: int | None = None
    payload: dict[str, Json] = field(default_factory=dict)
    trace_id: str = field(default="", compare=False)
    """The run's trace, for events that leave the house; not kept with the line, which is the run's own."""
    buyers: Owners = field(default_factory=Owners, compare=False)
    """On whose behalf the run is; as its trace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """The journal's row of one task."""

    task_id: str
    state: TaskState
    attempts: int = 0
    account: str | None = None
    model: str | None = None
    output: str | None = None
    usage: Usage = NO_USAGE
    cost_usd: str | None = None
    started_s: float | None = None
    finished_s: float | None = None
    produced_by: ProducedBy = "model"
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """The journal's row of one run, with what is needed to go on with it."""

    run_id: str
    status: RunStatus
    request: RunRequest
    created_s: float
    updated_s: float
    plan: Plan | None = None
    questions: tuple[Question, ...] = ()
    answers: tuple[tuple[str, str], ...] = ()
    assumptions: tuple[str, ...] = ()
    tasks: tuple[TaskRecord, ...] = ()
    document: dict[str, Json] | None = None
    """The result document once there is one."""
    clock_s: float | None = None
    """When a part of it was begun again, in seconds since the epoch."""
    forked_from: str | None = None
    """The run whose results it took over."""
    epoch: int = 0
    """Which of its conductors, from 1, this copy belongs to: the store refuses writes of earlier ones."""

    @property
    def clock_starts_s(self) -> float:
        """From when its time limit counts: acceptance, or, where it had to ask, its last change before it goes on;
        or when a part of it was begun again.

        Waiting for a person must not use up the time of the work.
        """
        return max(self.updated_s if self.questions else self.created_s, self.clock_s or 0.0)


class CallState(StrEnum):
    """How far a provider call certainly got (durability.md 5.3)."""

    INTENT = "intent"
    """Decided; certainly not sent."""
    SENT = "sent"
    """On its way: from here on it may be billed."""
    DONE = "done"
    """Answered and journaled: never bought again."""
    FAILED = "failed"
    """Ended without an answer; ``error`` says whether it was billed."""
    UNKNOWN = "unknown"
    """Nobody can say whether it was billed."""
    HELD = "held"
    """As unknown, and a person decides whether it is bought again."""
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """The journal's row of one provider call. Times are seconds since the epoch."""

    key: str
    """Unique: run/task/purpose/attempt."""
    run_id: str
    task_id: str | None
    purpose: str
    attempt: int
    state: CallState
    models: tuple[str, ...] = ()
    """Public names it may be served by, best first."""
    account: str | None = None
    model: str | None = None
    request_sha: str = ""
    provider_id: str | None = None
    usage: Usage | None = None
    cost_usd: str | None = None
    answer: str | None = None
    """The text that was paid for; kept as a blob."""
    created_s: float = 0.0
    sent_s: float | None = None
    settled_s: float | None = None
    tries: int = 1
    error: str | None = None
