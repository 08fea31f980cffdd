"""Answers that are made while nobody is connected, and kept for whoever asks for them by their name."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.simulator.connection import ClientGone, Connection
from app.simulator.exchange import HttpAnswer
from app.simulator.json_reading import JsonObject

KEPT_MAX = 10_000
"""Of all keys; the oldest go first."""


class Detached(Connection):
    """The answering side of a request whose client did not stay: it keeps what is sent, and ends when it is stopped."""

    def __init__(self) -> None:
        self.started = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.stopped = asyncio.Event()

    async def start(self, status: int, headers: dict[str, str], *, length: int | None = None) -> None:
        """Keep the head."""
        self.started, self.status, self.headers = True, status, headers

    async def write(self, data: bytes) -> None:
        """Keep a part of the body; raises ClientGone once it is stopped."""
        if self.stopped.is_set():
            raise ClientGone
        self.body += data

    async def end(self, data: bytes = b"") -> None:
        """Keep the last part of the body."""
        self.body += data

    async def pause(self, seconds: float | None) -> None:
        """Wait; None waits until it is stopped. Raises ClientGone then."""
        if seconds is not None and seconds <= 0:
            await asyncio.sleep(0)
        else:
            waiting = asyncio.ensure_future(self.stopped.wait())
            await asyncio.wait({waiting}, timeout=seconds)
            waiting.cancel()
        if self.stopped.is_set():
            raise ClientGone

    async def drop(self, *, reset: bool = False) -> None:
        """Lose the answer: what comes after a connection broke is nothing."""
        self.status, self.body = 500, b""

    async def leave(self) -> None:
        """Nobody is watched."""


@dataclass(slots=True, kw_only=True)
class Begun:
    """One call in the background."""

    name: str
    key: str
    """The API key that began it, and alone may ask for it."""
    answering: Detached = field(default_factory=Detached)
    work: asyncio.Task[None] | None = None
    created_s: int = field(default_factory=lambda: int(time.time()))

    @property
    def refusal(self) -> HttpAnswer | None:
        """What it was refused with, before anything was made."""
        answering = self.answering
        if answering.status < 400:
            return None
        return HttpAnswer(status=answering.status, body=answering.body, headers=answering.headers)

    def told(self) -> bytes:
        """Return the response object as it is by now."""
        head: JsonObject = {"id": self.name, "object": "response", "created_at": self.created_s, "background": True}
        if self.work is None or not self.work.done():
            return orjson.dumps(head | {"status": "in_progress", "error": None, "output": [], "usage": None})
        if self.answering.stopped.is_set():
            return orjson.dumps(head | {"status": "cancelled", "error": None, "output": [], "usage": None})
        if self.answering.status != 200:
            error: JsonObject = {"code": "server_error", "message": "The server had an error while processing it."}
            return orjson.dumps(head | {"status": "failed", "error": error, "output": [], "usage": None})
        try:
            return orjson.dumps(orjson.loads(self.answering.body) | {"id": self.name})
        except ValueError:  # a fault made it so
            return self.answering.body

    async def stop(self) -> None:
        """Stop it, if it is still being made."""
        if self.work is not None and not self.work.done():
            self.answering.stopped.set()
            await asyncio.wait({self.work})


class InBackground:
    """All calls in the background. Not thread-safe: the server's event loop is the lock."""

    def __init__(self) -> None:
        self._begun: OrderedDict[str, Begun] = OrderedDict()
        self._count = 0

    def new(self, key: str) -> Begun:
        """Return a call that is about to begin."""
        self._count += 1
        return Begun(name=f"resp_{self._count:024x}", key=key)

    async def begin(self, begun: Begun, work: Coroutine[Any, Any, None]) -> None:
        """Begin a call's work; keep the call unless it is refused at once."""
        begun.work = asyncio.create_task(work)
        # Keys, limits and requests are judged in the first step; what is let in goes on by itself.
        await asyncio.sleep(0)
        if begun.refusal is None:
            self._begun[begun.name] = begun
            if len(self._begun) > KEPT_MAX:
                self._begun.popitem(last=False)

    def find(self, key: str, name: str) -> Begun | None:
        """Return the call of that name, where ``key`` began it."""
        found = self._begun.get(name)
        return found if found is not None and found.key == key else None
