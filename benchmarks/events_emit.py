"""What an event costs the process that tells it: telling, serialising and handing over, in CPU, beside what one knows.

Run as ``python -m benchmarks.events_emit``. No Ray, no disk: the keeper takes the batch pickled, as Ray would carry it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import random
import time
from collections.abc import Callable
from typing import Any

import orjson

from app.domain.events.batches import BatchKept, EventBatch, EventTerms
from app.domain.events.record import Origin
from app.services.events.emitter import BATCH_MAX, Emitter

EVENTS = 20_000
ROUNDS = 5
VALUES: dict[str, Any] = {
    "request_id": "0f9c1d3b5a7e4c2f8d6b0a1e3c5d7f90",
    "endpoint": "/v1/chat/completions",
    "http_method": "POST",
    "http_status": 200,
    "operation": "chat",
    "request_model": "auto",
    "stream": False,
    "duration_ns": 812_345_678,
    "overhead_ms": 1.734,
    "outcome": "success",
    "reason": None,
    "error_type": None,
    "caller": "team-search",
    "team": "research",
    "route_class": "standard",
    "user": "u-4711",
    "account": "openai-a",
    "provider": "openai",
    "model": "gpt-5-mini",
    "cache": "miss",
    "input_tokens": 1_234,
    "output_tokens": 567,
    "trace_id": "0af7651916cd43dd8448eb211c80319c",
}
"""What the gateway tells of a client's call."""


class PicklingKeeper:
    """Takes batches as they would travel, and keeps the last body."""

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        self.body = b""

    async def terms(self) -> EventTerms:
        """See ``ports.EventKeeper``."""
        return EventTerms()

    async def keep(self, batch: EventBatch) -> BatchKept:
        """See ``ports.EventKeeper``."""
        self.bytes += len(pickle.dumps(batch, protocol=5))
        self.count += len(batch.event_ids)
        self.body = batch.bodies[-1]
        return BatchKept(terms=EventTerms())


class WallClock:
    """The machine's, as the services' port ``Clock``."""

    def monotonic_ns(self) -> int:
        """Nanoseconds that never go back."""
        return time.monotonic_ns()

    def wall_s(self) -> float:
        """Seconds since 1970."""
        return time.time()


async def events_us() -> tuple[float, float, PicklingKeeper]:
    """Return CPU microseconds an event: of telling it, and of everything together."""
    keeper = PicklingKeeper()
    emitter = Emitter(keeper, Origin(node="replica-1", host="h", pid=1, version="0"), WallClock(), chance=random.random)
    telling = whole = float("inf")
    for _ in range(ROUNDS):
        told_s = all_s = 0.0
        for _ in range(EVENTS // BATCH_MAX):
            began_s = time.process_time()
            for _ in range(BATCH_MAX):
                emitter.emit("request.finished", **VALUES)
            told_s += time.process_time() - began_s
            await emitter.flush()
            all_s += time.process_time() - began_s
        telling, whole = min(telling, told_s), min(whole, all_s)
    assert keeper.count == ROUNDS * EVENTS
    return telling / EVENTS * 1e6, whole / EVENTS * 1e6, keeper


def cpu_us(work: Callable[[], object]) -> float:
    """Return CPU microseconds of one round of ``work``, the best of some."""
    best = float("inf")
    for _ in range(ROUNDS):
        began_s = time.process_time()
        for _ in range(EVENTS):
            work()
        best = min(best, time.process_time() - began_s)
    return best / EVENTS * 1e6


def logging_us() -> float:
    """Return what a line of the standard library's log costs that says as much, written nowhere."""
    log = logging.getLogger("benchmark")
    log.propagate, log.handlers = False, [logging.StreamHandler(_Nowhere())]
    log.setLevel(logging.INFO)
    text = " ".join(f"{name}=%s" for name in VALUES)
    arguments = tuple(VALUES.values())
    return cpu_us(lambda: log.info(text, *arguments))


class _Nowhere:
    def write(self, _text: str) -> None: ...
    def flush(self) -> None: ...


def main() -> None:
    """Measure and print; the ratios are what can be compared between machines."""
    telling, whole, keeper = asyncio.run(events_us())
    document = orjson.loads(keeper.body)
    dumps, info = cpu_us(lambda: json.dumps(document)), logging_us()
    print(f"an event of {len(keeper.body)} bytes, {keeper.bytes / keeper.count:.0f} on the way:")
    print(f"  emit             {telling:6.2f} us CPU")
    print(f"  emit to handover {whole:6.2f} us CPU")
    print(f"  json.dumps       {dumps:6.2f} us CPU: an event is {whole / dumps:.2f} of it")
    print(f"  logging.info     {info:6.2f} us CPU: an event is {whole / info:.2f} of it")


if __name__ == "__main__":
    main()
