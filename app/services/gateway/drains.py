"""Calls that go on after their client has left, where leaving them would not stop the bill.

Such a call runs in a task of its own from its beginning, because a cancellation reaches whatever the cancelled task
awaits. While its client is there, it is that client's; afterwards it is read to its end, within a number and a time, so
that its usage is the provider's own and its permit is held for as long as the provider works. ``attempts`` says which
calls these are, and reports their permits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from app.domain.chat import NO_USAGE, ChatDelta, ChatResult, Usage

DRAINS_MAX = 200
"""Calls without a client at once; one more is stopped instead, and counts as all that was reserved for it."""
DRAIN_S = 120.0
"""A call that is not at its end so long after its client left is stopped."""
AHEAD_MAX = 16
"""Deltas read ahead of a client; then the provider waits for it, as its connection's buffers are full."""

_STARTED = ChatDelta()

Tell: TypeAlias = Callable[[Usage | None], None]


@dataclass(slots=True, eq=False)
class _Left:
    key: object
    """Kept, so that its identity is nobody else's meanwhile."""
    task: asyncio.Task[Any]
    timer: asyncio.TimerHandle | None = None
    tell: list[Tell] = field(default_factory=list)


class Drains:
    """One per replica.

    Args:
        calls_max: As ``DRAINS_MAX``.
        drain_s: As ``DRAIN_S``.

    Not thread-safe: one event loop.
    """

    def __init__(self, *, calls_max: int = DRAINS_MAX, drain_s: float = DRAIN_S) -> None:
        self._calls_max = calls_max
        self._drain_s = drain_s
        self._left: dict[int, _Left] = {}
        """By the identity of the call's key."""
        self._closed = False

    def __len__(self) -> int:
        return len(self._left)

    async def whole(self, key: object, work: Coroutine[Any, Any, ChatResult]) -> ChatResult:
        """Return what ``work`` returns; cancelling the awaiting task does not stop it.

        Args:
            key: Names the call for ``follow``, by identity.
            work: Makes the call. It is cancelled where it may not go on.
        """
        task = asyncio.create_task(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():
                await self._leave(key, task)
            raise

    async def stream(
        self, key: object, opening: Coroutine[Any, Any, AsyncGenerator[ChatDelta, None]]
    ) -> AsyncGenerator[ChatDelta, None]:
        """Return the stream that ``opening`` opens, once its first delta is there; closing it does not stop it.

        Args:
            key: As in ``whole``.
            opening: Opens the stream; what it raises is raised here.
        """
        tap = _Tap()
        task = asyncio.create_task(_read(opening, tap))
        try:
            first = await tap.get()
        except asyncio.CancelledError:
            tap.leave()
            await self._leave(key, task)
            raise
        if first is None:
            await task
        relay = self._pass_on(key, task, tap, first)
        # Started here: closing a generator that never ran would leave the task to nobody.
        await anext(relay)
        return relay

    def follow(self, key: object, tell: Tell) -> bool:
        """Have it told once what a call used whose client has left; None where nobody knows.

        Returns:
            False where no such call goes on; ``tell`` is then forgotten.
        """
        left = self._left.get(id(key))
        if left is None:
            return False
        left.tell.append(tell)
        return True

    async def aclose(self) -> None:
        """Stop every call without a client."""
        self._closed = True
        tasks = [left.task for left in self._left.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _pass_on(
        self, key: object, task: asyncio.Task[Usage | None], tap: _Tap, first: ChatDelta | None
    ) -> AsyncGenerator[ChatDelta, None]:
        """Yield one delta that only starts it, then what is read."""
        delta, ended = first, False
        try:
            yield _STARTED
            while delta is not None:
                yield delta
                delta = await tap.get()
            ended = True
            await task
        finally:
            if not ended:
                tap.leave()
                await self._leave(key, task)

    async def _leave(self, key: object, task: asyncio.Task[Any]) -> None:
        """Let a call go on without its client, or stop it where there is no room."""
        if not task.done() and (self._closed or len(self._left) >= self._calls_max):
            task.cancel()
            # Its connection is closed, and its permit reported, when we return.
            await asyncio.wait((task,))
            return
        left = self._left[id(key)] = _Left(key, task)
        left.timer = asyncio.get_running_loop().call_later(self._drain_s, task.cancel)
        task.add_done_callback(partial(self._end, left))

    def _end(self, left: _Left, task: asyncio.Task[Any]) -> None:
        del self._left[id(left.key)]
        if left.timer is not None:
            left.timer.cancel()
        # How it failed is in its permit's report; nobody is left to be told.
        known = not task.cancelled() and task.exception() is None
        usage = _usage_of(task.result()) if known else None
        for tell in left.tell:
            tell(usage)


class _Tap:
    """Hands deltas from the task that reads to the client's."""

    def __init__(self) -> None:
        self._deltas: asyncio.Queue[ChatDelta | None] = asyncio.Queue(AHEAD_MAX)
        self._left = False
        self._ended = False

    async def put(self, delta: ChatDelta) -> None:
        """Hand one on, waiting while the client is too far behind; dropped once it has left."""
        if not self._left:
            await self._deltas.put(delta)

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        if self._deltas.empty():
            self._deltas.put_nowait(None)

    async def get(self) -> ChatDelta | None:
        """Return the next one; None at the end."""
        if self._ended and self._deltas.empty():
            return None
        return await self._deltas.get()

    def leave(self) -> None:
        """The client has left: whoever waits to hand one on waits no longer."""
        self._left = True
        while not self._deltas.empty():
            self._deltas.get_nowait()


async def _read(opening: Coroutine[Any, Any, AsyncGenerator[ChatDelta, None]], tap: _Tap) -> Usage | None:
    usage: Usage | None = None
    try:
        async with aclosing(await opening) as deltas:
            async for delta in deltas:
                usage = delta.usage or usage
                await tap.put(delta)
    finally:
        tap.end()
    return usage


def _usage_of(outcome: ChatResult | Usage | None) -> Usage | None:
    usage = outcome.usage if isinstance(outcome, ChatResult) else outcome
    return None if usage == NO_USAGE else usage
