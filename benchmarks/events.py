"""How fast events get from who tells them into the real Elasticsearch, beside raw bulk requests of the same documents.

Run as ``python -m benchmarks.events [--short]``. Whole path: an emitter in one process, the spool's actor, the log
shipper's actor, the server, all on this machine's cores. Baseline in the same run, in turns: the same documents, ready
made, in bulk requests from one process. Then an outage: the server stands still (SIGSTOP) while an hour's events of 200
a second are told, and goes on; and the shipper is killed over the full spool. Needs Maven, as the tests do.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from actors import bootstrap, cluster
from actors.event_handles import SpoolHandle, emitter_of
from actors.log_shipper_handle import LOG_SHIPPER, LogShipperHandle
from actors.own_origin import own_origin
from app.domain.chat import Json
from app.domain.errors import GatewayError
from app.domain.events.fields import mappings
from app.domain.events.record import EventIds, Recorder
from app.domain.events.spec import ElasticsearchSpec
from app.domain.events.spooled import SpooledEvent
from app.services.events.emitter import Emitter
from app.sinks.elasticsearch import ElasticsearchSink
from app.sinks.elasticsearch_http import ElasticsearchHttp
from benchmarks import processes, report
from benchmarks.events_emit import VALUES
from benchmarks.stage import account, configuration, opened
from tests.fixtures.elasticsearch_server import ElasticsearchServer, running_elasticsearch

RAW_PREFIX, PATH_PREFIX = "raw-events", "path-events"
RAW_BATCH = 2_000
TOLD_AT_ONCE = 2_000
TYPE = "request.finished"
SHARE_MIN = 0.6
SPOOL_MB = 4_000
OUTAGE_RATE = 200
WITHIN_S = 1_800.0
SERVER_OPTIONS = ""
"""The server as shipped: its fast compiler too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is played."""

    rounds: int = 3
    events: int = 30_000
    outage_s: int = 3_600


SHORT = Size(rounds=2, events=5_000, outage_s=50)


@dataclass(slots=True)
class Found:
    """What was measured."""

    raw_per_s: list[float] = field(default_factory=list)
    path_per_s: list[float] = field(default_factory=list)
    told_per_s: float = 0.0
    """While the server stood still."""
    backlog: int = 0
    drained_s: float = 0.0
    restart_empty_s: float = 0.0
    restart_full_s: float = 0.0
    missing: int = 0
    cpu_s: dict[str, float] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Return the whole path's rate, as a share of the raw one; medians."""
        return statistics.median(self.path_per_s) / statistics.median(self.raw_per_s)


async def measure(server: ElasticsearchServer, size: Size) -> Found:
    """Play everything on a connected Ray cluster."""
    for prefix in (RAW_PREFIX, PATH_PREFIX):
        body = {"index_patterns": [f"{prefix}-*"], "template": {"mappings": mappings(), "settings": SETTINGS}}
        server.ask("PUT", f"/_index_template/{prefix}", body)
    found = Found()
    with tempfile.TemporaryDirectory(prefix="tutti-bench-", ignore_cleanup_errors=True) as folder:
        events: dict[str, Any] = {
            "spool_mb": SPOOL_MB,
            "elasticsearch": {"url": server.url, "index_prefix": PATH_PREFIX},
        }
        document = configuration(account("a", "http://127.0.0.1:9"), data_dir=folder, events=events)
        async with opened(document) as stage:
            emitter = emitter_of("benchmark", stage.namespace)
            await _tell(emitter, RAW_BATCH)
            await _stored(server, RAW_BATCH)
            before = processes.cpu_seconds(processes.tree())
            told = RAW_BATCH
            for number in range(size.rounds):
                found.raw_per_s.append(await _raw(server, size.events, number))
                began_s = time.perf_counter()
                await _tell(emitter, size.events)
                told += size.events
                await _stored(server, told)
                found.path_per_s.append(size.events / (time.perf_counter() - began_s))
            found.cpu_s = processes.cpu_between(before, processes.cpu_seconds(processes.tree()))
            await _outage(server, emitter, size, found, stage.namespace, told)
    return found


SETTINGS = {"number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": "5s"}


async def _outage(
    server: ElasticsearchServer,
    emitter: Emitter,
    size: Size,
    found: Found,
    namespace: str,
    told: int,
) -> None:
    found.restart_empty_s = await _restart(namespace)
    count = size.outage_s * OUTAGE_RATE
    server.pause()
    try:
        began_s = time.perf_counter()
        await _tell(emitter, count)
        found.told_per_s = count / (time.perf_counter() - began_s)
        found.backlog = (await SpoolHandle(namespace).backlog()).count
        found.restart_full_s = await _restart(namespace)
    finally:
        server.resume()
    began_s = time.perf_counter()
    await _stored(server, told + count)
    found.drained_s = time.perf_counter() - began_s
    found.missing = told + count - _count(server)


async def _tell(emitter: Emitter, count: int) -> None:
    """Tell so many, as fast as the spool takes them."""
    for start in range(0, count, TOLD_AT_ONCE):
        for _ in range(min(TOLD_AT_ONCE, count - start)):
            emitter.emit(TYPE, **VALUES)
        while not await emitter.flush():  # noqa: ASYNC110  it must be handed over again
            await asyncio.sleep(0.05)


async def _raw(server: ElasticsearchServer, count: int, number: int) -> float:
    """Return documents a second of ready-made bulk requests, one after the other, from one process."""
    recorder = Recorder(own_origin("raw"), EventIds(number << 40))
    records = [recorder.record(TYPE, time.time_ns(), VALUES) for _ in range(count)]
    day = time.strftime("%Y.%m.%d", time.gmtime())
    ready = [
        SpooledEvent(seq=place, event_id=one.event_id, index_date=day, body=one.body)
        for place, one in enumerate(records)
    ]
    spec = ElasticsearchSpec(url=server.url, index_prefix=RAW_PREFIX)
    sink = ElasticsearchSink(spec, ElasticsearchHttp(spec))
    try:
        began_s = time.perf_counter()
        for start in range(0, count, RAW_BATCH):
            delivery = await sink.deliver(ready[start : start + RAW_BATCH])
            assert delivery.trouble is None, delivery.reason
        return count / (time.perf_counter() - began_s)
    finally:
        await sink.aclose()


async def _stored(server: ElasticsearchServer, count: int) -> None:
    """Wait until so many of the type are there."""
    await _until(lambda: _count(server) >= count)


def _count(server: ElasticsearchServer) -> int:
    if server.http.get(f"/{PATH_PREFIX}-*/_refresh").status_code != 200:
        return 0
    query = {"query": {"term": {"event.action": TYPE}}}
    return int(server.ask("POST", f"/{PATH_PREFIX}-*/_count", query).get("count", 0))


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not await asyncio.to_thread(holds):  # noqa: ASYNC110  another process is watched
            await asyncio.sleep(0.1)


async def _restart(namespace: str) -> float:
    """Kill the shipper's process; return seconds until its next life has events in hand, or found none."""
    ray.kill(ray.get_actor(LOG_SHIPPER, namespace), no_restart=False)
    began_s = time.perf_counter()
    handle = LogShipperHandle(namespace)
    async with asyncio.timeout(120):
        while True:
            try:
                states = {state.source: state for state in await handle.states()}
                spool = states.get("spool")
                if spool is not None and spool.backlog is not None and (spool.in_flight or not spool.backlog.count):
                    return time.perf_counter() - began_s
            except GatewayError:
                pass  # not up yet
            await asyncio.sleep(0.05)


def _rows(found: Found) -> list[list[str]]:
    raw, path = statistics.median(found.raw_per_s), statistics.median(found.path_per_s)
    return [
        ["what", "found"],
        ["raw bulk requests, median", f"{raw:.0f} documents/s"],
        ["emitter to Elasticsearch, median", f"{path:.0f} events/s"],
        ["whole path / raw", f"**{found.share:.2f}** (bound {SHARE_MIN})"],
        ["told while the server stood still", f"{found.told_per_s:.0f} events/s"],
        ["waited then", f"{found.backlog} events"],
        ["drained in", f"{found.drained_s:.1f} s ({found.backlog / max(found.drained_s, 0.001):.0f} events/s)"],
        [
            "shipper back after kill -9, empty / full spool",
            f"{found.restart_empty_s:.1f} / {found.restart_full_s:.1f} s",
        ],
        ["missing", str(found.missing)],
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 1 where an event is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.events", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a sixth of the events, a minute of outage")
    chosen = parser.parse_args(arguments)
    on = report.machine()
    with running_elasticsearch(options=SERVER_OPTIONS) as server:
        cluster.start_local(namespace=bootstrap.NAMESPACE)
        try:
            found = asyncio.run(measure(server, SHORT if chosen.short else Size()))
        finally:
            cluster.stop()
    figures: dict[str, Json] = {
        "raw_per_s": [*found.raw_per_s],
        "path_per_s": [*found.path_per_s],
        "share": found.share,
        "told_per_s": found.told_per_s,
        "backlog": found.backlog,
        "drained_s": found.drained_s,
        "restart_empty_s": found.restart_empty_s,
        "restart_full_s": found.restart_full_s,
        "missing": found.missing,
        "cpu_s": {**found.cpu_s},
    }
    report.publish("events", short=chosen.short, on=on, rows=_rows(found), found=figures)
    print(f"CPU of the rounds: {report.said(found.cpu_s)}")
    return 1 if found.missing else 0


if __name__ == "__main__":
    sys.exit(main())
