"""A provider is one row, or one entry point of an installed package."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from app.domain.accounts import AccountSpec, ModelInfo, Provider, StructuredOutput
from app.domain.chat import ChatRequest, Message, Role
from app.domain.errors import ConfigurationError, NotFoundError
from app.providers import registry
from app.providers.wire import ModelTable

ACCOUNT = AccountSpec(name="a", provider=Provider.CUSTOM, options=(("adapter", "plugged"),))


def plug(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    point = EntryPoint(name="plugged", value=value, group=registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "_entry_points", lambda: (point,))


async def test_plugin_package_brings_a_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file of ours changes for a new provider."""
    plug(monkeypatch, "app.providers.local:create")

    adapter = registry.create(ACCOUNT, [])

    assert type(adapter).__name__ == "LocalAdapter"
    assert "plugged" in registry.providers()
    await adapter.aclose()


@pytest.mark.parametrize("value", ["no.such.package:create", "app.providers.local:no_such_function"])
def test_plugin_that_does_not_load_is_a_mistake_in_the_configuration(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """An operator reads which one."""
    plug(monkeypatch, value)

    with pytest.raises(ConfigurationError, match="plugged"):
        registry.create(ACCOUNT, [])


def test_models_are_found_by_public_and_by_upstream_name() -> None:
    """Adapters see the upstream's name, people the public one."""
    account = AccountSpec(name="a", provider=Provider.CUSTOM, models=(("public", "upstream-2026"),))
    model = ModelInfo(name="public", family="f", chars_per_token=2.0)
    table = ModelTable(account, [model], StructuredOutput.NONE)

    assert table.get("public") is table.get("upstream-2026") is model
    assert table.assume("unknown").structured is StructuredOutput.NONE
    with pytest.raises(NotFoundError):
        table.get("unknown")


def test_denser_models_are_estimated_to_need_more_tokens() -> None:
    """The estimate follows the model's characters per token."""
    account = AccountSpec(name="a", provider=Provider.CUSTOM, models=(("dense", "dense"), ("plain", "plain")))
    models = [ModelInfo(name="dense", family="f", chars_per_token=2.0), ModelInfo(name="plain", family="f")]
    table = ModelTable(account, models, StructuredOutput.NONE)
    messages = (Message(role=Role.USER, text="word " * 200),)

    dense, plain = (table.tokens(ChatRequest(model=name, messages=messages)) for name in ("dense", "plain"))

    assert plain > 200
    assert abs(dense - 2 * plain) <= 1
