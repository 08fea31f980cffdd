"""What integration and acceptance tests share: one real Ray cluster, simulators, and configurations for them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from actors import bootstrap, cluster
from actors.desk_handle import DeskHandle
from app import settings
from app.domain.run import RunEvent, RunRequest
from tests.fakes import pool
from tests.fakes.simulated import Simulator, running_simulator
from tests.fixtures.elasticsearch_server import ElasticsearchServer, running_elasticsearch
from tests.fixtures.stores import engine_name, place, postgres

__all__ = ["engine_name", "place", "postgres"]

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One private Ray cluster for the whole session; every test uses a namespace of its own on it."""
    cluster.start_local(namespace="tests")
    yield
    cluster.stop()


@pytest.fixture(scope="session")
def elasticsearch() -> Iterator[ElasticsearchServer]:
    """The session's real Elasticsearch; every test uses indices of its own on it."""
    with running_elasticsearch() as server:
        yield server


Simulate = Callable[[dict[str, Any]], Simulator]


@pytest.fixture
def simulate(tmp_path: Path) -> Iterator[Simulate]:
    """Return a function that starts a simulator process with a configuration."""
    with contextlib.ExitStack() as stack:

        def start(configuration: dict[str, Any]) -> Simulator:
            path = tmp_path / f"sim-{next(_numbers)}.yaml"
            path.write_text(yaml.safe_dump({"host": "127.0.0.1", "port": 0, **configuration}, allow_unicode=True))
            return stack.enter_context(running_simulator(path))

        yield start


@dataclass(frozen=True)
class Stage:
    """A simulator that plays the stories, and a desk whose accounts are all played by it."""

    simulator: Simulator
    desk: DeskHandle
    namespace: str

    async def play(self, text: str, *, within_s: float = 60.0, **request: Any) -> dict[str, Any]:
        """Conduct a request to its document."""
        record = await self.desk.start(RunRequest(text=text, **request))
        return await ended(self.desk, record.run_id, within_s=within_s)

    async def events(self, run_id: str) -> list[RunEvent]:
        """Return every event of a run so far."""
        found: list[RunEvent] = []
        while batch := await self.desk.events(run_id, found[-1].seq if found else 0, wait_s=0.0):
            found.extend(batch)
        return found


@pytest.fixture(scope="module")
def shared_stage(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One simulator and one desk with three accounts for all tests of a module."""
    folder = tmp_path_factory.mktemp("stage")
    path = folder / "sim.yaml"
    path.write_text(yaml.safe_dump({"host": "127.0.0.1", "port": 0, **pool.FAST}), encoding="utf-8")
    namespace = f"stage-{uuid.uuid4().hex[:8]}"
    with running_simulator(path) as simulator:
        configuration = {**pool.three_accounts(simulator.url), "data_dir": str(folder / "data")}
        orchestra = settings.load_mapping(configuration, source="test")
        desk = asyncio.run(bootstrap.ensure(orchestra, namespace=namespace))
        yield Stage(simulator=simulator, desk=desk, namespace=namespace)
        asyncio.run(bootstrap.end(namespace=namespace, timeout_s=5.0))


@pytest.fixture
def stage(shared_stage: Stage) -> Stage:
    """The module's stage as new: stories, no faults, counts at zero."""
    shared_stage.simulator.reset()
    return shared_stage


OpenDesk = Callable[[dict[str, Any]], "contextlib.AbstractAsyncContextManager[DeskHandle]"]


@pytest.fixture
def open_desk(ray_cluster: None, tmp_path: Path) -> OpenDesk:
    """Return a context manager that starts our actors in a fresh namespace for a configuration, and ends them."""

    @contextlib.asynccontextmanager
    async def opened(configuration: dict[str, Any]) -> AsyncIterator[DeskHandle]:
        namespace = f"test-{uuid.uuid4().hex[:8]}"
        data_dir = configuration.get("data_dir", str(tmp_path / f"data-{next(_numbers)}"))
        orchestra = settings.load_mapping({**configuration, "data_dir": data_dir}, source="test")
        desk = await bootstrap.ensure(orchestra, namespace=namespace)
        opened_desk: Any = desk
        opened_desk.namespace = namespace
        try:
            yield desk
        finally:
            await bootstrap.end(namespace=namespace, timeout_s=5.0)

    return opened


async def ended(desk: DeskHandle, run_id: str, *, within_s: float = 60.0) -> dict[str, Any]:
    """Wait until the run has ended or waits for answers; return its document."""
    async with asyncio.timeout(within_s):
        seq = 0
        while True:
            record = await desk.get(run_id)
            if record.document is not None:
                return dict(record.document)
            for event in await desk.events(run_id, seq, wait_s=5.0):
                seq = event.seq


async def until(holds: Callable[[], bool], *, within_s: float = 10.0) -> None:
    """Wait until ``holds``, looking ten times a second."""
    async with asyncio.timeout(within_s):
        while not await asyncio.to_thread(holds):  # noqa: ASYNC110  another process is watched
            await asyncio.sleep(0.1)
