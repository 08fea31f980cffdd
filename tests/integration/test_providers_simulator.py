"""Every HTTP adapter against the simulator: another process, written against the same documents by other hands.

What the simulator counts (requests, billed tokens) is compared with what the adapters report.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.domain.accounts import AccountSpec, ModelInfo, Provider, StructuredOutput
from app.domain.chat import ChatRequest, ChatResult, FinishReason, Message, OutputSchema, Role, ToolCall, ToolSpec
from app.domain.errors import UpstreamError, UpstreamKind
from app.providers.base import ProviderAdapter
from app.providers.payload import parse_json
from app.providers.registry import create
from tests.fakes.simulated import Simulator, running_simulator

PATHS = {
    "openai": "/v1",
    "deepseek": "",
    "qwen": "/compatible-mode/v1",
    "custom": "/v1",
    "anthropic": "",
    "gemini": "",
}
PROVIDERS = list(PATHS)
EVERYWHERE = {
    "http_400": UpstreamKind.INVALID_REQUEST,
    "http_401": UpstreamKind.DEAD_KEY,
    "http_402": UpstreamKind.DEAD_KEY,
    "http_403": UpstreamKind.DEAD_KEY,
    "http_404": UpstreamKind.MODEL_MISSING,
    "http_413": UpstreamKind.TOO_LONG,
    "http_429": UpstreamKind.MINUTE_LIMIT,
    "http_500": UpstreamKind.OVERLOADED,
    "http_503": UpstreamKind.OVERLOADED,
    "http_504": UpstreamKind.TIMEOUT,
    "http_529": UpstreamKind.OVERLOADED,
    "hang": UpstreamKind.TIMEOUT,
    "reset": UpstreamKind.CONNECTION,
    "garbage_json": UpstreamKind.GARBAGE,
    "blank_content": UpstreamKind.GARBAGE,
    "bill_then_500": UpstreamKind.OVERLOADED,
    "accept_then_drop": UpstreamKind.CONNECTION,
}
STREAMED = {
    "cut_stream": UpstreamKind.CUT,
    "cut_before_first": UpstreamKind.CUT,
    "error_event": UpstreamKind.OVERLOADED,
    "stall": UpstreamKind.TIMEOUT,
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "warm": {"type": "boolean"}},
    "required": ["city", "warm"],
    "additionalProperties": False,
}
CONFIGURATION: dict[str, Any] = {
    "default_reply": "schema",
    "models": {"the-model": {}},
    "profile": {
        "latency": {"kind": "constant", "mean_s": 0.0},
        "output_tokens": {"kind": "constant", "mean": 12},
        "reasoning_tokens": 6,
        "cached_tokens": 2,
    },
    "keys": [
        {"key": "sk-good"},
        {"key": "sk-revoked", "state": "revoked"},
        {"key": "sk-poor", "state": "no_balance"},
        *({"key": f"sk-limited-{name}-{stream}", "limits": {"rpm": 1}} for name in PROVIDERS for stream in (0, 1)),
    ],
    "faults": [
        {"match": {"contains": f"[{kind}]"}, "kind": kind, **({"retry_after": "7"} if kind == "http_429" else {})}
        for kind in (*EVERYWHERE, *STREAMED, "think_tags")
    ],
}


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    path = tmp_path_factory.mktemp("providers") / "sim.yaml"
    path.write_text(yaml.safe_dump({"host": "127.0.0.1", "port": 0, **CONFIGURATION}))
    with running_simulator(path) as running:
        yield running


def make(simulator: Simulator, provider: str, key: str = "sk-good") -> ProviderAdapter:
    account = AccountSpec(
        name=f"{provider}-a",
        provider=Provider(provider),
        api_key=key,
        base_url=simulator.url + PATHS[provider],
        models=(("the-model", "the-model"),),
    )
    return create(account, [ModelInfo(name="the-model", family=provider, structured=StructuredOutput.SCHEMA)])


@pytest.fixture
async def adapter(simulator: Simulator, provider: str) -> AsyncIterator[ProviderAdapter]:
    made = make(simulator, provider)
    yield made
    await made.aclose()


def ask(text: str, **fields: Any) -> ChatRequest:
    messages = (Message(role=Role.SYSTEM, text="Be brief."), Message(role=Role.USER, text=text))
    return ChatRequest(model="the-model", **{"messages": messages, "output_tokens_max": 200, **fields})


async def call(adapter: ProviderAdapter, request: ChatRequest, stream: bool, timeout_s: float = 5) -> ChatResult:
    """Return the answer, streamed or not, in one shape."""
    if not stream:
        return await adapter.chat_completion(request, timeout_s=timeout_s)
    deltas = adapter.chat_completion_stream(request, timeout_s=timeout_s, idle_timeout_s=timeout_s / 2)
    text, reasoning, calls = "", "", dict[int, ToolCall]()
    async with aclosing(deltas):
        async for delta in deltas:
            text, reasoning = text + delta.text, reasoning + delta.reasoning
            if delta.tool_index is not None:
                known = calls.get(delta.tool_index, ToolCall(id="", name="", arguments=""))
                calls[delta.tool_index] = ToolCall(
                    id=delta.tool_id or known.id,
                    name=delta.tool_name or known.name,
                    arguments=known.arguments + delta.tool_arguments,
                )
    assert delta.finish_reason is not None
    assert delta.usage is not None
    return ChatResult(
        text=text,
        reasoning=reasoning or None,
        tool_calls=tuple(calls.values()),
        finish_reason=delta.finish_reason,
        usage=delta.usage,
    )


def billed(simulator: Simulator) -> tuple[int, int]:
    total = simulator.stats()["total"]
    return total["billed_input_tokens"], total["billed_output_tokens"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_usage_is_what_the_provider_billed(
    simulator: Simulator, adapter: ProviderAdapter, provider: str, stream: bool
) -> None:
    """Exact to the token in every format, cached and reasoning tokens contained as our definition says."""
    input_before, output_before = billed(simulator)

    result = await call(adapter, ask("Where is it warm?"), stream)

    input_after, output_after = billed(simulator)
    assert result.usage.source == "provider"
    assert result.usage.input_tokens == input_after - input_before > 0
    assert result.usage.output_tokens == output_after - output_before > 0
    assert (result.usage.cache_read_tokens, result.usage.reasoning_tokens) == (
        2,
        6,
    )
    assert result.text.strip()
    assert (result.reasoning or "").strip()
    assert result.finish_reason is FinishReason.STOP


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_tool_call_comes_back_and_can_be_answered(adapter: ProviderAdapter, provider: str, stream: bool) -> None:
    """A whole turn of tools: the call, its answer, the rest."""
    tools = (ToolSpec(name="weather", description="Looks it up.", parameters=SCHEMA),)
    request = ask("What is the weather?", tools=tools, tool_choice="weather")

    asked = await call(adapter, request, stream)

    assert asked.finish_reason is FinishReason.TOOL_CALLS
    (tool,) = asked.tool_calls
    arguments = parse_json(tool.arguments)
    assert tool.name == "weather"
    assert isinstance(arguments, dict)
    assert set(arguments) == {"city", "warm"}
    turns = (
        *request.messages,
        Message(role=Role.ASSISTANT, tool_calls=asked.tool_calls, reasoning=asked.reasoning),
        Message(role=Role.TOOL, tool_call_id=tool.id, text="31 C"),
    )
    answered = await call(adapter, ask("", messages=turns, tools=tools, tool_choice="none"), stream)
    assert answered.text.strip()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_answer_satisfies_the_schema(adapter: ProviderAdapter, provider: str, stream: bool) -> None:
    """The schema reaches every provider in its own way of asking."""
    result = await call(adapter, ask("Describe it.", output=OutputSchema(name="place", schema=SCHEMA)), stream)

    value = parse_json(result.text)
    assert isinstance(value, dict)
    assert set(value) == {"city", "warm"}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_answer_cut_by_its_limit_says_so(adapter: ProviderAdapter, provider: str, stream: bool) -> None:
    """A truncated answer must not be taken for a whole one."""
    result = await call(adapter, ask("Tell it at length.", output_tokens_max=9), stream)

    assert result.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize(
    ("kind", "expected", "stream"),
    [
        *((kind, expected, False) for kind, expected in EVERYWHERE.items()),
        *((kind, expected, True) for kind, expected in {**EVERYWHERE, **STREAMED}.items()),
    ],
)
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_fault_is_told_apart(
    adapter: ProviderAdapter, provider: str, kind: str, expected: UpstreamKind, stream: bool
) -> None:
    """Whatever breaks, the dispatcher learns whose fault it is."""
    with pytest.raises(UpstreamError) as caught:
        await call(adapter, ask(f"Where? [{kind}]"), stream, 0.25 if kind in ("hang", "stall") else 5)

    assert caught.value.kind is expected
    if kind.startswith("http_") and (provider, kind) != ("gemini", "http_529"):
        # 529 is Anthropic's own; Gemini says 503.
        assert caught.value.status == int(kind.removeprefix("http_"))
    if kind == "http_429":
        assert caught.value.retry_after_s == 7.0


@pytest.mark.parametrize(
    ("provider", "key"),
    [
        *((provider, "sk-revoked") for provider in PROVIDERS),
        # The simulator says OpenAI's insufficient_quota, which is throttling in DashScope's dialect.
        *((provider, "sk-poor") for provider in PROVIDERS if provider != "qwen"),
    ],
)
async def test_dead_key_is_dead(simulator: Simulator, provider: str, key: str) -> None:
    """Revoked or without balance: in every dialect a person must act."""
    adapter = make(simulator, provider, key)

    with pytest.raises(UpstreamError) as caught:
        await adapter.chat_completion(ask("Where?"), timeout_s=2)

    assert caught.value.kind is UpstreamKind.DEAD_KEY
    assert caught.value.billed is False
    await adapter.aclose()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_limit_of_the_provider_is_a_minute_limit_with_a_wait(
    simulator: Simulator, provider: str, stream: bool
) -> None:
    """The second request within the minute is refused, with the time to wait in the provider's own spelling."""
    adapter = make(simulator, provider, f"sk-limited-{provider}-{int(stream)}")
    await call(adapter, ask("Where?"), stream)

    with pytest.raises(UpstreamError) as caught:
        await call(adapter, ask("Where?"), stream)

    assert caught.value.kind is UpstreamKind.MINUTE_LIMIT
    assert caught.value.billed is False
    assert caught.value.retry_after_s is not None
    assert 0 < caught.value.retry_after_s <= 60
    await adapter.aclose()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_thinking_in_tags_is_kept_apart(simulator: Simulator, stream: bool) -> None:
    """A custom server without a reasoning parser."""
    adapter = make(simulator, "custom")

    result = await call(adapter, ask("Where? [think_tags]"), stream)

    assert "think>" not in result.text
    assert (result.reasoning or "").strip()
    await adapter.aclose()


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_health_check_tells_a_good_key_from_a_dead_one(simulator: Simulator, provider: str) -> None:
    """Without buying a token."""
    before = billed(simulator)
    good, dead = make(simulator, provider), make(simulator, provider, "sk-revoked")

    assert (await good.health_check()).ok
    assert (await dead.health_check()).kind is UpstreamKind.DEAD_KEY
    assert billed(simulator) == before
    await good.aclose()
    await dead.aclose()


def test_simulator_configuration_names_every_fault(tmp_path: Path) -> None:
    """Guards this file: a fault that the simulator does not know would test nothing."""
    from app.simulator.config import load_config

    path = tmp_path / "sim.yaml"
    path.write_text(yaml.safe_dump(CONFIGURATION))

    assert len(load_config(path).faults) == len(EVERYWHERE) + len(STREAMED) + 1
