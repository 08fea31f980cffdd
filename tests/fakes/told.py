"""Hears what is told, as the port ``Tells``; refuses what the schema does not declare."""

from __future__ import annotations

from app.domain.events.record import EventIds, Origin, Recorder


class Told:
    """Keeps every event."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []
        self._recorder = Recorder(Origin(node="test-1"), EventIds(1))

    def emit(self, event_type: str, /, *, at_ns: int | None = None, **values: object) -> None:
        """Keep it; raises where a real recorder would refuse it."""
        self._recorder.record(event_type, at_ns or 1, values)
        self.events.append((event_type, values))

    def values(self, event_type: str) -> list[dict[str, object]]:
        """Return what was said in events of that type."""
        return [values for kind, values in self.events if kind == event_type]
