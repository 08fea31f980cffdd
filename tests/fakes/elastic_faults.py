"""A proxy in front of the real Elasticsearch that does to bulk requests what networks, proxies and full servers do.

It never stores anything itself and never says that something was stored which was not.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

import aiohttp
import orjson
from aiohttp import web

HANG_S = 120.0
BODY_BYTES_MAX = 200 * 1024 * 1024


class Fault(StrEnum):
    """What becomes of one bulk request."""

    BUSY = "429"
    UNAVAILABLE = "503"
    BAD_GATEWAY = "502"
    TOO_LARGE = "413"
    LOCKED_OUT = "401"
    SOME_BUSY = "429 for every other event"
    RESET_BEFORE = "reset before it is stored"
    RESET_AFTER = "reset after it is stored"
    CUT = "half of the answer after it is stored"
    HANG = "no answer after it is stored"
    SHORT = "an answer for fewer events than were stored"
    GARBAGE = "a page instead of the answer after it is stored"


PLAIN = {Fault.BUSY: 429, Fault.UNAVAILABLE: 503, Fault.BAD_GATEWAY: 502, Fault.TOO_LARGE: 413, Fault.LOCKED_OUT: 401}


class FaultyElastic:
    """The proxy; ``url`` is where clients find it.

    Args:
        target: The real server's URL.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self.url = ""
        self.next: deque[Fault | None] = deque()
        """What becomes of the next bulk requests; None: nothing."""
        self.chooser: Callable[[], Fault | None] = lambda: None
        """Asked where ``next`` is empty."""
        self.body_bytes_max: int | None = None
        """Larger requests are refused with 413."""
        self.played: Counter[str] = Counter()
        self.requests = 0
        self.events = 0
        """Lines of all bulk requests, halved: events that were sent, repetitions included."""

    def in_turn(self, seed: int, every: int) -> None:
        """Let every so-manieth bulk request meet a fault, each kind in its turn, in an order by the seed."""
        faults = list(Fault)
        random.Random(seed).shuffle(faults)
        order = itertools.cycle([fault if place == 0 else None for fault in faults for place in range(every)])
        self.chooser = lambda: next(order)

    def application(self) -> web.Application:
        """Return the proxy as an application."""
        application = web.Application(client_max_size=BODY_BYTES_MAX)
        application.router.add_route("*", "/{path:.*}", self._answer)
        return application

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if not request.path.endswith("_bulk"):
            return _whole(*await self._forward(request, body))
        self.requests += 1
        self.events += body.count(b"\n") // 2
        fault = self.next.popleft() if self.next else self.chooser()
        if self.body_bytes_max is not None and len(body) > self.body_bytes_max:
            fault = Fault.TOO_LARGE
        if fault is None:
            return _whole(*await self._forward(request, body))
        self.played[fault] += 1
        if fault in PLAIN:
            return web.Response(status=PLAIN[fault], text="no")
        if fault is Fault.RESET_BEFORE:
            return _reset(request)
        if fault is Fault.SOME_BUSY:
            return await self._some_busy(request, body)
        status, answer = await self._forward(request, body)
        return await _spoil(request, fault, status, answer)

    async def _some_busy(self, request: web.Request, body: bytes) -> web.StreamResponse:
        lines = body.splitlines(keepends=True)
        pairs = [lines[place] + lines[place + 1] for place in range(0, len(lines), 2)]
        status, answer = await self._forward(request, b"".join(pairs[::2]))
        if status != 200:
            return _whole(status, answer)
        stored = iter(orjson.loads(answer)["items"])
        busy = {"create": {"status": 429, "error": {"type": "es_rejected_execution_exception", "reason": "full"}}}
        items = [next(stored) if place % 2 == 0 else busy for place in range(len(pairs))]
        return _whole(200, orjson.dumps({"errors": True, "items": items}))

    async def _forward(self, request: web.Request, body: bytes) -> tuple[int, bytes]:
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.request(
                    request.method,
                    self._target + str(request.rel_url),
                    data=body or None,
                    headers={"content-type": request.headers.get("content-type", "application/json")},
                ) as answer,
            ):
                return answer.status, await answer.read()
        except aiohttp.ClientError:
            return 502, b"the server is away"


def _whole(status: int, body: bytes) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/json")


def _reset(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _spoil(request: web.Request, fault: Fault, status: int, answer: bytes) -> web.StreamResponse:
    """Answer wrongly after the real server has stored what it was asked to."""
    if fault is Fault.RESET_AFTER:
        return _reset(request)
    if fault is Fault.HANG:
        await asyncio.sleep(HANG_S)
        return _reset(request)
    if fault is Fault.GARBAGE:
        return web.Response(text="<html>welcome</html>", content_type="text/html")
    if fault is Fault.SHORT and status == 200:
        document: dict[str, Any] = orjson.loads(answer)
        document["items"] = document.get("items", [])[:-1]
        return _whole(200, orjson.dumps(document))
    response = web.StreamResponse(status=status, headers={"content-length": str(len(answer))})
    await response.prepare(request)
    await response.write(answer[: len(answer) // 2])
    return _reset(request)


@contextlib.contextmanager
def faulty_elastic(target: str) -> Iterator[FaultyElastic]:
    """Run the proxy in a thread of its own for as long as the context lasts."""
    proxy = FaultyElastic(target)
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(proxy.application(), handler_cancellation=True, shutdown_timeout=0.5, access_log=None)
    ready = threading.Event()

    async def start() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        proxy.url = f"http://{host}:{port}"
        ready.set()

    def work() -> None:
        loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=work, name="faulty-elastic", daemon=True)
    thread.start()
    assert ready.wait(20), "the proxy did not start"
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
