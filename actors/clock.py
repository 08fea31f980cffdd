"""The machine's clock, as the services' port ``Clock``."""

from __future__ import annotations

import time


class SystemClock:
    """The machine's clock."""

    def monotonic_ns(self) -> int:
        """Nanoseconds that never go back."""
        return time.monotonic_ns()

    def wall_s(self) -> float:
        """Seconds since the epoch."""
        return time.time()
