"""Which adapter serves which provider: one row here, or one entry point of an installed package.

A plugin package registers ``[project.entry-points."tutti.providers"] name = "package.module:create"`` with a function
of the same signature as the ones here. An account takes it by ``provider: name``, or by the option ``adapter: name``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points

from app.domain.accounts import AccountSpec, ModelInfo, Provider
from app.domain.errors import ConfigurationError
from app.providers import anthropic, gemini, local, openai_compat
from app.providers.base import ProviderAdapter

ENTRY_POINT_GROUP = "tutti.providers"

AdapterFactory = Callable[[AccountSpec, Sequence[ModelInfo]], ProviderAdapter]

_FACTORIES: dict[str, AdapterFactory] = {
    Provider.OPENAI.value: openai_compat.create_openai,
    Provider.ANTHROPIC.value: anthropic.create,
    Provider.GEMINI.value: gemini.create,
    Provider.DEEPSEEK.value: openai_compat.create_deepseek,
    Provider.QWEN.value: openai_compat.create_qwen,
    Provider.CUSTOM.value: openai_compat.create_custom,
    Provider.LOCAL.value: local.create,
}


def create(account: AccountSpec, models: Sequence[ModelInfo]) -> ProviderAdapter:
    """Return a new adapter of ``account``; it makes no connection before its first call.

    Args:
        account: Whose calls it makes.
        models: What is known of the models that the account serves.

    Raises:
        ConfigurationError: the provider is unknown, its plugin does not load, or key or address cannot be used.
    """
    name = dict(account.options).get("adapter") or str(account.provider)
    factory = _FACTORIES.get(name) or _plugin(name)
    if factory is None:
        raise ConfigurationError(
            f"account {account.name!r} names the unknown provider {name!r}",
            param="provider",
            remedy=f"use one of {', '.join(providers())}, or install the package that brings it",
        )
    return factory(account, models)


def providers() -> tuple[str, ...]:
    """Return the names of all providers, plugins included."""
    return (*_FACTORIES, *sorted({point.name for point in _entry_points()} - set(_FACTORIES)))


def _plugin(name: str) -> AdapterFactory | None:
    for point in _entry_points():
        if point.name == name:
            try:
                factory: AdapterFactory = point.load()
            except (ImportError, AttributeError) as error:
                raise ConfigurationError(
                    f"the plugin of provider {name!r} cannot be loaded ({type(error).__name__})",
                    param="provider",
                    remedy=f"reinstall the package that offers {point.value!r}",
                ) from error
            return factory
    return None


def _entry_points() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=ENTRY_POINT_GROUP))
