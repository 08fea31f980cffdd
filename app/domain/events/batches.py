"""What a process and its node's spool say to each other about events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.domain.events.fields import DEFAULT_PROFILE, Profile
from app.domain.events.record import EventRecord


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
        return cls(
            event_ids=tuple(record.event_id for record in records),
            times_ns=tuple(record.time_ns for record in records),
            types=tuple(record.type for record in records),
            bodies=tuple(record.body for record in records),
        )

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
