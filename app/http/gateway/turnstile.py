"""Lets a few new requests pass in each turn of the event loop, so that a flood does not hold up those that are inside.

A loop serves everything that is ready before it looks again: hundreds of requests that come at once would all be read
and parsed before the first of them gets the answer to its first question. Nothing waits for longer than its own turn,
nothing is refused, and the order is kept. One per replica.
"""

from __future__ import annotations

import asyncio
from collections import deque

PER_TURN = 8
"""New requests in one turn of the loop: some milliseconds of reading and parsing."""


class Turnstile:
    """Counts who passes in this turn.

    Args:
        per_turn: How many may. Positive.

    Not thread-safe: one event loop.
    """

    def __init__(self, per_turn: int = PER_TURN) -> None:
        self._per_turn = per_turn
        self._left = per_turn
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_turning = False

    async def enter(self) -> None:
        """Pass, in this turn or in a later one."""
        if self._left > 0 and not self._waiting:
            self._left -= 1
            self._see_to_turn()
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._see_to_turn()
        await turn

    def _see_to_turn(self) -> None:
        if not self._is_turning:
            self._is_turning = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._is_turning = False
        self._left = self._per_turn
        while self._waiting and self._left:
            turn = self._waiting.popleft()
            if not turn.done():  # its client has not gone
                turn.set_result(None)
                self._left -= 1
        if self._left < self._per_turn:
            self._see_to_turn()
