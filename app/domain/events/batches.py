"""What a process and its node's spool say to each other about events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from app.domain.events.fields import DEFAULT_PROFILE, Profile
from app.domain.events.record import EventRecord

EventRow: TypeAlias = tuple[str, int, str, bytes]
"""(id, nanoseconds since 1970, type, document) of one event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventBatch:
    """Events of one process, in columns: a value for each event would cost more to hand over than to make."""

    event_ids: tuple[str, ...]
    times_ns: tuple[int, ...]
    types: tuple[str, ...]
    bodies: tuple[bytes, ...]

    @classmethod
    def of(cls, records: Sequence[EventRecord]) -> EventBatch:
        """Return records as a batch."""
        return cls.of_rows([(record.event_id, record.time_ns, record.type, record.body) for record in records])

    @classmethod
    def of_rows(cls, rows: Sequence[EventRow]) -> EventBatch:
        """Return rows as a batch."""
        if not rows:
            return cls(event_ids=(), times_ns=(), types=(), bodies=())
        event_ids, times_ns, types, bodies = zip(*rows, strict=True)
        return cls(event_ids=event_ids, times_ns=times_ns, types=types, bodies=bodies)

    def records(self) -> Iterator[EventRecord]:
        """Yield the events."""
        for event_id, time_ns, event_type, body in zip(
            self.event_ids, self.times_ns, self.types, self.bodies, strict=True
        ):
            yield EventRecord(event_id=event_id, time_ns=time_ns, type=event_type, body=body)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventTerms:
    """How events are to be told; whoever keeps them says it with every answer."""

    profile: Profile = DEFAULT_PROFILE
    shares: tuple[tuple[str, float], ...] = ()
    """(event type, share that is kept) of those that are not kept whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchKept:
    """What became of a batch."""

    refused: tuple[int, ...] = ()
    """Positions of events for which there is no room and which must not be lost: say them again later."""
    terms: EventTerms
