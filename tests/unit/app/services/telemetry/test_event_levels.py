"""Levels of events that wait, as alerts ask for them."""

from __future__ import annotations

from app.domain.events.spooled import Backlog
from app.services.telemetry import instruments
from app.services.telemetry.event_levels import measure_backlog


def test_levels_are_those_of_each_source() -> None:
    """One that catches up does not hide one that does not."""
    measure_backlog("spool", Backlog(count=3, bytes=400, oldest_age_s=12.0, dead=1, dropped=2))
    measure_backlog("outbox", Backlog(count=0, bytes=0, oldest_age_s=0.0))

    assert instruments.EVENTS_OLDEST.values() == {("spool",): 12.0, ("outbox",): 0.0}
    assert instruments.EVENTS_DEAD.values() == {("spool",): 1, ("outbox",): 0}
    assert instruments.EVENTS_DROPPED.values()[("spool",)] == 2
