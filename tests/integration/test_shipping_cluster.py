"""The whole way on a real cluster: told by its processes, kept, shipped by its actor into the real Elasticsearch."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from actors import bootstrap
from actors.desk_handle import DeskHandle
from actors.event_handles import OutboxHandle, SpoolHandle
from actors.log_shipper_handle import LOG_SHIPPER, LogShipperHandle
from app import settings
from app.domain.books.budgets import Owners
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
ADA, EVE = "ada-of-the-tests", "eve-of-the-tests"
SPOILED = (Fault.RESET_AFTER, Fault.BUSY, Fault.SHORT, Fault.SOME_BUSY, Fault.RESET_BEFORE)


def told_before(data_dir: Path, at_ns: int) -> list[str]:
    """Return the ids of all events of this machine until then, as they are kept on it."""
    return sorted(event.event_id for event in kept_events(data_dir) if event.time_ns < at_ns)


def naming(user: str, documents: Sequence[dict[str, Any]]) -> Counter[str]:
    """Return how many of them name the user, in whatever field; by what they tell."""
    return Counter(str(document["event.action"]) for document in documents if user in json.dumps(document))


def forget(user: str, config: Path) -> dict[str, int]:
    """Run the command as an operator does; return how many events it says it deleted, by place."""
    command = [sys.executable, "-m", "app.cli", "events", "forget", "--user", user, "--config", str(config), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout)["deleted"])


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
async def test_events_of_runs_reach_elasticsearch_once_whatever_fails_and_those_of_a_person_can_be_deleted(
    ray_cluster: None, elasticsearch: ElasticsearchServer, tmp_path: Path
) -> None:
    """Requests fail, the shipper is killed; readiness tells what is wrong, and that all is well afterwards."""
    path = tmp_path / "sim.yaml"
    path.write_text(yaml.safe_dump({"host": "127.0.0.1", "port": 0, **pool.FAST}), encoding="utf-8")
    namespace, data_dir = f"ships-{uuid.uuid4().hex[:8]}", tmp_path / "data"
    with running_simulator(path) as simulator, faulty_elastic(elasticsearch.url) as proxy:
        simulator.reset()  # it knows the story then
        proxy.chooser = lambda: Fault.LOCKED_OUT
        events = {"elasticsearch": {"url": proxy.url, "index_prefix": PREFIX}}
        budget = {"for": f"user:{ADA}", "window": "total", "tokens": 10, "hard": False}
        accounts = pool.three_accounts(simulator.url)
        configuration = {**accounts, "budgets": [budget], "data_dir": str(data_dir), "events": events}
        config = tmp_path / "tutti.yaml"
        config.write_text(yaml.safe_dump(configuration), encoding="utf-8")
        desk = await bootstrap.ensure(settings.load_mapping(configuration, source="test"), namespace=namespace)
        try:
            refused = await word(desk, lambda said: "refuses our key" in said)
            proxy.chooser = lambda: None
            proxy.next.extend(SPOILED)
            requests = [RunRequest(text=ENGLISH.request, buyers=Owners(user=user)) for user in (ADA, EVE)]
            runs = [(await desk.start(request)).run_id for request in requests]
            ray.kill(ray.get_actor(LOG_SHIPPER, namespace), no_restart=False)
            for run_id in runs:
                await ended(desk, run_id)
            # Tellers hand events over once a second.
            await asyncio.sleep(2)
            at_ns = time.time_ns() - 1_000_000_000
            await shipped(namespace)
            told = told_before(data_dir, at_ns)
            well = await word(desk, lambda said: said == "ok")
            stored = Counter(elasticsearch.ids(f"{PREFIX}-*"))
            sources = elasticsearch.sources(f"{PREFIX}-*")
            proxy.next.clear()
            deleted = await asyncio.to_thread(forget, ADA, config)
            left = elasticsearch.sources(f"{PREFIX}-*")
            here = [json.loads(event.body) for event in kept_events(data_dir)]
        finally:
            await bootstrap.end(namespace=namespace, timeout_s=5.0)

    assert refused.startswith("ok; ")
    assert well == "ok"
    assert len(told) > 20
    assert set(told) <= set(stored)
    assert set(stored.values()) == {1}
    actions = {source["event.action"] for source in sources}
    assert {"run.accepted", "run.finished", "call.finished", "budget.alert", "configuration.changed"} <= actions
    assert len(proxy.played) > 2
    assert naming(ADA, sources).total() == deleted["elasticsearch"] > 5, naming(ADA, left)
    assert (naming(ADA, left), naming(ADA, here)) == (Counter(), Counter())
    assert naming(EVE, left) == naming(EVE, sources)
    assert naming(EVE, left).total() > 5
