"""A provider adapter of ours: answers, fails or waits as told, and counts what reached it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from app.domain.accounts import ModelInfo
from app.domain.chat import ChatDelta, ChatRequest, ChatResult, FinishReason, Usage
from app.domain.errors import UpstreamError, UpstreamKind
from app.domain.gateway import EmbeddingRequest, EmbeddingResult
from app.providers.base import HealthReport

Behaviour = Callable[[ChatRequest], ChatResult]


def say_ok(request: ChatRequest) -> ChatResult:
    """Answer everything with ok."""
    return ChatResult(text="ok", usage=Usage(input_tokens=3, output_tokens=1), model=request.model)


class FakeAdapter:
    """The port ``ProviderAdapter`` without a provider."""

    def __init__(self, behaviour: Behaviour = say_ok) -> None:
        self.behaviour = behaviour
        self.requests: list[ChatRequest] = []
        self.running = 0
        self.running_max = 0
        self.cancelled = 0
        self.closed = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def chat_completion(self, request: ChatRequest, *, timeout_s: float) -> ChatResult:
        self.requests.append(request)
        self.running += 1
        self.running_max = max(self.running_max, self.running)
        try:
            await self.gate.wait()
            return self.behaviour(request)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def chat_completion_stream(
        self, request: ChatRequest, *, timeout_s: float, idle_timeout_s: float
    ) -> AsyncGenerator[ChatDelta, None]:
        result = await self.chat_completion(request, timeout_s=timeout_s)
        yield ChatDelta(text=result.text, finish_reason=FinishReason.STOP, usage=result.usage)

    async def embed(self, request: EmbeddingRequest, *, timeout_s: float) -> EmbeddingResult:
        vectors = tuple((float(len(text)), 1.0) for text in request.inputs)
        return EmbeddingResult(vectors=vectors, input_tokens=len(request.inputs), model=request.model)

    def calculate_tokens(self, request: ChatRequest) -> int:
        return 1

    def get_model_info(self, model: str) -> ModelInfo:
        return ModelInfo(name=model, family="fake")

    async def health_check(self) -> HealthReport:
        return HealthReport(ok=True, message="fake")

    async def aclose(self) -> None:
        self.closed = True


class FakeBackgroundAdapter(FakeAdapter):
    """The port ``BackgroundAdapter`` as well: its calls go on until ``gate`` is open, whoever attends them."""

    def __init__(self) -> None:
        super().__init__()
        self.abandoned: list[str] = []

    async def begin(self, request: ChatRequest, *, note: Callable[[str], Awaitable[None]], timeout_s: float) -> str:
        name = f"name-{len(self.requests)}"
        self.requests.append(request)
        await note(name)
        return name

    async def attend(self, request: ChatRequest, name: str, *, timeout_s: float) -> ChatResult | None:
        try:
            async with asyncio.timeout(timeout_s):
                await self.gate.wait()
        except TimeoutError:
            raise UpstreamError("too late", kind=UpstreamKind.TIMEOUT, billed=None) from None
        return self.behaviour(request)

    async def abandon(self, name: str) -> None:
        self.abandoned.append(name)
