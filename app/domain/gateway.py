"""What a client of the gateway asks, and who it is: values between the doors and the gateway's use cases."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from app.domain.chat import ChatRequest, LimitObservation
from app.domain.limits import LimitSpec

AUTO = "auto"
"""The model name that leaves the choice to routing."""


class ServiceClass(StrEnum):
    """How urgent a caller's work is; earlier ones go first, and only ``BATCH`` leaves headroom to the others."""

    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BATCH = "batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls: one configured API key, or ``ANONYMOUS`` where none is configured."""

    name: str
    limits: LimitSpec = field(default_factory=LimitSpec)
    user_limits: LimitSpec = field(default_factory=LimitSpec)
    """What each of its users gets; calls that name none are one user's."""
    allowed_models: tuple[str, ...] = ()
    """Public names and aliases; empty means all."""
    service_class: ServiceClass = ServiceClass.STANDARD
    weight: float = 1.0
    """Share of the pool relative to other callers of the same class while calls wait. Positive."""
    team: str = ""
    """The team whose budgets its calls count in; empty: none."""
    admin: bool = False
    """Whether it may see everybody's use and budgets."""


ANONYMOUS = Caller(name="anonymous")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model that may serve a call, by its public name, and the accounts that may be asked for it."""

    model: str
    accounts: tuple[str, ...]


def fitting(candidates: tuple[Candidate, ...], unfit: set[tuple[str, str]]) -> tuple[Candidate, ...]:
    """Return the candidates without the (account, model) pairs that can never take the call."""
    if not unfit:
        return candidates
    left = (
        Candidate(
            model=candidate.model,
            accounts=tuple(name for name in candidate.accounts if (name, candidate.model) not in unfit),
        )
        for candidate in candidates
    )
    return tuple(candidate for candidate in left if candidate.accounts)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingWish:
    """What the client asks of routing beside the model."""

    task_type: str | None = None
    providers: tuple[str, ...] = ()
    """Only these; empty means all."""
    order: tuple[str, ...] = ()
    """Providers or accounts to try first, in this order."""
    cost_usd_max: str | None = None
    """Decimal text: the dearest that the call may become, its ceiling of output included."""


NO_WISH = RoutingWish()


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One chat call as a client format's parser understood it."""

    chat: ChatRequest
    """``chat.model`` is what the client wrote: a public name, an alias, ``auto`` or nothing (= auto)."""
    task_type: str | None = None
    include_usage: bool = True
    """Whether the client wants the usage in its stream; we always want it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Who served a call; known before the first byte of the answer."""

    request_id: str
    created_s: int
    """Seconds since the epoch."""
    account: str
    provider: str
    model: str
    """The public name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """Texts to embed; ``model`` as in ``ChatRequest``."""

    model: str
    inputs: tuple[str, ...]
    dimensions: int | None = None
    user: str | None = None
    extra: tuple[tuple[str, str], ...] = ()
    """Provider-specific fields as (name, JSON text)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingResult:
    """One vector per input, in order."""

    vectors: tuple[tuple[float, ...], ...]
    input_tokens: int
    model: str = ""
    """The model as the provider names it in its reply."""
    source: Literal["provider", "estimated"] = "provider"
    """Who counted ``input_tokens``."""
    observations: tuple[LimitObservation, ...] = ()
