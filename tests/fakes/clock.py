"""A clock that tests move."""

from __future__ import annotations

import time


class RunningClock:
    """The machine's clock, as the services' port ``Clock``."""

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def wall_s(self) -> float:
        return time.time()


class ManualClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self._now_ns = 1_000_000_000

    def monotonic_ns(self) -> int:
        return self._now_ns

    def wall_s(self) -> float:
        return self._now_ns / 1e9

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now_ns += int(seconds * 1e9)
