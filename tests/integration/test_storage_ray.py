"""The whole of Tutti over PostgreSQL: a project is conducted, and goes on when the server or the store is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import pytest

from actors import bootstrap
from actors.store_handle import StoreHandle
from app import settings
from app.domain.errors import GatewayError
from app.domain.run import RunRequest, RunStatus
from tests.fakes import pool
from tests.fixtures.postgres import PostgresServer
from tests.integration.conftest import Simulate, ended

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


async def test_a_project_over_postgresql_outlives_a_kill_of_its_store(
    ray_cluster: None, simulate: Simulate, postgres: PostgresServer, tmp_path: Path
) -> None:
    """The lock of the killed store's session must not keep its successor out, and the journal is whole."""
    url = postgres.new_database()
    simulator = simulate(pool.FAST)
    configuration = {**pool.three_accounts(simulator.url), "data_dir": str(tmp_path / "data"), "store": {"url": url}}
    namespace = f"postgres-{os.getpid()}"
    orchestra = settings.load_mapping(configuration, source="test")
    desk = await bootstrap.ensure(orchestra, namespace=namespace)
    try:
        first = await desk.start(RunRequest(text="Compare tea and coffee.", assume_defaults=True))
        document = await ended(desk, first.run_id, within_s=200.0)
        assert document["status"] == RunStatus.COMPLETED

        killed = writing_process(postgres, url)
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        async with asyncio.timeout(200):
            while writing_process(postgres, url) in (None, killed):
                with contextlib.suppress(GatewayError):
                    await StoreHandle(namespace).ping()
                await asyncio.sleep(0.2)

        second = await desk.start(RunRequest(text="Compare rice and noodles.", assume_defaults=True))
        document = await ended(desk, second.run_id, within_s=200.0)
        assert document["status"] == RunStatus.COMPLETED
        assert {run.run_id for run in await desk.list_runs(limit=10)} == {first.run_id, second.run_id}
        assert not (tmp_path / "data" / "journal.sqlite").exists()
    finally:
        await bootstrap.end(namespace=namespace, timeout_s=5.0)


def writing_process(postgres: PostgresServer, url: str) -> int | None:
    """Return the process id of the store that holds the database's lock."""
    rows = postgres.execute(
        "SELECT application_name FROM pg_stat_activity JOIN pg_locks USING (pid) "
        "WHERE locktype = 'advisory' AND granted AND datname = current_database()",
        database=url.rsplit("/", 1)[1],
    )
    return int(rows[0][0].split()[2]) if rows else None
