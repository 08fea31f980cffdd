"""What is kept of a call that has an idempotency key, and what whoever comes with a key is told.

Values only. ``services/gateway/repeats`` makes the calls, the store keeps the answers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from enum import Enum

from app.domain.chat import ChatRequest, ChatResult
from app.domain.errors import RequestError
from app.domain.gateway import EmbeddingRequest, EmbeddingResult, Served
from app.domain.response_cache import result_bytes

KEPT_S = 86_400.0
"""How long an answer is given again, as OpenAI and Stripe do."""
LEASE_S = 8.0
"""A call whose holder has not said for so long that it lives is anybody's."""
ANSWER_BYTES_MAX = 4 * 1024 * 1024
"""A larger answer is not kept for other replicas."""
KEY_CHARS_MAX = 255
NUMBER_BYTES = 24
"""Of one number of a vector, in memory and as text."""


class Standing(Enum):
    """What a key is worth."""

    NEW = "new"
    """Whoever asked makes the call, and holds the key."""
    RUNNING = "running"
    """Somebody else is making it."""
    DONE = "done"
    CONFLICT = "conflict"
    """The key belongs to another request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One attempt to make a keyed call."""

    place: str
    """Names the caller's key, and does not tell it."""
    fingerprint: str
    """Equal for equal requests."""
    holder: str
    """Who makes the attempt; unique."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptAnswer:
    """An answer with what its headers tell."""

    result: ChatResult | EmbeddingResult
    served: Served
    cost_usd: str | None = None
    upstream_s: float = 0.0
    """0 where it is given again."""
    cached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """The answer to a claim."""

    standing: Standing
    answer: KeptAnswer | None = None
    """Of a call that is done; None where it was too large to be kept for other replicas."""
    lost: bool = False
    """Of a NEW one: somebody who died held the key, and may have bought the call."""


def a_claim(*, caller: str, key: str, request: ChatRequest | EmbeddingRequest, holder: str) -> Claim:
    """Return the claim of a caller's key for a request.

    Whether the answer is streamed is not part of the request.

    Raises:
        RequestError: the key is too long.
    """
    if len(key) > KEY_CHARS_MAX:
        raise RequestError(f"Idempotency-Key is longer than {KEY_CHARS_MAX} characters", param="idempotency-key")
    # Fields at their defaults are left out: one that a later version adds does not make a request another one.
    said = [
        (field.name, value)
        for field in fields(request)
        if field.repr and field.name != "stream" and (value := getattr(request, field.name)) != field.default
    ]
    text = f"{type(request).__name__} {said!r}"
    return Claim(
        place=hashlib.sha256(f"{len(caller)}:{caller}{key}".encode("utf-8", "surrogatepass")).hexdigest(),
        fingerprint=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
        holder=holder,
    )


def call_key(claim: Claim) -> str:
    """Return the name that a keyed call has in front of providers, however often it is sent, and by whom."""
    return f"{claim.place[:32]}{claim.fingerprint[:32]}"


def answer_bytes(answer: KeptAnswer) -> int:
    """Estimate the size of an answer, rather high than low, without copying any of it."""
    if isinstance(answer.result, ChatResult):
        return result_bytes(answer.result)
    return sum(len(vector) for vector in answer.result.vectors) * NUMBER_BYTES
