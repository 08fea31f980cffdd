"""Bounds how long a client may take nothing of an answer that it is sent.

What is sent waits for a slow client, and the provider with it, so memory is bounded by the connections' buffers; time
is bounded here: a call holds an account's permit, which others wait for.
"""

from __future__ import annotations

import asyncio

from starlette.types import Message, Send

STALLED_S = 120.0
"""A client that has taken nothing for so long is gone, whatever its connection says."""
LOOK_S = 15.0


class Patience:
    """Cancels a task whose client has taken nothing for too long.

    One a stream, looking now and then: a timer for every part would cost more than sending it.

    Args:
        task: Sends, and is told by its cancellation.
    """

    def __init__(self, task: asyncio.Task[object] | None) -> None:
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._since_s: float | None = None
        self._timer = self._loop.call_later(LOOK_S, self._look)
        self.over = False
        """Whether the task was cancelled for that."""

    def watched(self, send: Send) -> Send:
        """Return ``send``, whose waiting is looked at."""

        async def sending(message: Message) -> None:
            self._since_s = self._loop.time()
            await send(message)
            self._since_s = None

        return sending

    def end(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self) -> None:
        if self._since_s is not None and self._loop.time() - self._since_s >= STALLED_S and self._task is not None:
            self.over = True
            self._task.cancel()
            return
        self._timer = self._loop.call_later(LOOK_S, self._look)
