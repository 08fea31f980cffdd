"""A clock that tests move."""

from __future__ import annotations

import time


class RunningClock:
    """The machine's clock, as the services' port ``Clock``."""

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def wall_s(self) -> float:
        return time.time()
