"""Values on the way between who wants a model call and the account actor that makes it.

Everything here crosses an actor border: frozen, plain, picklable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from app.domain.chat import ChatRequest, ChatResult, Usage
from app.domain.errors import GatewayError
from app.domain.load import LoadRow
from app.domain.trace_context import TraceContext
from app.domain.values import Value

Purpose = Literal["clarify", "plan", "transcribe", "repair", "task", "judge", "merge", "evaluate", "check"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCall:
    """What a use case wants: an answer from any of these models, whoever serves it.

    ``models`` are public names, best first; the dispatcher may take any account of any of them, and goes down the list
    only when no account of an earlier model can serve.
    """

    call_id: str
    """Unique over all time: run/task/purpose/attempt."""
    run_id: str
    purpose: Purpose
    task_id: str | None
    attempt: int
    models: tuple[str, ...]
    request: ChatRequest
    rank_s: float = 0.0
    """Upward rank: seconds from this call's start to the end of the run; larger goes first."""
    deadline_s: float = 600.0
    """Seconds from now until the answer is worthless."""
    avoid_accounts: tuple[str, ...] = ()
    """Accounts that failed this very work before; taken only if nobody else can serve."""
    account: str = ""
    """The only account that may serve it: it was sent there before, under the same key. Empty: any."""
    epoch: int = 0
    """In which its run was taken by who makes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOrder:
    """A call bound to one account, sent to its actor."""

    call_id: str
    owner: str
    """Mailbox of the caller: its outcomes are collected under this name."""
    account: str
    model: str
    request: ChatRequest
    input_tokens: int
    """Estimate of the request's size."""
    output_tokens_max: int
    """What may be generated at most; the limiter reserves it."""
    timeout_s: float
    horizon_s: float = 0.5
    """Admit only if the call may start within this; else refuse with fresh state (late binding)."""
    trace: TraceContext | None = None
    """What the call belongs under."""
    epoch: int = 0
    """In which its run was taken by the owner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPlace:
    """Where a call is, for whoever has to ask for it after a crash."""

    key: str
    account: str
    model: str
    epoch: int
    """In which its run was taken by who has it made."""
    provider_id: str | None = None
    """The call's name there; None: it is about to leave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission(Value):
    """An account actor's immediate answer to an order."""

    call_id: str
    admitted: bool
    start_in_s: float
    """Admitted: seconds until it is sent. Refused: seconds until it might be, at the earliest."""
    reason: str = ""
    load: LoadRow | None = None
    incarnation: str = ""
    """Which life of the actor admitted it; a later life knows nothing of the call."""
    too_large: bool = False
    """It needs more than a whole limit, so this account can never take it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOutcome:
    """How an admitted call ended. Exactly one of ``result`` and ``error`` is set."""

    call_id: str
    account: str
    model: str
    result: ChatResult | None
    error: GatewayError | None
    queued_s: float
    """From admission until the request was sent."""
    ttft_s: float | None
    """From sending to the first token, where streamed."""
    duration_s: float
    """From sending to the last byte."""
    load: LoadRow | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """Outcomes that waited at an account actor, and which of its lives says so."""

    incarnation: str
    outcomes: tuple[CallOutcome, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallAnswer:
    """What the use case gets: the answer, who gave it, and when (monotonic seconds of the caller)."""

    call_id: str
    account: str
    model: str
    result: ChatResult
    usage: Usage
    queued_at_s: float
    started_at_s: float
    finished_at_s: float
    tries: int
    """Accounts tried, this one included."""
    cost_usd: str | None = None
    """What the books charged for it, as decimal text: said by whoever keeps them. None: its price is unknown."""
