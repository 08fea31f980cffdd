"""What providers are told of our traces: nothing, unless the operator says so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.domain.trace_context import TraceContext, use
from tests.contract.playback import ANSWER, playing
from tests.contract.replay import build_request, make_adapter

ASK = build_request({"messages": [{"role": "user", "text": "Where is it?"}]})
TRACE = TraceContext(trace_id="ab" * 16, span_id="cd" * 8, sampled=True, state="vendor=others")


@pytest.mark.parametrize("provider", ["openai", "deepseek", "custom"])
@pytest.mark.parametrize("shared", [False, True])
async def test_provider_hears_of_a_trace_only_where_it_is_shared(provider: str, shared: bool) -> None:
    """An id that links a person's requests is theirs to give away; what others put into ``tracestate`` never leaves."""
    async with playing(ANSWER) as playback:
        adapter = make_adapter(provider, playback.url)
        with use(replace(TRACE, shared=shared)):
            await adapter.chat_completion(ASK, timeout_s=5)
        await adapter.aclose()
        headers = {name.lower(): value for name, value in playback.sent[0].headers.items()}

        assert headers.get("traceparent") == (TRACE.parent if shared else None)
        assert "tracestate" not in headers
