"""Plays a recording through the real adapter and reports what was sent and what came out, as plain data.

A recording says in our words what is asked (``ask``), what the adapter must send (``request``), what the provider
answers (``response``) and what must come out (``expect``); see recordings/README.md.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import asdict
from typing import Any

import pytest

from app.domain.accounts import AccountSpec, ModelInfo, Provider, StructuredOutput
from app.domain.chat import (
    ChatDelta,
    ChatRequest,
    ImagePart,
    LimitObservation,
    Message,
    OutputSchema,
    Role,
    ToolCall,
    ToolSpec,
)
from app.domain.errors import UpstreamError
from app.providers.base import ProviderAdapter
from app.providers.registry import create
from tests.contract.playback import Playback, playing

KEY = "sk-do-not-show-0123456789"
MODEL = "the-model"
BASE_PATHS = {"openai": "/v1", "qwen": "/compatible-mode/v1", "custom": "/v1"}


def make_adapter(provider: str, url: str, model: dict[str, Any] | None = None, **account: Any) -> ProviderAdapter:
    """Return the registry's adapter for ``provider`` at ``url``, with one model."""
    fields = {"name": MODEL, "family": provider, **(model or {})}
    if "structured" in fields:
        fields["structured"] = StructuredOutput(fields["structured"])
    spec = AccountSpec(
        name="tester",
        provider=Provider(provider),
        api_key=KEY,
        base_url=url + BASE_PATHS.get(provider, ""),
        models=((fields["name"], account.pop("upstream", fields["name"])),),
        **account,
    )
    return create(spec, [ModelInfo(**fields)])


def build_request(ask: dict[str, Any]) -> ChatRequest:
    """Return the request that ``ask`` describes."""
    fields = dict(ask)
    messages = tuple(_message(message) for message in fields.pop("messages"))
    fields["tools"] = tuple(ToolSpec(**tool) for tool in fields.get("tools", ()))
    fields["stop"] = tuple(fields.get("stop", ()))
    fields["extra"] = tuple((name, text) for name, text in fields.get("extra", ()))
    if isinstance(fields.get("output"), dict):
        fields["output"] = OutputSchema(**fields["output"])
    return ChatRequest(**{"model": MODEL, **fields}, messages=messages)


def _message(fields: dict[str, Any]) -> Message:
    fields = dict(fields)
    fields["role"] = Role(fields["role"])
    fields["images"] = tuple(ImagePart(**image) for image in fields.get("images", ()))
    fields["parts"] = tuple(part if isinstance(part, str) else ImagePart(**part) for part in fields.get("parts", ()))
    fields["tool_calls"] = tuple(ToolCall(**call) for call in fields.get("tool_calls", ()))
    return Message(**fields)


async def replay(provider: str, record: dict[str, Any]) -> tuple[dict[str, Any], Playback]:
    """Return the answer as plain data, and the server with what it was sent.

    Raises:
        UpstreamError: as the adapter does.
    """
    async with playing(record["response"]) as playback:
        adapter = make_adapter(provider, playback.url, record.get("model"))
        request = build_request(record["ask"])
        try:
            if record.get("stream"):
                return fold(await collect(adapter, request)), playback
            answer = asdict(await adapter.chat_completion(request, timeout_s=5))
            return answer, playback
        finally:
            await adapter.aclose()


async def collect(
    adapter: ProviderAdapter, request: ChatRequest, *, timeout_s: float = 5, idle_timeout_s: float = 2
) -> list[ChatDelta]:
    """Return all deltas of a stream."""
    stream = adapter.chat_completion_stream(request, timeout_s=timeout_s, idle_timeout_s=idle_timeout_s)
    async with aclosing(stream):
        return [delta async for delta in stream]


def fold(deltas: list[ChatDelta]) -> dict[str, Any]:
    """Return what a stream said, in the shape of a whole answer."""
    last = deltas[-1]
    assert last.finish_reason is not None, "the last delta carries the finish reason"
    assert last.usage is not None, "the last delta carries the usage"
    calls: dict[int, dict[str, Any]] = {}
    observations: tuple[LimitObservation, ...] = ()
    for delta in deltas:
        observations = delta.observations or observations
        if delta.tool_index is not None:
            call = calls.setdefault(delta.tool_index, {"id": "", "name": "", "arguments": "", "signature": None})
            call["id"] = delta.tool_id or call["id"]
            call["name"] = delta.tool_name or call["name"]
            call["arguments"] += delta.tool_arguments
            call["signature"] = delta.tool_signature or call["signature"]
    return {
        "text": "".join(delta.text for delta in deltas if delta.choice == 0),
        "reasoning": "".join(delta.reasoning for delta in deltas if delta.choice == 0) or None,
        "reasoning_signature": next((d.reasoning_signature for d in deltas if d.reasoning_signature), None),
        "tool_calls": tuple(calls[index] for index in sorted(calls)),
        "finish_reason": last.finish_reason,
        "usage": asdict(last.usage),
        "model": last.model,
        "provider_id": last.provider_id,
        "observations": tuple(asdict(seen) for seen in observations),
    }


async def check(provider: str, record: dict[str, Any]) -> None:
    """Assert that the adapter sends what the recording says and understands its answer as it says."""
    answer, playback = await replay(provider, record)
    (sent,) = playback.sent
    wanted = record["request"]

    assert (sent.method, sent.path) == ("POST", wanted["path"])
    assert sent.body == wanted["body"]
    for name, value in wanted.get("headers", {}).items():
        assert sent.headers.get(name) == value.replace("$KEY", KEY)
    for name, value in record["expect"].items():
        seen = answer[name]
        if isinstance(value, list):
            assert [dict(item) for item in seen] == value, name
        else:
            assert seen == value, name


async def check_error(provider: str, error: dict[str, Any], *, stream: bool) -> None:
    """Assert that the adapter classifies one recorded refusal as it says, and shows nothing of its body."""
    record = {
        "ask": {"messages": [{"role": "user", "text": "Where is it?"}]},
        "stream": stream,
        "response": error["response"],
    }
    with pytest.raises(UpstreamError) as caught:
        await replay(provider, record)

    raised = caught.value
    assert {name: getattr(raised, name) for name in error["expect"]} == error["expect"]
    shown = f"{raised!r} {raised} {raised.__dict__!r}"
    assert KEY not in shown
    assert "SECRET-OF-THE-BODY" not in shown
    assert raised.__cause__ is None
