"""Tells a client that waits for its stream now and then that somebody is there: proxies cut silent connections."""

from __future__ import annotations

import asyncio

from starlette.types import Send

from app.http.gateway.answer_headers import Headers

KEEPALIVE_S = 10.0
KEEPALIVE = b": waiting for an account\n\n"


class KeepAlive:
    """Sends comments until it is ended; from its making on, which needs a running task.

    A timer, and a task once it rings: most streams begin earlier, and a task for each would cost them time.

    Args:
        send: The response.
        headers: With which the response starts, if a comment has to be sent.
    """

    def __init__(self, send: Send, headers: Headers) -> None:
        self._send = send
        self._headers = headers
        self._timer = asyncio.get_running_loop().call_later(KEEPALIVE_S, self._ring)
        self._telling: asyncio.Task[None] | None = None
        self._started = False

    async def end(self) -> bool:
        """Send nothing more; return whether the response was started. May be called twice."""
        self._timer.cancel()
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)
        return self._started

    def _ring(self) -> None:
        self._telling = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        self._started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})
        while True:
            await self._send({"type": "http.response.body", "body": KEEPALIVE, "more_body": True})
            await asyncio.sleep(KEEPALIVE_S)
