"""A provider that answers after ten milliseconds without a network: what is left is our own overhead.

Registered as a plug-in (entry point ``tutti.providers``) by ``dag``, and so loaded by the account actors exactly as a
plug-in of a user is. Never part of an installation.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from app.domain.accounts import AccountSpec, ModelInfo
from app.domain.chat import ChatDelta, ChatRequest, ChatResult, FinishReason, Usage
from app.providers.base import HealthReport

NAME = "bench-sleep"
TASK_S = 0.01
TEXT = "The work on this part is done and the result is good."


class SleepingAdapter:
    """The port ``ProviderAdapter`` over a pause."""

    async def chat_completion(self, request: ChatRequest, *, timeout_s: float) -> ChatResult:
        """Answer after ``TASK_S``."""
        await asyncio.sleep(TASK_S)
        return ChatResult(text=TEXT, usage=Usage(input_tokens=200, output_tokens=12), model=request.model)

    async def chat_completion_stream(
        self, request: ChatRequest, *, timeout_s: float, idle_timeout_s: float
    ) -> AsyncGenerator[ChatDelta, None]:
        """Answer after ``TASK_S`` in one piece."""
        result = await self.chat_completion(request, timeout_s=timeout_s)
        yield ChatDelta(text=result.text, finish_reason=FinishReason.STOP, usage=result.usage)

    def calculate_tokens(self, request: ChatRequest) -> int:
        """Return a constant."""
        return 200

    def get_model_info(self, model: str) -> ModelInfo:
        """Return a model without properties."""
        return ModelInfo(name=model, family="bench")

    async def health_check(self) -> HealthReport:
        """Return that all is well."""
        return HealthReport(ok=True, message="sleeps")

    async def aclose(self) -> None:
        """Hold nothing, free nothing."""


def create(account: AccountSpec, models: Sequence[ModelInfo]) -> SleepingAdapter:
    """Return an adapter; the signature is that of a plug-in."""
    return SleepingAdapter()


def install(folder: Path) -> None:
    """Write a distribution's metadata that registers ``create``; ``folder`` must be on the actors' import path."""
    metadata = folder / "tutti_bench_sleep-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tutti-bench-sleep\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[tutti.providers]\n{NAME} = {__name__}:create\n")
