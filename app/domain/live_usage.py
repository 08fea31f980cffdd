"""The newest entries of the books, for who watches them being booked; the store keeps them, in memory only.

Every entry has a number, and a life of the store a name, so that a watcher who was away goes on where it was, or learns
that something is missing: then the stored sums say what it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from app.domain.books.entries import UsageEntry

ENTRIES_KEPT = 4_096
ENTRIES_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveUsage:
    """What was booked after a place in the stream."""

    life: str
    """Name of the store's life that numbered the entries."""
    seq: int
    """Of the last entry seen with this answer; go on after it."""
    entries: tuple[tuple[int, UsageEntry], ...] = ()
    """With their numbers, oldest first."""
    lost: bool = False
    """Whether entries before these were booked that are no longer here."""

    @property
    def cursor(self) -> str:
        """The place to go on after."""
        return cursor_of(self.life, self.seq)


def cursor_of(life: str, seq: int) -> str:
    """Return the place after one entry as text."""
    return f"{life}-{seq}"


class RecentUsage:
    """The newest entries, numbered.

    Args:
        life: Unique for every life of the store.
        entries_kept: How many; older ones are forgotten.

    Not thread-safe.
    """

    def __init__(self, life: str, *, entries_kept: int = ENTRIES_KEPT) -> None:
        self._life = life
        self._seq = 0
        self._kept: deque[UsageEntry] = deque(maxlen=entries_kept)

    def add(self, entries: Iterable[UsageEntry]) -> None:
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
