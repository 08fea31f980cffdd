"""Events that wait, in memory: the port ``EventSource`` as a spool keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from app.domain.errors import InternalError
from app.domain.events.spooled import Backlog, DeadLetter, SpooledEvent

DAY = "2026.11.21"


def spooled(seq: int, *, size: int = 50, day: str = DAY) -> SpooledEvent:
    """Return an event of about ``size`` bytes, with the id ``e<seq>``."""
    filler = "x" * max(0, size - 90)
    iso = f"{day.replace('.', '-')}T10:00:00.000Z"
    body = f'{{"@timestamp":"{iso}","event":{{"id":"e{seq}","action":"a"}},"message":"{filler}"}}'.encode()
    return SpooledEvent(seq=seq, event_id=f"e{seq}", index_date=day, body=body)


@dataclass
class FakeSource:
    """A source that forgets what was shipped; ``failing`` makes every call fail."""

    waiting: dict[int, SpooledEvent] = field(default_factory=dict)
    letters: dict[int, DeadLetter] = field(default_factory=dict)
    bodies: dict[int, SpooledEvent] = field(default_factory=dict)
    failing: bool = False
    reads: int = 0

    def add(self, *events: SpooledEvent) -> None:
        """Let these wait."""
        self.waiting.update({event.seq: event for event in events})

    async def pending(self, after_seq: int, *, docs_max: int, bytes_max: int) -> Sequence[SpooledEvent]:
        self._look()
        self.reads += 1
        found: list[SpooledEvent] = []
        for seq in sorted(self.waiting):
            if seq <= after_seq:
                continue
            bytes_max -= len(self.waiting[seq].body)
            if len(found) == docs_max or (found and bytes_max < 0):
                break
            found.append(self.waiting[seq])
        return found

    async def shipped(self, seqs: Sequence[int]) -> None:
        self._look()
        for seq in seqs:
            self.waiting.pop(seq, None)

    async def dead(self, seq: int, *, status: int, reason: str) -> None:
        self._look()
        event = self.waiting.pop(seq)
        self.bodies[seq] = event
        self.letters[seq] = DeadLetter(
            event_id=event.event_id, type="a", status=status, reason=reason, at_s=0.0, body=event.body
        )

    async def dead_letters(self, *, limit: int) -> Sequence[DeadLetter]:
        return [self.letters[seq] for seq in sorted(self.letters)][:limit]

    async def replay(self, event_ids: Sequence[str] | None) -> int:
        chosen = [seq for seq, one in self.letters.items() if event_ids is None or one.event_id in event_ids]
        for seq in chosen:
            del self.letters[seq]
            self.waiting[seq] = self.bodies.pop(seq)
        return len(chosen)

    async def drop(self, event_ids: Sequence[str] | None) -> int:
        chosen = [seq for seq, one in self.letters.items() if event_ids is None or one.event_id in event_ids]
        for seq in chosen:
            del self.letters[seq]
        return len(chosen)

    async def backlog(self) -> Backlog:
        self._look()
        size = sum(len(event.body) for event in self.waiting.values())
        return Backlog(count=len(self.waiting), bytes=size, oldest_age_s=0.0, dead=len(self.letters))

    def _look(self) -> None:
        if self.failing:
            raise InternalError("the source is away", remedy="wait")
