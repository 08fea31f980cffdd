"""The whole way on a real cluster: told by its processes, kept, shipped by its actor into the real Elasticsearch."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
import yaml

from actors import bootstrap
from actors.desk_handle import DeskHandle
from actors.event_handles import OutboxHandle, SpoolHandle
from actors.log_shipper_handle import LOG_SHIPPER, LogShipperHandle
from app import settings
from app.domain.errors import GatewayError
from app.domain.run import RunRequest
from tests.fakes import pool
from tests.fakes.elastic_faults import Fault, faulty_elastic
from tests.fakes.kept_events import kept_events
from tests.fakes.scripted import ENGLISH
from tests.fakes.simulated import running_simulator
from tests.fixtures.elasticsearch_server import ElasticsearchServer
from tests.integration.conftest import ended

pytestmark = pytest.mark.ray

PREFIX = "cluster-events"
SPOILED = (Fault.RESET_AFTER, Fault.BUSY, Fault.SHORT, Fault.SOME_BUSY, Fault.RESET_BEFORE)


def told_before(data_dir: Path, at_ns: int) -> list[str]:
    """Return the ids of all events of this machine until then, as they are kept on it."""
    return sorted(event.event_id for event in kept_events(data_dir) if event.time_ns < at_ns)


async def shipped(namespace: str) -> None:
    """Wait until nothing waits; what is told every minute may come meanwhile."""
    async with asyncio.timeout(120):
        while True:
            with contextlib.suppress(GatewayError):
                left = [await source.backlog() for source in (SpoolHandle(namespace), OutboxHandle(namespace))]
                if all(one.count == 0 for one in left) and await LogShipperHandle(namespace).states():
                    return
            await asyncio.sleep(0.2)


async def word(desk: DeskHandle, holds: Callable[[str], bool]) -> str:
    """Wait until what readiness says of events satisfies ``holds``."""
    async with asyncio.timeout(60):
        while True:
            said = (await desk.ready()).get("events", "")
            if holds(said):
                return said
            await asyncio.sleep(0.3)


@pytest.mark.timeout(500)
async def test_events_of_a_run_reach_elasticsearch_once_though_requests_fail_and_the_shipper_is_killed(
    ray_cluster: None, elasticsearch: ElasticsearchServer, tmp_path: Path
) -> None:
    """Readiness tells what is wrong while a key is refused, and that all is well afterwards."""
    path = tmp_path / "sim.yaml"
    path.write_text(yaml.safe_dump({"host": "127.0.0.1", "port": 0, **pool.FAST}), encoding="utf-8")
    namespace, data_dir = f"ships-{uuid.uuid4().hex[:8]}", tmp_path / "data"
    with running_simulator(path) as simulator, faulty_elastic(elasticsearch.url) as proxy:
        simulator.reset()  # it knows the story then
        proxy.chooser = lambda: Fault.LOCKED_OUT
        events = {"elasticsearch": {"url": proxy.url, "index_prefix": PREFIX}}
        configuration = {**pool.three_accounts(simulator.url), "data_dir": str(data_dir), "events": events}
        desk = await bootstrap.ensure(settings.load_mapping(configuration, source="test"), namespace=namespace)
        try:
            refused = await word(desk, lambda said: "refuses our key" in said)
            proxy.chooser = lambda: None
            proxy.next.extend(SPOILED)
            record = await desk.start(RunRequest(text=ENGLISH.request))
            ray.kill(ray.get_actor(LOG_SHIPPER, namespace), no_restart=False)
            await ended(desk, record.run_id)
            # Tellers hand events over once a second.
            await asyncio.sleep(2)
            at_ns = time.time_ns() - 1_000_000_000
            await shipped(namespace)
            told = told_before(data_dir, at_ns)
            well = await word(desk, lambda said: said == "ok")
        finally:
            await bootstrap.end(namespace=namespace, timeout_s=5.0)
    stored = Counter(elasticsearch.ids(f"{PREFIX}-*"))

    assert refused.startswith("ok; ")
    assert well == "ok"
    assert len(told) > 20
    assert set(told) <= set(stored)
    assert set(stored.values()) == {1}
    sources = elasticsearch.sources(f"{PREFIX}-*")
    assert {"run.accepted", "run.finished", "call.finished", "configuration.changed"} <= {
        source["event.action"] for source in sources
    }
    assert len(proxy.played) > 2
