"""What is measured of events that wait to be shipped."""

from __future__ import annotations

from app.domain.events.spooled import Backlog
from app.services.telemetry import instruments


def measure_backlog(source: str, backlog: Backlog) -> None:
    """Set the levels of one source of events."""
    instruments.EVENTS_WAITING.set(backlog.count, source)
    instruments.EVENTS_BYTES.set(backlog.bytes, source)
    instruments.EVENTS_OLDEST.set(backlog.oldest_age_s, source)
    instruments.EVENTS_DEAD.set(backlog.dead, source)
    instruments.EVENTS_DROPPED.set(backlog.dropped, source)
