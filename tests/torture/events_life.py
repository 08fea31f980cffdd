"""The processes of the torture of events, each to be killed at any moment: keeper of the spool, teller, shipper.

python -m tests.torture.events_life keeper|teller|shipper FOLDER [URL]
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import sys
import time
from pathlib import Path

from actors.event_log import EventLog
from actors.own_origin import own_origin
from app.domain.errors import GatewayError
from app.domain.events.batches import EventBatch
from app.domain.events.delivery import Pace
from app.domain.events.record import EventIds, Recorder
from app.domain.events.spec import ElasticsearchSpec, EventsSpec
from app.services.events.shipping import Shipper
from app.sinks.elasticsearch import ElasticsearchSink
from app.sinks.elasticsearch_http import ElasticsearchHttp
from tests.fakes.event_socket import SocketSpool
from tests.fakes.journal_socket import serving

SOCKET = "spool.socket"
STOP = "stop"
"""A file that tells tellers to end."""
BATCH = 20
PAUSE_S = 0.04
PREFIX = "torture-events"
DAY_NS = 86_400_000_000_000
REQUEST_S = 5.0
"""Most that one bulk request takes, so that a server that hangs is met often."""
WINDOW = 500
TYPES = ("call.finished", "request.finished", "configuration.changed", "run.accepted")


async def keep(folder: Path) -> None:
    """Own the spool, as the actor does."""
    spec = EventsSpec(elasticsearch=ElasticsearchSpec(url="http://127.0.0.1:9"))
    async with serving(EventLog(str(folder), spec), folder / SOCKET):
        alive(folder)
        await asyncio.Event().wait()


async def tell(folder: Path) -> None:
    """Tell events in batches until told to stop; write down the ids of every batch that was acknowledged."""
    spool = SocketSpool(str(folder / SOCKET))
    recorder = Recorder(own_origin("teller"), EventIds(secrets.randbits(62)))
    acknowledged = os.open(folder / f"acknowledged-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    while not (folder / STOP).exists():
        # Today and yesterday: two indices.
        times = [time.time_ns() - DAY_NS * random.randrange(2) for _ in range(BATCH)]
        records = [recorder.record(random.choice(TYPES), at_ns, {}) for at_ns in times]
        batch = EventBatch.of(records)
        while True:
            try:
                kept = await spool.keep(batch)
                break
            except GatewayError:
                await asyncio.sleep(0.05)
        refused = set(kept.refused)
        lines = "".join(f"{name}\n" for place, name in enumerate(batch.event_ids) if place not in refused)
        # One write: a process that is killed leaves all of it or nothing.
        os.write(acknowledged, lines.encode())
        alive(folder)
        await asyncio.sleep(PAUSE_S)


async def ship(folder: Path, url: str) -> None:
    """Ship for ever, as the actor does."""
    spec = ElasticsearchSpec(url=url, index_prefix=PREFIX)
    http = ElasticsearchHttp(spec, timeout_s=REQUEST_S)
    pace = Pace(WINDOW, spec.batch_bytes)
    alive(folder)
    await Shipper(
        SocketSpool(str(folder / SOCKET)), ElasticsearchSink(spec, http), pace, chance=lambda: random.random() / 4
    ).run()


def alive(folder: Path) -> None:
    """Leave a sign that this process is about its work: who is killed before that tests nothing."""
    (folder / f"alive-{os.getpid()}").touch()


def main() -> None:
    """Entry point."""
    role, folder = sys.argv[1], Path(sys.argv[2])
    work = {
        "keeper": lambda: keep(folder),
        "teller": lambda: tell(folder),
        "shipper": lambda: ship(folder, sys.argv[3]),
    }
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(work[role]())


if __name__ == "__main__":
    main()
