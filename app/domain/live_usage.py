"""The newest entries of the books and corrections of entries, for who watches; the store keeps them, in memory only.

They add up to the stored sums. Every one has a number, and a life of the store a name, so that a watcher who was away
goes on where it was, or learns that something is missing: then the stored sums say what it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from app.domain.books.entries import Answer, Command, Correction, Settle, UsageEntry

Booked: TypeAlias = UsageEntry | Correction

ENTRIES_KEPT = 4_096
ENTRIES_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveUsage:
    """What was booked after a place in the stream."""

    life: str
    """Name of the store's life that numbered the entries."""
    seq: int
    """Of the last entry seen with this answer; go on after it."""
    entries: tuple[tuple[int, Booked], ...] = ()
    """And corrections, with their numbers, oldest first."""
    lost: bool = False
    """Whether entries before these were booked that are no longer here."""

    @property
    def cursor(self) -> str:
        """The place to go on after."""
        return cursor_of(self.life, self.seq)


def cursor_of(life: str, seq: int) -> str:
    """Return the place after one entry as text."""
    return f"{life}-{seq}"


def booked_by(commands: Sequence[Command], answers: Sequence[Answer]) -> Iterator[Booked]:
    """Yield what commands have added to the books, in order: every entry once, and every correction."""
    for command, answer in zip(commands, answers, strict=True):
        if answer.outcome == "done":
            if isinstance(command, Settle):
                yield from _new_entries(command, answer)
            yield from answer.corrections


def _new_entries(command: Settle, answer: Answer) -> Iterable[UsageEntry]:
    if answer.count == len(command.entries):
        return command.entries
    # Said before in part, or twice in one settlement: the first of an id is what is booked.
    first: dict[str, UsageEntry] = {}
    for entry in command.entries:
        first.setdefault(entry.entry_id, entry)
    return [entry for name, entry in first.items() if name not in answer.repeated]


class RecentUsage:
    """The newest entries and corrections, numbered.

    Args:
        life: Unique for every life of the store.
        entries_kept: How many; older ones are forgotten.

    Not thread-safe.
    """

    def __init__(self, life: str, *, entries_kept: int = ENTRIES_KEPT) -> None:
        self._life = life
        self._seq = 0
        self._kept: deque[Booked] = deque(maxlen=entries_kept)

    def add(self, entries: Iterable[Booked]) -> None:
        """Add what was just booked."""
        for entry in entries:
            self._seq += 1
            self._kept.append(entry)

    def after(self, cursor: str | None) -> LiveUsage:
        """Return what came after ``cursor``, a bounded number of entries; None: nothing yet, from now on."""
        if cursor is None:
            return LiveUsage(life=self._life, seq=self._seq)
        life, _, number = cursor.rpartition("-")
        oldest = self._seq - len(self._kept)
        known = life == self._life and number.isdecimal() and oldest <= int(number) <= self._seq
        seen = int(number) if known else oldest
        skipped = seen - oldest
        found = list(self._kept)[skipped : skipped + ENTRIES_AT_ONCE]
        return LiveUsage(
            life=self._life,
            seq=seen + len(found),
            entries=tuple(enumerate(found, start=seen + 1)),
            lost=not known,
        )
