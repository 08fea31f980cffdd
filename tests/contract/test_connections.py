"""How requests reach a provider: connections kept, lost and refused, what is sent along and what never is."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from app.domain.errors import UpstreamError, UpstreamKind
from app.providers import http_client
from tests.contract.playback import ANSWER, HALF, chunk, playing, sse
from tests.contract.replay import KEY, build_request, collect, make_adapter

ASK = build_request({"messages": [{"role": "user", "text": "Where is it?"}]})


async def test_connection_lost_before_the_answer_has_an_unknown_bill_and_is_not_repeated() -> None:
    """The request may have arrived; one call is one attempt."""
    async with playing({"raw": ""}) as playback:
        adapter = make_adapter("openai", playback.url)

        with pytest.raises(UpstreamError) as caught:
            await adapter.chat_completion(ASK, timeout_s=5)

        assert (caught.value.kind, caught.value.billed) == (UpstreamKind.CONNECTION, None)
        assert len(playback.sent) == 1
        await adapter.aclose()


async def test_kept_connection_that_the_server_drops_is_not_tried_again() -> None:
    """HTTP libraries like to repeat a request whose kept connection broke; this one may have arrived and cost money."""
    async with playing(ANSWER, {"raw": ""}) as playback:
        adapter = make_adapter("openai", playback.url)
        await adapter.chat_completion(ASK, timeout_s=5)

        with pytest.raises(UpstreamError) as caught:
            await adapter.chat_completion(ASK, timeout_s=5)

        assert (caught.value.kind, caught.value.billed) == (UpstreamKind.CONNECTION, None)
        assert (len(playback.sent), playback.connections) == (2, 1)
        await adapter.aclose()


async def test_connection_closed_between_calls_is_replaced() -> None:
    """A server's keep-alive ends when it likes; the next call finds that out before it sends."""
    async with playing({**ANSWER, "ending": "whole-then-close"}, ANSWER) as playback:
        adapter = make_adapter("openai", playback.url)
        await adapter.chat_completion(ASK, timeout_s=5)
        await asyncio.sleep(0.05)

        answer = await adapter.chat_completion(ASK, timeout_s=5)

        assert answer.text == "Here."
        assert (len(playback.sent), playback.connections) == (2, 2)
        await adapter.aclose()


@pytest.mark.parametrize("stream", [False, True])
async def test_full_pool_is_no_connection_and_costs_nothing(monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    """Connections are bounded; who gets none in time is told before anything is sent."""
    monkeypatch.setattr(http_client, "CONNECTIONS_MAX", 1)
    monkeypatch.setattr(http_client, "POOL_TIMEOUT_S", 0.2)
    async with playing({**HALF["openai"], "ending": "hang"}) as playback:
        adapter = make_adapter("openai", playback.url)
        holder = asyncio.create_task(collect(adapter, ASK))
        await asyncio.wait_for(playback.arrived.wait(), 1)

        call: Any = collect(adapter, ASK) if stream else adapter.chat_completion(ASK, timeout_s=5)
        with pytest.raises(UpstreamError) as caught:
            await call

        assert (caught.value.kind, caught.value.billed) == (UpstreamKind.CONNECTION, False)
        assert len(playback.sent) == 1
        holder.cancel()
        await asyncio.gather(holder, return_exceptions=True)
        await adapter.aclose()


@pytest.mark.parametrize("stream", [False, True])
async def test_header_that_cannot_be_sent_is_a_failed_connection(stream: bool) -> None:
    """Nothing but our own errors leaves an adapter, and none holds what it could not send."""
    async with playing(ANSWER) as playback:
        adapter = make_adapter("openai", playback.url, options=(("organization", "two\r\nlines"),))
        call: Any = collect(adapter, ASK) if stream else adapter.chat_completion(ASK, timeout_s=5)

        with pytest.raises(UpstreamError) as caught:
            await call

        assert (caught.value.kind, caught.value.billed) == (UpstreamKind.CONNECTION, False)
        assert caught.value.__context__ is None
        assert playback.sent == []
        await adapter.aclose()


async def test_redirect_is_not_followed() -> None:
    """Another host must not get the key; a provider's API never redirects, so the address is wrong."""
    async with playing(ANSWER) as other:
        moved = {"status": 307, "json": {}, "headers": {"location": f"{other.url}/v1/chat/completions"}}
        async with playing(moved) as playback:
            adapter = make_adapter("openai", playback.url)

            with pytest.raises(UpstreamError) as caught:
                await adapter.chat_completion(ASK, timeout_s=5)

            assert (caught.value.kind, caught.value.status) == (UpstreamKind.GARBAGE, 307)
            assert other.sent == []
            await adapter.aclose()


async def test_environment_sets_no_proxy_and_answers_are_asked_for_uncompressed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a shell exports does not see our keys; compression would only hold tokens back."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with playing(ANSWER) as playback:
        adapter = make_adapter("openai", playback.url)

        assert (await adapter.chat_completion(ASK, timeout_s=5)).text == "Here."

        (sent,) = playback.sent
        assert (sent.headers["accept-encoding"], sent.headers["user-agent"]) == ("identity", "tutti")
        await adapter.aclose()


async def test_headers_of_an_answer_are_read_whatever_their_case() -> None:
    """HTTP/1.1 servers write them as they like."""
    limits = {"X-RateLimit-Limit-Requests": "10", "X-Ratelimit-Remaining-Requests": "9"}
    async with playing({**ANSWER, "headers": limits}) as playback:
        adapter = make_adapter("openai", playback.url)

        (seen,) = (await adapter.chat_completion(ASK, timeout_s=5)).observations

        assert (seen.scope, seen.limit, seen.remaining) == ("requests", 10, 9)
        await adapter.aclose()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("raw", ["", "SSH-2.0-OpenSSH_9.9\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx"])
async def test_key_hangs_on_no_transport_error(raw: str, stream: bool) -> None:
    """The HTTP library's own errors hold our headers; none of them may travel along."""
    async with playing({"raw": raw}) as playback:
        adapter = make_adapter("openai", playback.url)
        call: Any = collect(adapter, ASK) if stream else adapter.chat_completion(ASK, timeout_s=5)

        with pytest.raises(UpstreamError) as caught:
            await call

        error: BaseException | None = caught.value
        while error is not None:
            assert KEY not in repr(error)
            error = error.__cause__ or error.__context__
        await adapter.aclose()


async def test_unreachable_server_is_not_billed_and_named_without_secrets() -> None:
    """Nothing was sent; the message says which address and what to check."""
    async with playing(ANSWER) as playback:
        url = playback.url
    adapter = make_adapter("openai", url)

    with pytest.raises(UpstreamError) as caught:
        await adapter.chat_completion(ASK, timeout_s=5)

    error = caught.value
    assert (error.kind, error.billed) == (UpstreamKind.CONNECTION, False)
    assert url in error.message
    assert "base_url" in error.message
    assert pickle.loads(pickle.dumps(error)) == error
    await adapter.aclose()


@pytest.mark.parametrize("status", [429, 500, 503, 529])
async def test_refusals_are_never_retried(status: int) -> None:
    """Retrying is the dispatcher's decision: one call is one request."""
    async with playing({"status": status, "json": {}, "headers": {"x-should-retry": "true"}}) as playback:
        adapter = make_adapter("openai", playback.url)

        with pytest.raises(UpstreamError):
            await adapter.chat_completion(ASK, timeout_s=5)

        assert len(playback.sent) == 1
        await adapter.aclose()


async def test_accounts_share_connections_but_no_cookies() -> None:
    """One client serves an actor's accounts; a session cookie of one must not follow another."""
    answer = {**ANSWER, "headers": {"set-cookie": "session=of-the-first; Path=/"}}
    async with playing(answer) as playback:
        # By name: cookies of bare addresses are dropped by some libraries anyway.
        url = playback.url.replace("127.0.0.1", "localhost")
        first, second = make_adapter("openai", url), make_adapter("custom", url)

        await first.chat_completion(ASK, timeout_s=5)
        await first.aclose()
        await second.chat_completion(ASK, timeout_s=5)
        await second.chat_completion(ASK, timeout_s=5)

        assert all("cookie" not in sent.headers for sent in playback.sent)
        await second.aclose()
        assert asyncio.get_running_loop() not in http_client._shared_by_loop


async def test_streams_leave_their_connection_for_the_next_call() -> None:
    """A finished stream is read to its end, so its connection is kept."""
    response = sse(chunk({"content": "Here."}), chunk({}, "stop"))
    # The response's end comes a moment after [DONE], as over a real network.
    async with playing({**response, "pause_s": 0.03}) as playback:
        adapter = make_adapter("openai", playback.url)
        for _ in range(3):
            await collect(adapter, ASK)

        assert playback.connections == 1
        await adapter.aclose()


async def test_closing_lets_running_calls_end_and_refuses_new_ones() -> None:
    """A changed configuration drops no request."""
    async with playing({**ANSWER, "pause_s": 0.3}) as playback:
        adapter = make_adapter("openai", playback.url)
        running = asyncio.create_task(adapter.chat_completion(ASK, timeout_s=5))
        await asyncio.wait_for(playback.arrived.wait(), 1)

        await adapter.aclose()

        assert running.done()
        assert (await running).text == "Here."
        with pytest.raises(UpstreamError):
            await adapter.chat_completion(ASK, timeout_s=5)
        await adapter.aclose()
