"""What benchmarks play on: our real actors on a real cluster, a dispatcher beside them, and a simulator process."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from actors import bootstrap
from actors.clock import SystemClock
from actors.handles import DirectoryHandle, HostHandles
from actors.store_handle import StoreHandle
from app import settings
from app.domain.accounts import Orchestra
from app.services.dispatch import CallProgress, Dispatcher
from app.services.roster import SnapshotRoster

ROOT = Path(__file__).resolve().parents[1]
WATCH_WAIT_S = 10.0
ACCOUNTS_WITHIN_S = 120.0

MODEL = "hand"
MODELS: dict[str, Any] = {
    MODEL: {
        "family": "one",
        "tier": "standard",
        "structured": "schema",
        "context_tokens": 200_000,
        "output_tokens_max": 16_000,
        "input_usd_per_mtok": 0.2,
        "output_usd_per_mtok": 0.8,
    }
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Our actors, ready to play."""

    dispatcher: Dispatcher
    orchestra: Orchestra
    store: StoreHandle
    namespace: str

    async def grow(self, document: Mapping[str, Any]) -> None:
        """Change to a configuration with more accounts; return when every one serves."""
        directory = DirectoryHandle(self.namespace)
        await directory.apply(settings.load_mapping(dict(document), source="benchmark"))
        async with asyncio.timeout(ACCOUNTS_WITHIN_S):
            version, serving, wanted = -1, 0, len(document["accounts"])
            while serving < wanted:
                snapshot = await directory.watch(version, WATCH_WAIT_S)
                version, serving = snapshot.version, len(snapshot.hosts)


def account(name: str, base_url: str, **more: Any) -> dict[str, Any]:
    """Return the configuration of one account that serves ``MODEL``."""
    return {
        "name": name,
        "provider": "custom",
        "base_url": base_url,
        "api_key": f"sk-{name}",
        "models": [MODEL],
        "limits": {},
        **more,
    }


def configuration(*accounts: dict[str, Any], data_dir: str, **more: Any) -> dict[str, Any]:
    """Return a configuration of these accounts."""
    return {
        "accounts": list(accounts),
        "coordinator": {"model": MODEL},
        "routing": {"general": {"primary": [MODEL]}},
        "models": MODELS,
        "data_dir": data_dir,
        **more,
    }


@contextlib.asynccontextmanager
async def opened(document: Mapping[str, Any]) -> AsyncIterator[Stage]:
    """Start our actors for a configuration on the connected cluster, yield when every account serves, end them.

    The dispatcher runs in this process, fed by the directory's snapshots exactly as the coordinator's is.
    """
    orchestra = settings.load_mapping(dict(document), source="benchmark")
    namespace = f"bench-{uuid.uuid4().hex[:8]}"
    await bootstrap.ensure(orchestra, namespace=namespace)
    roster, directory = SnapshotRoster(), DirectoryHandle(namespace)
    dispatcher = Dispatcher(
        HostHandles(namespace),
        roster,
        SystemClock(),
        owner=f"bench-{uuid.uuid4().hex[:12]}",
        on_progress=_ignore,
        on_silence=directory.suspect,
    )
    everybody = asyncio.Event()
    tasks = [
        asyncio.create_task(_follow(directory, roster, dispatcher, everybody)),
        asyncio.create_task(dispatcher.run()),
    ]
    try:
        await asyncio.wait_for(everybody.wait(), ACCOUNTS_WITHIN_S)
        yield Stage(dispatcher=dispatcher, orchestra=orchestra, store=StoreHandle(namespace), namespace=namespace)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await bootstrap.end(namespace=namespace, timeout_s=5.0)


async def _follow(
    directory: DirectoryHandle, roster: SnapshotRoster, dispatcher: Dispatcher, everybody: asyncio.Event
) -> None:
    version = -1
    while True:
        snapshot = await directory.watch(version, WATCH_WAIT_S)
        version = snapshot.version
        if snapshot.orchestra is None:
            continue
        roster.update(snapshot.orchestra, snapshot.hosts, snapshot.load)
        dispatcher.wake()
        if len(snapshot.hosts) == len(snapshot.orchestra.accounts):
            everybody.set()


def _ignore(progress: CallProgress) -> None:
    """Runs would show it; a benchmark has no run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulator:
    """A running simulator process."""

    url: str

    def stats(self) -> dict[str, Any]:
        """Return its own counts and its log: never ours."""
        answer = httpx.get(f"{self.url}/__stats", params={"log": "1"}, timeout=30)
        answer.raise_for_status()
        return dict(answer.json())


@contextlib.contextmanager
def simulator(document: Mapping[str, Any]) -> Iterator[Simulator]:
    """Run a simulator process with this configuration for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="tutti-bench-sim-") as folder:
        path = Path(folder) / "sim.yaml"
        path.write_text(yaml.safe_dump({"host": "127.0.0.1", "port": 0, **document}), encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-m", "app.simulator", "--config", str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            ready = re.match(r"ready (http://\S+)", line)
            if ready is None:
                raise RuntimeError(f"the simulator did not come up: {line!r}")
            yield Simulator(url=ready[1])
        finally:
            process.terminate()
            process.wait(10)
            process.stdout.close()
