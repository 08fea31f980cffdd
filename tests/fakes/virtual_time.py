"""An event loop whose time jumps: hours pass in milliseconds, always in the same order, and a lost wake-up is an error.

For tests of services that wait. Nothing real may be awaited on it: no sockets, threads or processes.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

NOTHING_LEFT = "somebody waits, but nothing is left that could wake them"


class VirtualClock:
    """The services' port ``Clock``, and the loop's own time."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def monotonic_ns(self) -> int:
        return round(self.now_s * 1e9)

    def wall_s(self) -> float:
        return 1_800_000_000.0 + self.now_s


class _Jumps(selectors.SelectSelector):
    """Passes the time to the next timer instead of waiting for it."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError(NOTHING_LEFT)
        if timeout > 0:
            # A hair more, so that rounding cannot leave the timer in the future for ever.
            self._clock.now_s += timeout + 1e-9
        return []


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(_Jumps(clock))
        self._virtual = clock

    def time(self) -> float:
        return self._virtual.now_s


def run(main: Coroutine[Any, Any, T], clock: VirtualClock) -> T:
    """Run ``main`` to its end in virtual time; exceptions that no task's owner took are raised as well."""
    unseen: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=lambda: _VirtualLoop(clock)) as runner:
        runner.get_loop().set_exception_handler(lambda _loop, context: unseen.append(context))
        result = runner.run(main)
    assert not unseen, unseen
    return result
