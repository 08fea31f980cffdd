"""What enters and leaves over HTTP, as pydantic models: requests are checked by them, responses documented by them.

Responses are written by ``wire`` from domain values, not through these models; a test holds the two together.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

SECONDS_MAX = 7 * 86_400
BUDGET_USD_MIN, BUDGET_USD_MAX = Decimal("0.000000001"), Decimal(1_000_000_000)
"""What the books can tell from nothing, and hold."""
FORK_INPUT_CHARS_MAX = 65_536


class Strict(BaseModel):
    """Refuses fields it does not know: a misspelt option must not be dropped in silence."""

    model_config = ConfigDict(extra="forbid")


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("empty; say what is to be done")
    return _characters(text)


def _characters(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is not a character") from None
    return text


def _decimal(said: object) -> object:
    """Return a number or its text as a decimal: JSON has none, and 0.1 means a tenth."""
    if isinstance(said, bool) or not isinstance(said, int | float | str):
        return said
    try:
        return Decimal(str(said))
    except InvalidOperation:
        return said


class ProjectRequest(Strict):
    """A project to be done, and how far Tutti may go for it."""

    request_text: Annotated[str, AfterValidator(_said)] = Field(
        description="What is to be done, in any language; the answer comes in the same one. At most 256 KiB of UTF-8.",
        examples=["Compare tea and coffee for an office: cost, taste, health. Then recommend one."],
    )
    assume_defaults: bool = Field(
        default=False, description="Never ask: take the default answers and record them as assumptions."
    )
    timeout_s: float | None = Field(
        default=None,
        gt=0,
        le=SECONDS_MAX,
        description="Seconds until the run must be over; what is done by then counts.",
    )
    max_tokens_total: int | None = Field(
        default=None, ge=1, description="Ceiling over all model calls of the run, input and output together."
    )
    budget_usd: Annotated[Decimal | None, BeforeValidator(_decimal)] = Field(
        default=None,
        ge=BUDGET_USD_MIN,
        le=BUDGET_USD_MAX,
        description="Most that the run may cost, in dollars: a call that might exceed it is not made. "
        "A lower budget for every run, in the configuration, wins.",
        examples=["2.50"],
    )
    plan_only: bool = Field(default=False, description="Stop after planning: the tasks, their estimate, no work.")


class AnswersRequest(Strict):
    """Answers to a run's questions."""

    answers: dict[str, str] = Field(default_factory=dict, description="Answer by question id.", examples=[{"q1": "B"}])
    assume_rest: bool = Field(default=False, description="Take the defaults of the questions left open.")


class RetryRequest(Strict):
    """Which part of a project to do again."""

    task_id: str = Field(description="This task and everything that depends on it.", examples=["t2"])


class ForkRequest(Strict):
    """From where a new project goes on with the results of another."""

    from_task: str = Field(description="From this task on everything is done anew.", examples=["t2"])
    input: Annotated[str, AfterValidator(_characters)] | None = Field(
        default=None,
        max_length=FORK_INPUT_CHARS_MAX,
        description="What that task is told beside its instruction.",
        examples=["Leave out decaf."],
    )


class ErrorDetail(BaseModel):
    type: str = Field(examples=["invalid_request_error"])
    message: str
    param: str | None = Field(description="The field or header at fault.")
    remedy: str | None = Field(description="What to do about it.")


class ErrorBody(BaseModel):
    """The shape of every error."""

    error: ErrorDetail


class UsageOut(Strict):
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int = Field(default=0, description="Included in input_tokens.")
    cache_write_tokens: int = Field(default=0, description="Included in input_tokens.")
    cache_write_1h_tokens: int = Field(default=0, description="Included in cache_write_tokens.")
    reasoning_tokens: int = Field(default=0, description="Included in output_tokens.")
    source: Literal["provider", "estimated"] = "provider"


class CostedUsageOut(UsageOut):
    cost_usd: str | None = Field(description="Decimal text; null where a price is unknown.")


ProducedBy = Literal["model", "repaired", "fallback"]


class TaskOut(Strict):
    id: str
    title: str
    task_type: str
    depends_on: list[str]
    status: Literal["completed", "failed", "skipped", "cancelled"]
    account: str | None
    model: str | None
    attempts: int
    started_s: float | None = Field(description="Seconds since the run was accepted.")
    finished_s: float | None
    produced_by: ProducedBy
    error: str | None


class TaskResultOut(Strict):
    output: str
    usage: CostedUsageOut
    cost_usd: str | None


class EvaluationOut(Strict):
    task_id: str
    score: float = Field(ge=0, le=1)
    verdict: str
    evidence: str
    produced_by: ProducedBy


class QuestionOut(Strict):
    id: str
    question: str
    why: str
    options: list[str]
    default: str
    dimension: str
    cost_if_wrong: int
    probability_default_wrong: float


class ScheduleOut(Strict):
    makespan_s: float
    lower_bound_s: float = Field(description="No schedule on these accounts could have been faster.")
    binding: str


class StageOut(Strict):
    name: str
    started_s: float
    finished_s: float
    account: str | None
    model: str | None
    produced_by: ProducedBy
    usage: UsageOut


class ResultDocumentOut(Strict):
    """The result document, the same from HTTP, command line and job."""

    run_id: str
    status: str = Field(
        description="completed, partial, needs_answers, failed or cancelled once the run rests.", examples=["completed"]
    )
    answer: str
    tasks: list[TaskOut]
    results: dict[str, TaskResultOut]
    evaluation: list[EvaluationOut]
    assumptions: list[str]
    questions: list[QuestionOut]
    usage: CostedUsageOut
    schedule: ScheduleOut | None
    stages: list[StageOut]
    notes: list[str]
    budget_usd: str | None = Field(default=None, description="The run's own ceiling, if it had one; decimal text.")
    error: str | None


class ProjectSummaryOut(Strict):
    run_id: str
    status: str
    text: str = Field(description="The first 200 characters of the request.")
    created_s: float = Field(description="Seconds since the epoch.")
    updated_s: float


class ProjectListOut(Strict):
    data: list[ProjectSummaryOut]
    next_before_s: float | None = Field(description="Pass as `before_s` for the next page; null on the last one.")


class BuyersOut(Strict):
    """On whose behalf a run buys; empty: nobody of that kind."""

    tenant: str
    team: str
    user: str
    key: str


class RequestOut(Strict):
    text: str
    assume_defaults: bool
    timeout_s: float | None
    max_tokens_total: int | None
    budget_usd: str | None
    plan_only: bool
    started_by: BuyersOut


class TaskRowOut(Strict):
    task_id: str
    state: str
    attempts: int
    account: str | None
    model: str | None
    output: str | None
    usage: UsageOut
    cost_usd: str | None
    started_s: float | None
    finished_s: float | None
    produced_by: ProducedBy
    error: str | None


class ProjectOut(Strict):
    """A run as it stands."""

    run_id: str
    status: str
    created_s: float
    updated_s: float
    forked_from: str | None = Field(description="The run whose results it took over.")
    trace_id: str | None = Field(description="As spans, events and the books name it; null for runs of older versions.")
    request: RequestOut
    plan: dict[str, JsonValue] | None
    questions: list[QuestionOut]
    answers: dict[str, str]
    assumptions: list[str]
    tasks: list[TaskRowOut]
    document: ResultDocumentOut | None = Field(description="Once there is one.")


class LimitOut(Strict):
    name: str
    limit: int
    used: int


class AccountOut(Strict):
    account: str
    provider: str
    model: str
    state: str
    identity: str | None
    quota_group: str | None
    limits: list[LimitOut]
    in_flight: int
    cooldown_s: float
    last_error: str | None
    calls: int
    input_tokens: int
    output_tokens: int
    ttft_s: float | None
    tokens_per_s: float | None


class AccountListOut(Strict):
    data: list[AccountOut]


class LiveCheckOut(Strict):
    account: str
    provider: str
    model: str
    ok: bool
    seconds: float
    message: str


class LiveCheckListOut(Strict):
    data: list[LiveCheckOut]


class ReloadOut(Strict):
    version: int
    source: str
    added: list[str]
    changed: list[str]
    removed: list[str]
    notes: list[str]


class HealthOut(Strict):
    status: Literal["ok"]
    version: str


class ReadyOut(Strict):
    status: Literal["ready"]
    parts: dict[str, str]


class UnreadyOut(ErrorBody):
    """Not ready, and which part is not."""

    parts: dict[str, str]
