"""The official SDKs against a real server, unmodified: whatever they speak, whichever provider answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.conftest import ServeIt, Server
from tests.fakes import gateway_matrix, gateway_pool
from tests.fakes.gateway_matrix import Clients, clients_of
from tests.fakes.simulated import Simulator

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """The simulator behind the server."""
    with gateway_pool.running_pool(tmp_path_factory.mktemp("provider")) as running:
        yield running


@pytest.fixture(scope="module")
def server(serve_it: ServeIt, provider: Simulator) -> Server:
    """One server for all tests of the module."""
    return serve_it(gateway_pool.configuration(provider.url))


@pytest.fixture(scope="module")
def clients(server: Server) -> Clients:
    """SDKs with the key of everybody."""
    return clients_of(server.url)


@pytest.mark.parametrize(("form", "behind", "feature"), gateway_matrix.CELLS)
def test_every_format_reaches_every_provider(clients: Clients, form: str, behind: str, feature: str) -> None:
    """A cell of the conformance matrix in docs/compatibility.md."""
    gateway_matrix.CHECKS[form, feature](clients, gateway_pool.MODELS[behind])
