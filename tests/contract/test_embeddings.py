"""Embeddings of every provider that has them, against recordings: what we send, and how we read what comes back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from app.domain.errors import RequestError, UpstreamError, UpstreamKind
from app.domain.gateway import EmbeddingRequest, EmbeddingResult
from tests.contract.playback import Playback, playing, recording, recordings
from tests.contract.replay import KEY, MODEL, make_adapter

SPEAKING = ("openai", "qwen", "custom", "gemini")


async def embed(provider: str, request: EmbeddingRequest, response: dict[str, Any]) -> tuple[EmbeddingResult, Playback]:
    """Return the vectors that the real adapter reads of ``response``, and the server with what it was sent."""
    async with playing(response) as playback:
        adapter = make_adapter(provider, playback.url)
        try:
            return await adapter.embed(request, timeout_s=5), playback
        finally:
            await adapter.aclose()


def ask(**fields: Any) -> EmbeddingRequest:
    """Return a request for the test's model."""
    return EmbeddingRequest(
        **{"model": MODEL, **fields, "inputs": tuple(fields["inputs"]), "extra": tuple(fields.get("extra", {}).items())}
    )


@pytest.mark.parametrize("name", recordings("embeddings"))
async def test_adapter_sends_and_reads_as_recorded(name: str) -> None:
    """Requests are translated field by field; vectors come out in the order of their inputs."""
    record = recording(name)
    result, playback = await embed(record["provider"], ask(**record["ask"]), record["response"])
    (sent,) = playback.sent

    assert (sent.method, sent.path, sent.body) == ("POST", record["request"]["path"], record["request"]["body"])
    for header, value in record["request"]["headers"].items():
        assert sent.headers[header] == value.replace("$KEY", KEY)
    assert [list(vector) for vector in result.vectors] == record["expect"]["vectors"]
    assert [asdict(seen) for seen in result.observations] == record["expect"]["observations"]
    for field in ("input_tokens", "model", "source"):
        assert getattr(result, field) == record["expect"][field]


@pytest.mark.parametrize("provider", ["anthropic", "deepseek"])
async def test_provider_without_embeddings_refuses_the_model(provider: str) -> None:
    """Nothing is sent where nobody could answer."""
    async with playing({"json": {}}) as playback:
        adapter = make_adapter(provider, playback.url)
        with pytest.raises(RequestError) as caught:
            await adapter.embed(ask(inputs=["pie"]), timeout_s=5)
        await adapter.aclose()

    assert caught.value.param == "model"
    assert playback.sent == []


@pytest.mark.parametrize(
    ("provider", "fields", "param"),
    [
        ("openai", {"inputs": []}, "input"),
        ("openai", {"inputs": ["a", ""]}, "input[1]"),
        ("openai", {"inputs": ["a"] * 2_049}, "input"),
        ("qwen", {"inputs": ["a"] * 11, "model": "text-embedding-v4"}, "input"),
        ("qwen", {"inputs": ["a"] * 26, "model": "text-embedding-v2"}, "input"),
        ("gemini", {"inputs": ["a"] * 101}, "input"),
        ("gemini", {"inputs": ["a"], "user": "u"}, "user"),
        ("openai", {"inputs": ["a"], "extra": {"input": '"b"'}}, "input"),
        ("gemini", {"inputs": ["a"], "extra": {"taskType": "{"}}, "taskType"),
    ],
)
async def test_refusal_names_the_field_and_sends_nothing(provider: str, fields: dict[str, Any], param: str) -> None:
    """What a provider has no word or room for is said before it costs a call."""
    async with playing({"json": {}}) as playback:
        adapter = make_adapter(provider, playback.url)
        with pytest.raises(RequestError) as caught:
            await adapter.embed(ask(**fields), timeout_s=5)
        await adapter.aclose()

    assert caught.value.param == param
    assert playback.sent == []


@pytest.mark.parametrize(
    "data",
    [
        [],
        [{"index": 0}],
        [{"index": 0, "embedding": []}],
        [{"index": 0, "embedding": [0.5, "x"]}],
        [{"index": 0, "embedding": [0.5, True]}],
        [{"index": 0, "embedding": [1e300]}],
        [{"index": 0, "embedding": "no base64!"}],
        [{"index": 0, "embedding": "AAAA"}],
        [{"index": 0, "embedding": "AADAfw=="}],
        [{"index": 0, "embedding": [0.5]}, {"index": 1, "embedding": [0.5]}],
    ],
)
async def test_vector_that_is_none_is_garbage(data: list[Any]) -> None:
    """A client never gets fewer, other or broken vectors for a success."""
    with pytest.raises(UpstreamError) as caught:
        await embed("openai", ask(inputs=["a"]), {"json": {"object": "list", "data": data}})

    assert caught.value.kind is UpstreamKind.GARBAGE
    assert caught.value.billed is True


@pytest.mark.parametrize("provider", SPEAKING)
@pytest.mark.parametrize(
    ("status", "kind"), [(429, UpstreamKind.MINUTE_LIMIT), (401, UpstreamKind.DEAD_KEY), (500, UpstreamKind.OVERLOADED)]
)
async def test_refusal_of_the_provider_is_classified_as_for_chat(
    provider: str, status: int, kind: UpstreamKind
) -> None:
    """Whose fault it is decides what happens to the account, whatever was asked."""
    response = {"status": status, "json": {"error": {"message": "SECRET-OF-THE-BODY"}}}
    with pytest.raises(UpstreamError) as caught:
        await embed(provider, ask(inputs=["a"]), response)

    assert caught.value.kind is kind
    assert "SECRET-OF-THE-BODY" not in f"{caught.value!r} {caught.value.__dict__!r}"


async def test_cancelled_call_closes_its_connection() -> None:
    """A client that left must not leave a call behind."""
    response = {"pieces": ['{"object":'], "ending": "hang"}
    async with playing(response) as playback:
        adapter = make_adapter("openai", playback.url)
        with pytest.raises(UpstreamError) as caught:
            await adapter.embed(ask(inputs=["a"]), timeout_s=0.2)
        await playback.hung_up.wait()
        await adapter.aclose()

    assert caught.value.kind is UpstreamKind.TIMEOUT
