"""Provider-specific fields: they arrive where the provider knows them and are refused by name where it does not."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from app.domain.errors import RequestError, UpstreamError
from tests.contract.playback import playing
from tests.contract.replay import build_request, make_adapter

ANSWER = {"json": {"choices": [{"index": 0, "message": {"content": "Here."}, "finish_reason": "stop"}]}}
ASK: dict[str, Any] = {"messages": [{"role": "user", "text": "x"}]}


@pytest.mark.parametrize(
    ("provider", "extra", "sent"),
    [
        ("openai", {"store": True, "metadata": {"team": "a"}}, {"store": True, "metadata": {"team": "a"}}),
        ("deepseek", {"frequency_penalty": 0}, {"frequency_penalty": 0}),
        ("qwen", {"enable_search": True, "top_k": 4}, {"enable_search": True, "top_k": 4}),
        ("custom", {"anything": [1, {"a": None}]}, {"anything": [1, {"a": None}]}),
        ("anthropic", {"top_k": 4, "service_tier": "auto"}, {"top_k": 4, "service_tier": "auto"}),
        ("anthropic", {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}}, {}),
        ("gemini", {"safetySettings": [], "frequency_penalty": 0}, {"safetySettings": []}),
        ("gemini", {"generationConfig": {"topK": 4}}, {"generationConfig": {"topK": 4}}),
    ],
)
async def test_extra_field_goes_to_a_provider_that_knows_it(
    provider: str, extra: dict[str, Any], sent: dict[str, Any]
) -> None:
    """Fields arrive as they are; only one that asks for what is done anyway may stay behind."""
    async with playing(ANSWER) as playback:
        adapter = make_adapter(provider, playback.url)
        bare = build_request(ASK)
        ask = replace(bare, extra=tuple((name, json.dumps(value)) for name, value in extra.items()))

        for request in (bare, ask):
            # The answer speaks one provider's format; only what was sent counts here.
            with suppress(UpstreamError):
                await adapter.chat_completion(request, timeout_s=5)

        plain, full = (seen.body for seen in playback.sent)
        assert full == {**plain, **sent}
        await adapter.aclose()


@pytest.mark.parametrize(
    ("provider", "fields", "param"),
    [
        ("anthropic", {"extra": [["logit_bias", '{"1":5}']]}, "logit_bias"),
        ("anthropic", {"extra": [["frequency_penalty", "0.5"]]}, "frequency_penalty"),
        ("anthropic", {"extra": [["store", "true"]]}, "store"),
        ("anthropic", {"extra": [["metadata", '{"team":"a"}']], "user": "u"}, "metadata"),
        ("anthropic", {"extra": [["thinking", '{"type":"disabled"}']], "reasoning_effort": "high"}, "thinking"),
        ("gemini", {"extra": [["top_k", "4"]]}, "top_k"),
        ("gemini", {"extra": [["prompt_cache_key", '"k"']]}, "prompt_cache_key"),
        ("gemini", {"extra": [["contents", "[]"]]}, "contents"),
        ("custom", {"extra": [["deep", "[" * 260 + "]" * 260]]}, "messages"),
    ],
)
async def test_extra_field_that_a_provider_does_not_know_is_refused_by_name(
    provider: str, fields: dict[str, Any], param: str
) -> None:
    """Nothing is dropped in silence, and nothing is sent."""
    async with playing(ANSWER) as playback:
        adapter = make_adapter(provider, playback.url)

        with pytest.raises(RequestError) as caught:
            await adapter.chat_completion(build_request({**ASK, **fields}), timeout_s=5)

        assert caught.value.param == param
        assert playback.sent == []
        await adapter.aclose()
