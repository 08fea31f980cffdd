"""A simulated provider's endpoint for a test module: its process, renewed for every test, and an adapter that calls it.

Used as ``process, simulator, adapter = AT.fixtures()`` in the module, where ``AT`` is an ``Endpoint``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import pytest
import yaml

from app.domain.accounts import AccountSpec, EndpointClass, ModelInfo, Provider
from app.providers.base import ProviderAdapter
from app.providers.registry import create
from tests.fakes.simulated import Simulator, running_simulator

Made = TypeVar("Made", bound=ProviderAdapter)

GOOD, GONE = "sk-good", "sk-gone"
"""Keys: the second is revoked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint(Generic[Made]):
    """What is simulated, and how it is called."""

    adapter_class: type[Made]
    endpoint: EndpointClass
    simulated: Mapping[str, object] = field(default_factory=dict)
    """Of the simulator's configuration, beside its keys."""
    faults: Sequence[Mapping[str, object]] = ()
    """While a test runs."""
    account: Mapping[str, Any] = field(default_factory=dict)
    """Of the account, beside its address and its key."""

    def adapter(self, simulator: Simulator, key: str = GOOD) -> Made:
        """Return an adapter of its own; whoever asks closes it."""
        account = AccountSpec(
            name="a",
            provider=Provider.OPENAI,
            api_key=key,
            base_url=f"{simulator.url}/v1",
            endpoint=self.endpoint,
            **{"models": (("m", "m"),), **self.account},
        )
        made = create(account, [ModelInfo(name="m", family="f")])
        assert isinstance(made, self.adapter_class)
        return made

    def fixtures(self) -> tuple[Callable[..., object], Callable[..., object], Callable[..., object]]:
        """Return the fixtures ``process`` (one per module), ``simulator`` and ``adapter``, to be named so."""

        @pytest.fixture(scope="module")
        def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
            file = tmp_path_factory.mktemp("provider") / "provider.yaml"
            keys = [{"key": GOOD}, {"key": GONE, "state": "revoked"}]
            file.write_text(yaml.safe_dump({"port": 0, "keys": keys, **self.simulated}), encoding="utf-8")
            with running_simulator(file) as running:
                yield running

        @pytest.fixture
        def simulator(process: Simulator) -> Simulator:
            process.reset()
            process.control({"faults": list(self.faults), "replies": []})
            return process

        @pytest.fixture
        async def adapter(simulator: Simulator) -> AsyncIterator[Made]:
            made = self.adapter(simulator)
            yield made
            await made.aclose()

        return process, simulator, adapter


def bills(simulator: Simulator) -> int:
    """Return how many requests the provider billed."""
    return int(simulator.stats()["total"]["billed_requests"])
