"""The embedded model's adapter over the real engine and the real weights."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from app.domain.accounts import AccountSpec, ModelInfo, Provider
from app.domain.chat import ChatRequest, FinishReason, Json, Message, OutputSchema, Role
from app.domain.errors import UpstreamError, UpstreamKind
from app.providers.base import ProviderAdapter
from app.providers.payload import parse_json
from app.providers.registry import create

ASK = ChatRequest(
    model="smollm2", messages=(Message(role=Role.USER, text="Name three fruits."),), output_tokens_max=40, seed=1
)
SCHEMA: dict[str, Json] = {
    "type": "object",
    "properties": {
        "fruits": {"type": "array", "items": {"type": "string", "maxLength": 20}, "minItems": 3, "maxItems": 3}
    },
    "required": ["fruits"],
    "additionalProperties": False,
}


@pytest.fixture
async def adapter() -> AsyncIterator[ProviderAdapter]:
    account = AccountSpec(
        name="embedded",
        provider=Provider.LOCAL,
        models=(("smollm2", "smollm2"),),
        options=(("context_tokens", "1024"), ("threads", "1")),
    )
    made = create(account, [ModelInfo(name="smollm2", family="smollm", output_tokens_max=200)])
    yield made
    await made.aclose()


async def test_embedded_model_answers_and_streams(adapter: ProviderAdapter) -> None:
    """Whole and streamed calls go through the same engine; its own counts are the usage."""
    whole = await adapter.chat_completion(ASK, timeout_s=60)
    deltas = [delta async for delta in adapter.chat_completion_stream(ASK, timeout_s=60, idle_timeout_s=30)]

    assert whole.text.strip()
    assert 0 < whole.usage.output_tokens <= 40
    assert len([delta for delta in deltas if delta.text]) > 5
    usage = deltas[-1].usage
    assert usage is not None
    assert usage.input_tokens == whole.usage.input_tokens > 0
    # The prompt was still in memory.
    assert usage.cache_read_tokens > 0


async def test_embedded_model_keeps_to_a_schema(adapter: ProviderAdapter) -> None:
    """The grammar holds whatever the model would rather say."""
    request = replace(ASK, output=OutputSchema(name="fruits", schema=SCHEMA), output_tokens_max=120)

    result = await adapter.chat_completion(request, timeout_s=60)

    value = parse_json(result.text)
    assert isinstance(value, dict)
    assert isinstance(value["fruits"], list)
    assert len(value["fruits"]) == 3
    assert result.finish_reason is FinishReason.STOP


async def test_cancelled_call_of_the_embedded_model_stops_generating(adapter: ProviderAdapter) -> None:
    """Closing afterwards waits for the engine, so a short close shows that it had stopped."""
    request = replace(ASK, messages=(Message(role=Role.USER, text="Tell a long story."),), output_tokens_max=900)
    await adapter.chat_completion(replace(ASK, output_tokens_max=1), timeout_s=60)
    task = asyncio.create_task(adapter.chat_completion(request, timeout_s=60))
    await asyncio.sleep(0.5)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    started = time.monotonic()
    await adapter.aclose()

    # 900 tokens take ten seconds and more.
    assert time.monotonic() - started < 4


async def test_prompt_beyond_the_context_is_too_long(adapter: ProviderAdapter) -> None:
    """Another model may take it."""
    request = replace(ASK, messages=(Message(role=Role.USER, text="word " * 3_000),))

    with pytest.raises(UpstreamError) as caught:
        await adapter.chat_completion(request, timeout_s=60)

    assert caught.value.kind is UpstreamKind.TOO_LONG
