"""Embeddings through the real adapters against the simulator: vectors, usage, limits and dead keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import yaml

from app.domain.accounts import AccountSpec, ModelInfo, Provider
from app.domain.errors import UpstreamError, UpstreamKind
from app.domain.gateway import EmbeddingRequest
from app.providers.base import ProviderAdapter
from app.providers.registry import create
from app.simulator.embeddings import embed
from tests.fakes.simulated import Simulator, running_simulator

PATHS = {"openai": "/v1", "qwen": "/compatible-mode/v1", "custom": "/v1", "gemini": ""}
ASK = EmbeddingRequest(model="the-model", inputs=("an apple pie", "law"), dimensions=16)


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    path = tmp_path_factory.mktemp("embeddings") / "sim.yaml"
    keys = [{"key": "sk-good"}, {"key": "sk-revoked", "state": "revoked"}]
    keys += [{"key": f"sk-limited-{name}", "limits": {"rpm": 1}} for name in PATHS]  # type: ignore[dict-item]
    path.write_text(yaml.safe_dump({"host": "127.0.0.1", "port": 0, "models": {"the-model": {}}, "keys": keys}))
    with running_simulator(path) as running:
        yield running


def make(simulator: Simulator, provider: str, key: str) -> ProviderAdapter:
    """Return the registry's adapter."""
    account = AccountSpec(
        name="a",
        provider=Provider(provider),
        api_key=key,
        base_url=simulator.url + PATHS[provider],
        models=(("the-model", "the-model"),),
    )
    return create(account, [ModelInfo(name="the-model", family=provider, kind="embedding")])


@pytest.fixture(params=PATHS)
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def adapter(simulator: Simulator, provider: str) -> AsyncIterator[ProviderAdapter]:
    made = make(simulator, provider, "sk-good")
    yield made
    await made.aclose()


async def test_vectors_come_back_in_order_with_their_usage(adapter: ProviderAdapter) -> None:
    """Whatever the wire, the same texts have the same vectors."""
    result = await adapter.embed(ASK, timeout_s=5)

    assert [list(vector) for vector in result.vectors] == [pytest.approx(embed(text, 16)) for text in ASK.inputs]
    assert result.source == "provider"
    assert result.input_tokens > 0


async def test_limit_of_the_key_counts_embeddings_too(simulator: Simulator, provider: str) -> None:
    """An account's limits hold whatever is asked of it."""
    made = make(simulator, provider, f"sk-limited-{provider}")
    await made.embed(ASK, timeout_s=5)
    with pytest.raises(UpstreamError) as caught:
        await made.embed(ASK, timeout_s=5)
    await made.aclose()

    assert caught.value.kind is UpstreamKind.MINUTE_LIMIT


async def test_revoked_key_is_dead_for_embeddings_too(simulator: Simulator, provider: str) -> None:
    """It is parked, whatever found it out."""
    made = make(simulator, provider, "sk-revoked")
    with pytest.raises(UpstreamError) as caught:
        await made.embed(ASK, timeout_s=5)
    await made.aclose()

    assert caught.value.kind is UpstreamKind.DEAD_KEY
