"""What happens on the wire beside the answers: cuts, stalls, cancellation, bounds, refusals."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import aclosing
from typing import Any

import pytest

from app.domain.accounts import AccountSpec, Provider
from app.domain.chat import ChatDelta, ChatRequest, FinishReason
from app.domain.errors import ConfigurationError, RequestError, UpstreamError, UpstreamKind
from app.providers import http_client
from app.providers.base import ProviderAdapter
from app.providers.registry import create, providers
from tests.contract.playback import ANSWER, HALF, chunk, playing, recording, sse
from tests.contract.replay import KEY, MODEL, build_request, collect, make_adapter

HTTP_PROVIDERS = ["openai", "deepseek", "qwen", "custom", "anthropic", "gemini"]
ASK = build_request({"messages": [{"role": "user", "text": "Where is it?"}]})


async def failure(adapter: ProviderAdapter, request: ChatRequest = ASK, **timeouts: float) -> UpstreamError:
    """Return the error that a stream ends with."""
    with pytest.raises(UpstreamError) as caught:
        await collect(adapter, request, **timeouts)
    return caught.value


@pytest.mark.parametrize("ending", ["whole", "cut"])
@pytest.mark.parametrize("provider", sorted(HALF))
async def test_stream_that_ends_before_its_answer_is_cut(provider: str, ending: str) -> None:
    """A polite end and a broken connection are the same loss; what had come was billed."""
    async with playing({**HALF[provider], "ending": ending}) as playback:
        adapter = make_adapter(provider, playback.url)

        error = await failure(adapter)

        assert (error.kind, error.billed) == (UpstreamKind.CUT, True)
        await adapter.aclose()


async def test_stream_cut_before_anything_came_has_an_unknown_bill() -> None:
    """Only what we saw can be said to be billed."""
    async with playing({**sse(done=False), "pieces": [": keep-alive\n\n"], "ending": "cut"}) as playback:
        adapter = make_adapter("openai", playback.url)

        error = await failure(adapter)

        assert (error.kind, error.billed) == (UpstreamKind.CUT, None)
        await adapter.aclose()


async def test_stream_cut_in_the_middle_of_an_event_is_cut_not_garbage() -> None:
    """Half a JSON object at the end of the bytes is a lost connection."""
    response = sse(chunk({"content": "He"}), done=False)
    response["pieces"].append('data: {"choices": [{"ind')
    async with playing(response) as playback:
        adapter = make_adapter("openai", playback.url)

        assert (await failure(adapter)).kind is UpstreamKind.CUT
        await adapter.aclose()


async def test_stream_cut_after_its_finish_reason_is_whole_with_estimated_usage() -> None:
    """An answer that is complete is not bought again because its bookkeeping was lost."""
    response = sse(chunk({"content": "Here."}), chunk({}, "stop"), done=False)
    async with playing({**response, "ending": "cut"}) as playback:
        adapter = make_adapter("openai", playback.url)

        deltas = await collect(adapter, ASK)

        assert "".join(delta.text for delta in deltas) == "Here."
        assert deltas[-1].finish_reason is FinishReason.STOP
        usage = deltas[-1].usage
        assert usage is not None
        assert usage.source == "estimated"
        assert usage.output_tokens > 0
        await adapter.aclose()


async def test_keep_alive_comments_do_not_stop_the_idle_clock() -> None:
    """Comments for ever are a stall: only data events count."""
    response = {**sse(done=False), "pieces": [": keep-alive\n\n"] * 40, "pause_s": 0.05}
    async with playing(response) as playback:
        adapter = make_adapter("openai", playback.url)

        error = await failure(adapter, timeout_s=5, idle_timeout_s=0.3)

        # Had the comments counted, the stream would have come to its end and be cut.
        assert error.kind is UpstreamKind.TIMEOUT
        await adapter.aclose()


async def test_slow_reader_does_not_run_into_the_idle_timeout() -> None:
    """The consumer's own time between events is not the provider's silence."""
    response = sse(chunk({"content": "He"}), chunk({"content": "re"}), chunk({}, "stop"))
    async with playing(response) as playback:
        adapter = make_adapter("openai", playback.url)
        text = ""
        stream = adapter.chat_completion_stream(ASK, timeout_s=5, idle_timeout_s=0.4)
        async with aclosing(stream):
            async for delta in stream:
                await asyncio.sleep(0.5)
                text += delta.text

        assert text == "Here"
        await adapter.aclose()


async def test_steady_stream_outlives_its_idle_timeout() -> None:
    """Silence counts from the last event, not from the first."""
    response = sse(*[chunk({"content": "x"})] * 8, chunk({}, "stop"))
    async with playing({**response, "pause_s": 0.1}) as playback:
        adapter = make_adapter("openai", playback.url)

        deltas = await collect(adapter, ASK, timeout_s=5, idle_timeout_s=0.4)

        assert "".join(delta.text for delta in deltas) == "x" * 8
        await adapter.aclose()


async def test_stream_that_never_ends_runs_into_the_whole_timeout() -> None:
    """Events keep a stream from being idle, not from being late."""
    response = sse(*[chunk({"content": "x"})] * 100, done=False)
    async with playing({**response, "pause_s": 0.05}) as playback:
        adapter = make_adapter("openai", playback.url)
        started = time.monotonic()

        error = await failure(adapter, timeout_s=0.4, idle_timeout_s=5)

        assert (error.kind, error.billed) == (UpstreamKind.TIMEOUT, True)
        assert time.monotonic() - started < 3
        await asyncio.wait_for(playback.hung_up.wait(), 1)
        await adapter.aclose()


@pytest.mark.parametrize("stream", [False, True])
async def test_silent_server_runs_into_the_whole_timeout(stream: bool) -> None:
    """No call waits longer than it was given."""
    async with playing({**sse(done=False), "ending": "hang"}) as playback:
        adapter = make_adapter("openai", playback.url)
        started = time.monotonic()

        call: Any = adapter.chat_completion(ASK, timeout_s=0.3)
        if stream:
            call.close()
            call = collect(adapter, ASK, timeout_s=0.3, idle_timeout_s=5)
        with pytest.raises(UpstreamError) as caught:
            await call

        assert (caught.value.kind, caught.value.billed) == (UpstreamKind.TIMEOUT, None)
        assert time.monotonic() - started < 4
        await adapter.aclose()


@pytest.mark.parametrize("stream", [False, True])
async def test_cancelling_the_caller_closes_the_upstream_connection(stream: bool) -> None:
    """A caller that gives up stops the provider's work, and with it the bill."""
    async with playing({**HALF["openai"], "ending": "hang"}) as playback:
        adapter = make_adapter("openai", playback.url)
        work: Any = collect(adapter, ASK) if stream else adapter.chat_completion(ASK, timeout_s=5)
        task = asyncio.create_task(work)
        await asyncio.wait_for(playback.arrived.wait(), 1)
        await asyncio.sleep(0.05)
        assert not playback.hung_up.is_set()

        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        await asyncio.wait_for(playback.hung_up.wait(), 1)
        await adapter.aclose()


async def test_leaving_a_stream_early_closes_the_upstream_connection() -> None:
    """Closing the generator is enough."""
    async with playing({**HALF["openai"], "ending": "hang"}) as playback:
        adapter = make_adapter("openai", playback.url)
        async with aclosing(adapter.chat_completion_stream(ASK, timeout_s=5, idle_timeout_s=5)) as stream:
            first = await anext(stream)

        assert first == ChatDelta(text="He")
        await asyncio.wait_for(playback.hung_up.wait(), 1)
        await adapter.aclose()


@pytest.mark.parametrize(
    ("provider", "event", "kind"),
    [
        ("openai", {"error": {"type": "server_error", "message": "SECRET"}}, UpstreamKind.OVERLOADED),
        ("openai", {"error": {"code": 429, "message": "SECRET"}}, UpstreamKind.MINUTE_LIMIT),
        ("anthropic", {"type": "error", "error": {"type": "overloaded_error"}}, UpstreamKind.OVERLOADED),
        ("anthropic", {"type": "error", "error": {"type": "rate_limit_error"}}, UpstreamKind.MINUTE_LIMIT),
        ("gemini", {"error": {"code": 503, "status": "UNAVAILABLE"}}, UpstreamKind.OVERLOADED),
        ("gemini", [{"error": {"code": 400, "status": "INVALID_ARGUMENT"}}], UpstreamKind.INVALID_REQUEST),
    ],
)
async def test_error_event_after_http_200_is_an_error(provider: str, event: Any, kind: UpstreamKind) -> None:
    """A stream may fail after it began; what had come was billed."""
    response = {**HALF[provider], "pieces": [*HALF[provider]["pieces"], f"data: {json.dumps(event)}\n\n"]}
    async with playing(response) as playback:
        adapter = make_adapter(provider, playback.url)

        error = await failure(adapter)

        assert (error.kind, error.billed) == (kind, True)
        assert "SECRET" not in str(error)
        await adapter.aclose()


@pytest.mark.parametrize(
    "response",
    [
        sse("{not json", done=True),
        sse(chunk({"content": " "}), chunk({}, "stop")),
        {"raw": "HELLO THIS IS NOT HTTP\r\n\r\n"},
        {**ANSWER, "headers": {"content-type": "application/json"}},
        sse("x" * 4_194_400, done=True),
    ],
    ids=["not JSON", "blank", "not HTTP", "not streamed", "event too large"],
)
async def test_stream_that_does_not_speak_the_protocol_is_garbage(response: dict[str, Any]) -> None:
    """Success statuses prove nothing."""
    async with playing(response) as playback:
        adapter = make_adapter("openai", playback.url)

        assert (await failure(adapter)).kind is UpstreamKind.GARBAGE
        await adapter.aclose()


async def test_body_beyond_the_bound_is_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    """No provider can fill our memory."""
    monkeypatch.setattr(http_client, "BODY_BYTES_MAX", 10_000)
    async with playing({"pieces": ["x" * 4_000] * 5, "ending": "hang"}) as playback:
        adapter = make_adapter("openai", playback.url)

        with pytest.raises(UpstreamError) as caught:
            await adapter.chat_completion(ASK, timeout_s=5)

        assert caught.value.kind is UpstreamKind.GARBAGE
        await adapter.aclose()


async def test_answer_cut_in_its_body_is_cut_with_an_unknown_bill() -> None:
    """A whole call that breaks off after its status may have been billed."""
    async with playing({"pieces": ['{"choices": ['], "ending": "cut"}) as playback:
        adapter = make_adapter("openai", playback.url)

        with pytest.raises(UpstreamError) as caught:
            await adapter.chat_completion(ASK, timeout_s=5)

        assert (caught.value.kind, caught.value.billed) == (UpstreamKind.CUT, None)
        await adapter.aclose()


@pytest.mark.parametrize("provider", HTTP_PROVIDERS)
async def test_health_check_lists_models_and_names_missing_ones(provider: str) -> None:
    """The look costs no tokens: it lists models."""
    rows = [{"id": MODEL, "name": f"models/{MODEL}"}]
    async with playing({"json": {"data": rows, "models": rows}}) as playback:
        good = make_adapter(provider, playback.url)
        other = make_adapter(provider, playback.url, upstream="another")

        found, missing = await good.health_check(), await other.health_check()

        assert (found.ok, found.models, found.models_missing) == (True, (MODEL,), ())
        # Anthropic lists no aliases, so absence proves nothing there.
        assert missing.models_missing == (() if provider == "anthropic" else ("another",))
        assert [sent.method for sent in playback.sent] == ["GET", "GET"]
        await good.aclose()
        await other.aclose()


@pytest.mark.parametrize("provider", HTTP_PROVIDERS)
async def test_health_check_names_a_dead_key(provider: str) -> None:
    """Operators are told what needs them."""
    refusal = recording(f"{provider if provider != 'custom' else 'openai'}/errors")["errors"][0]["response"]
    async with playing(refusal) as playback:
        adapter = make_adapter(provider, playback.url)

        report = await adapter.health_check()

        assert (report.ok, report.kind) == (False, UpstreamKind.DEAD_KEY)
        assert KEY not in report.message
        await adapter.aclose()


@pytest.mark.parametrize("provider", HTTP_PROVIDERS)
async def test_key_is_nowhere_in_the_adapters_representation(provider: str) -> None:
    """Logs show objects; keys must not be in them."""
    adapter = make_adapter(provider, "http://127.0.0.1:9")
    wire = adapter._wire  # type: ignore[attr-defined]

    assert KEY not in repr(adapter)
    assert KEY not in repr(wire)
    assert KEY not in repr(wire.encode(ASK, stream=False))


@pytest.mark.parametrize(
    ("provider", "ask", "param"),
    [
        ("openai", {"tool_choice": "required"}, "tool_choice"),
        ("openai", {"extra": [["n", "3"]]}, "n"),
        ("openai", {"extra": [["temperature", "nope"]]}, "temperature"),
        ("openai", {"temperature": 1.0, "extra": [["temperature", "0.1"]]}, "temperature"),
        ("deepseek", {"choices": 2}, "n"),
        ("deepseek", {"seed": 1}, "seed"),
        ("deepseek", {"tools": [{"name": "t", "strict": True}]}, "tools[0].strict"),
        ("anthropic", {"choices": 2}, "n"),
        ("anthropic", {"seed": 1}, "seed"),
        ("anthropic", {"temperature": 1.5}, "temperature"),
        ("anthropic", {"model": "claude-haiku-4-5", "reasoning_effort": "low", "output_tokens_max": 99}, "max_tokens"),
        ("gemini", {"tools": [{"name": "t"}], "parallel_tool_calls": False}, "parallel_tool_calls"),
        ("gemini", {"reasoning_effort": "extreme"}, "reasoning_effort"),
        ("gemini", {"extra": [["generationConfig", '{"temperature": 1}']], "temperature": 0.5}, "generationConfig"),
    ],
)
async def test_field_that_cannot_be_translated_is_refused_by_name(
    provider: str, ask: dict[str, Any], param: str
) -> None:
    """Nothing is dropped in silence, and nothing is sent."""
    async with playing(ANSWER) as playback:
        adapter = make_adapter(provider, playback.url)
        request = build_request({"messages": [{"role": "user", "text": "x"}], **ask})

        with pytest.raises(RequestError) as caught:
            await adapter.chat_completion(request, timeout_s=5)

        assert caught.value.param == param
        assert playback.sent == []
        await adapter.aclose()


@pytest.mark.parametrize(
    ("provider", "message", "param"),
    [
        ("openai", {"role": "tool", "text": "x"}, "messages[0].tool_call_id"),
        ("openai", {"role": "user", "images": [{}]}, "messages[0].images"),
        ("openai", {"role": "assistant", "images": [{"url": "https://example.org/"}]}, "messages[0].images"),
        ("deepseek", {"role": "user", "images": [{"url": "https://example.org/"}]}, "messages[0].images"),
        ("anthropic", {"role": "user", "text": "  "}, "messages[0].content"),
        ("anthropic", {"role": "user", "text": "x", "name": "Ann"}, "messages[0].name"),
        ("anthropic", {"role": "system", "text": "x"}, "messages"),
        ("gemini", {"role": "user", "images": [{"url": "https://example.org/"}]}, "messages[0].images.url"),
        ("gemini", {"role": "tool", "text": "x", "tool_call_id": "c"}, "messages[0].tool_call_id"),
        (
            "gemini",
            {"role": "assistant", "tool_calls": [{"id": "c", "name": "t", "arguments": "{oops"}]},
            "messages[0].tool_calls[0].arguments",
        ),
    ],
)
async def test_message_that_cannot_be_translated_is_refused_by_name(
    provider: str, message: dict[str, Any], param: str
) -> None:
    """As above, for messages."""
    adapter = make_adapter(provider, "http://127.0.0.1:9")

    with pytest.raises(RequestError) as caught:
        await adapter.chat_completion(build_request({"messages": [message]}), timeout_s=5)

    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"provider": Provider.OPENAI}, "api_key"),
        ({"provider": Provider.OPENAI, "api_key": "sk-do not-show"}, "api_key"),
        ({"provider": Provider.CUSTOM}, "base_url"),
        ({"provider": Provider.CUSTOM, "base_url": "ftp://example.org"}, "base_url"),
        ({"provider": Provider.CUSTOM, "base_url": "https://user:do-not-show@example.org"}, "base_url"),
        ({"provider": Provider.CUSTOM, "base_url": "https://example.org/?key=do-not-show"}, "base_url"),
        ({"provider": Provider.LOCAL, "options": (("parallel", "zero"),)}, "options.parallel"),
        ({"provider": Provider.CUSTOM, "options": (("adapter", "unheard-of"),)}, "provider"),
    ],
)
async def test_account_that_cannot_work_is_refused_when_created(fields: dict[str, Any], param: str) -> None:
    """A wrong key or address is a mistake in the configuration, named without showing it."""
    with pytest.raises(ConfigurationError) as caught:
        create(AccountSpec(name="tester", **fields), [])

    assert caught.value.param == param
    assert "do-not-show" not in str(caught.value)


async def test_every_provider_of_the_configuration_has_an_adapter() -> None:
    """The closed set and the registry agree."""
    assert {provider.value for provider in Provider} <= set(providers())
