"""What an adapter of a provider offers, whichever provider it is (requirement B2).

Account actors speak to this protocol and to nothing else of this package but ``registry``. An adapter translates,
makes exactly one upstream attempt a call, and reports; it never retries, queues or chooses.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from app.domain.accounts import ModelInfo
from app.domain.chat import ChatDelta, ChatRequest, ChatResult
from app.domain.errors import UpstreamKind
from app.domain.gateway import EmbeddingRequest, EmbeddingResult

LOOK_AGAIN = frozenset(
    (
        UpstreamKind.CONNECTION,
        UpstreamKind.TIMEOUT,
        UpstreamKind.CUT,
        UpstreamKind.GARBAGE,
        UpstreamKind.OVERLOADED,
        UpstreamKind.MINUTE_LIMIT,
    )
)
"""Failures of a look at a call in the background that say nothing of the call itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """What a cheap look at the provider found."""

    ok: bool
    message: str
    """One sentence for an operator."""
    kind: UpstreamKind | None = None
    """How it failed; DEAD_KEY needs a person. None where ``ok``, or where the configuration is at fault."""
    latency_s: float = 0.0
    models: tuple[str, ...] = ()
    """The provider's own names of the models that this key may use; empty where it does not say."""
    models_missing: tuple[str, ...] = ()
    """Upstream names that the configuration gives and the provider's complete list does not hold."""


class ProviderAdapter(Protocol):
    """One account at one provider.

    Belongs to one event loop. ``ChatRequest.model`` is the upstream's name.
    """

    async def chat_completion(self, request: ChatRequest, *, timeout_s: float) -> ChatResult:
        """Return the complete answer of one non-streamed upstream request.

        Args:
            request: What to ask; ``request.stream`` is ignored.
            timeout_s: Seconds until the last byte, connecting included. Positive.

        Raises:
            RequestError: a field cannot be translated for this provider (``param`` names it); nothing was sent.
            UpstreamError: the provider failed.

        Cancelling the awaiting task closes the upstream connection.
        """

    def chat_completion_stream(
        self, request: ChatRequest, *, timeout_s: float, idle_timeout_s: float
    ) -> AsyncGenerator[ChatDelta, None]:
        """Stream the answer of one upstream request; the last delta carries ``finish_reason`` and ``usage``.

        Args:
            request: What to ask; ``request.stream`` is ignored.
            timeout_s: Seconds until the last byte. Positive.
            idle_timeout_s: Seconds without a data event after which the answer counts as stuck; keep-alive comments do
                not count as data, nor does the time that the consumer takes. Positive.

        Raises:
            RequestError: as above, at the first step.
            UpstreamError: the provider failed, before or after the first delta.

        Close the generator (``contextlib.aclosing``) when leaving early: that closes the upstream connection.
        """

    async def embed(self, request: EmbeddingRequest, *, timeout_s: float) -> EmbeddingResult:
        """Return the vectors of one upstream request; cancelling closes its connection.

        Args:
            request: What to embed; ``model`` is the upstream's name.
            timeout_s: Seconds until the last byte. Positive.

        Raises:
            RequestError: the provider has no embeddings (``param`` is ``model``), or a field cannot be translated;
                nothing was sent.
            UpstreamError: the provider failed.
        """

    def calculate_tokens(self, request: ChatRequest) -> int:
        """Return the estimated input tokens of ``request``; by characters, no tokenizer is downloaded."""

    def get_model_info(self, model: str) -> ModelInfo:
        """Return what is known of ``model``, given by its public or its upstream name.

        Raises:
            NotFoundError: this account does not serve it.
        """

    async def health_check(self) -> HealthReport:
        """Look at the provider in the cheapest way it offers; never raises for its failures, never buys tokens."""

    async def aclose(self) -> None:
        """Refuse new calls, let running ones end (at most the account's timeout), free what is held. Idempotent."""


@runtime_checkable
class BackgroundAdapter(Protocol):
    """An adapter whose provider makes calls without us and keeps their answers: at ``reattach`` and ``batch``.

    Only calls with a ``call_key`` are begun.
    """

    async def begin(self, request: ChatRequest, *, note: Callable[[str], Awaitable[None]], timeout_s: float) -> str:
        """Have the provider begin a call; return its name there.

        Args:
            request: What to ask.
            note: Writes the name down; awaited as soon as there is a name. Raises ConflictError where the call is not
                wanted any more.
            timeout_s: Seconds until the call has begun. Positive.

        Raises as ``ProviderAdapter.chat_completion``, and what ``note`` raises.
        """

    async def attend(self, request: ChatRequest, name: str, *, timeout_s: float) -> ChatResult | None:
        """Return the answer of a call that was begun, as soon as it is there; None where it certainly never was.

        Costs nothing.

        Args:
            request: What was asked.
            name: What ``begin`` returned, in this life or an earlier one.
            timeout_s: Seconds to wait for it. Positive.

        Raises:
            NoAnswerError: it ended without an answer, or the provider does not know it any more.
            UpstreamError: it cannot be asked for, or the time is over: whether it is billed is unknown.
        """

    async def abandon(self, name: str) -> None:
        """Have the provider stop a call whose answer nobody wants; never raises for its failures."""
