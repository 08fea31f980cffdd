"""Lets identical concurrent requests share one upstream call.

Knows nothing of caching: who comes after the call has ended starts another one. Used by the gateway in front of an
upstream call, behind everything that is a caller's own (its limits, its deadline).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from app.domain.errors import CancelledError

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Runs at most one call per key at a time; everybody who asks meanwhile gets its outcome.

    The call belongs to all who wait for it, not to the first: whoever gives up leaves it to the others, and it is
    cancelled only when nobody is left.

    Args:
        flights_max: Keys under way at once. Beyond it calls are made, but not shared: a full table costs money, never
            an answer. Who may wait is bounded by whoever admits the callers.

    Not thread-safe: the event loop is the lock.
    """

    def __init__(self, flights_max: int) -> None:
        self._flights_max = flights_max
        self._flights: dict[bytes, _Flight[T]] = {}
        self._tasks: set[asyncio.Task[T]] = set()
        """Abandoned ones included, until they have ended: the event loop itself does not hold on to them."""
        self.shared = 0
        """Calls that were saved so far."""

    def __len__(self) -> int:
        return len(self._flights)

    async def run(self, key: bytes, make: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        """Return (outcome, whether it came from a call that somebody else had begun).

        Args:
            key: Equal for calls that may share an outcome.
            make: Makes the call. Runs in a task of its own, so it must not depend on who asked first: no personal
                deadline, no personal account of what was spent.

        Raises:
            CancelledError: of the domain, where the call ended by cancelling itself; whatever else ``make`` raises
                reaches everybody who waits.
        """
        flight = self._flights.get(key)
        shared = flight is not None
        if flight is None:
            if len(self._flights) >= self._flights_max:
                return await make(), False
            flight = self._start(key, make)
        else:
            self.shared += 1
        return await self._wait(key, flight), shared

    def _start(self, key: bytes, make: Callable[[], Awaitable[T]]) -> _Flight[T]:
        async def call() -> T:
            try:
                return await make()
            finally:
                # Before anybody wakes: who asks from now on has not asked during this call.
                self._forget(key, flight)

        flight = _Flight(asyncio.get_running_loop().create_task(call()))
        self._tasks.add(flight.task)
        flight.task.add_done_callback(self._end)
        self._flights[key] = flight
        return flight

    async def _wait(self, key: bytes, flight: _Flight[T]) -> T:
        flight.waiting += 1
        try:
            # Does not pass our cancellation on to the call, nor the call's to us.
            await asyncio.wait((flight.task,))
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                await self._abandon(key, flight)
        if flight.task.cancelled():
            raise CancelledError("the call that several requests shared was withdrawn")
        return flight.task.result()

    async def _abandon(self, key: bytes, flight: _Flight[T]) -> None:
        """Cancel a call that nobody waits for; who asks for the same from now on gets a new one."""
        self._forget(key, flight)
        flight.task.cancel()
        # Its connection is closed when we return.
        await asyncio.wait((flight.task,))

    def _end(self, task: asyncio.Task[T]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Who waited has it; an error that came when everybody had left is nobody's.
            task.exception()

    def _forget(self, key: bytes, flight: _Flight[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


class _Flight(Generic[T]):
    __slots__ = ("task", "waiting")

    def __init__(self, task: asyncio.Task[T]) -> None:
        self.task = task
        self.waiting = 0
