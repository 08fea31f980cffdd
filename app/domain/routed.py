"""What routing is asked and what it answers: needs, candidates, what was left out and why, and the refusal of it all.

Values, and their wording; ``routing`` decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from app.domain.accounts import ModelInfo, ModelKind
from app.domain.books.money import usd_from_nano
from app.domain.books.prices import PriceRow, at_tier, ceiling_nano
from app.domain.books.tiers import STANDARD
from app.domain.errors import CapacityError, GatewayError, RequestError
from app.domain.gateway import AUTO, Candidate

REASONS_SHOWN_MAX = 5

MODEL_PARAM = "model"
TASK_TYPE_PARAM = "task_type"
COST_PARAM = "x-tutti-max-cost"
PROVIDERS_PARAM = "x-tutti-providers"
ORDER_PARAM = "x-tutti-order"

Group = Literal["named", "fallback of the model", "primary", "fallback", "any other"]
"""By which rule a model is among the candidates."""

Cause = Literal["not allowed", "kind", "provider", "context", "images", "tools", "cost", "dead key"]

_PARAM_OF_CAUSE: Mapping[Cause, str | None] = {
    "not allowed": MODEL_PARAM,
    "kind": MODEL_PARAM,
    "provider": PROVIDERS_PARAM,
    "context": "messages",
    "images": "messages",
    "tools": "tools",
    "cost": COST_PARAM,
    "dead key": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a call needs of a model."""

    input_tokens: int
    """Estimated."""
    output_tokens_max: int | None = None
    """What the client allows; None leaves it to the model."""
    kind: ModelKind = "chat"
    images: bool = False
    tools: bool = False
    schema: bool = False
    """Whether the answer must satisfy a JSON schema."""
    billed_input_tokens: int | None = None
    """Where several texts are sent of which each must fit: all of them together. None: ``input_tokens``."""
    choices: int = 1
    """Answers that are generated, and paid for."""
    tier: str = STANDARD
    """From ``asked_tier``; decides what it may cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Excluded:
    """A model, or one of its accounts, that may not serve the call."""

    model: str
    account: str | None = None
    """None where the whole model is out."""
    cause: Cause
    reason: str
    """For people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """Who may serve a call."""

    wanted: str
    """As the client wrote it."""
    task_type: str | None = None
    """By which ``auto`` chose; None where the client named the model."""
    candidates: tuple[Candidate, ...]
    """Models, best first; a later one only where the earlier ones cannot serve."""
    groups: tuple[Group, ...]
    """By which rule each candidate is there."""
    excluded: tuple[Excluded, ...] = ()
    ordered: bool = False
    """True where the client named an order: the accounts of a candidate are then to be tried as listed, not by load."""


def call_cost_max(info: ModelInfo, needs: Needs, price: PriceRow | None) -> Decimal | None:
    """Return the dearest that the call may become on this model at that price, in USD; None where it is unknown."""
    output = info.output_tokens_max if needs.output_tokens_max is None else needs.output_tokens_max
    read = needs.input_tokens if needs.billed_input_tokens is None else needs.billed_input_tokens
    nano = ceiling_nano(read, output * needs.choices, at_tier(price, needs.tier))
    return None if nano is None else Decimal(usd_from_nano(nano))


def refusal(routed: Routed) -> GatewayError:
    """Return the error that says why nobody may serve the call."""
    causes = [item.cause for item in routed.excluded]
    reasons = [
        f"{item.model if item.account is None else f'{item.model} at {item.account}'}: {item.reason}"
        for item in routed.excluded[:REASONS_SHOWN_MAX]
    ]
    more = len(causes) - len(reasons)
    words = "; ".join(reasons) + (f"; and {more} more" if more > 0 else "")
    if "dead key" in causes:
        return CapacityError(f"no account can serve {routed.wanted or AUTO!r}: {words}")
    # What keeps most of them out is what the client should look at.
    main = max(causes, key=causes.count, default=None)
    remedy = None
    if main == "context":
        remedy = "Shorten the request, name a model of larger context, or correct `models.<name>.context_tokens`."
    elif main == "kind":
        remedy = "Embedding models serve /v1/embeddings, the others chat; GET /v1/models says which is which."
    elif main == "cost":
        remedy = "Raise the ceiling, allow less output, or name a cheaper model."
    return RequestError(
        f"no model may serve this request: {words or 'none is configured for it'}",
        param=_PARAM_OF_CAUSE[main] if main is not None else MODEL_PARAM,
        remedy=remedy,
    )
