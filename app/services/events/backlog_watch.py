"""Looks at what waits to be shipped: levels for metrics with every look, and once a minute an event for each source.

Called by the log shipper's actor, which alone sees all sources.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from app.domain.errors import GatewayError
from app.domain.ports import EventSource, Tells
from app.services.telemetry.event_levels import measure_backlog

TOLD_PERIOD_S = 60.0


class BacklogWatch:
    """One in the log shipper.

    Args:
        sources: By the names that people call them.
        events: Told what waits.

    Not thread-safe.
    """

    def __init__(self, sources: Mapping[str, EventSource], events: Tells) -> None:
        self._sources = sources
        self._events = events
        self._told_s: dict[str, float] = {}

    async def look(self, now_s: float) -> None:
        """Look at every source; one that is away keeps its last level.

        Args:
            now_s: Monotonic.
        """
        for name, source in self._sources.items():
            with contextlib.suppress(GatewayError):
                backlog = await source.backlog()
                measure_backlog(name, backlog)
                if now_s - self._told_s.setdefault(name, now_s) >= TOLD_PERIOD_S:
                    self._told_s[name] = now_s
                    self._events.emit(
                        "events.backlog",
                        subject=name,
                        backlog=backlog.count,
                        backlog_bytes=backlog.bytes,
                        oldest_age_s=backlog.oldest_age_s,
                        dead_letters=backlog.dead,
                        reason=backlog.note or None,
                    )
