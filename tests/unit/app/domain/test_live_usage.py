"""Who watches the books goes on where it was, or is told that something is missing."""

from __future__ import annotations

import pytest

from app.domain.books.budgets import Owners
from app.domain.books.entries import UsageEntry
from app.domain.chat import Usage
from app.domain.live_usage import ENTRIES_AT_ONCE, RecentUsage


def entries(first: int, last: int) -> list[UsageEntry]:
    usage = Usage(input_tokens=1, output_tokens=1)
    return [UsageEntry(entry_id=f"e{n}", at_s=0.0, owners=Owners(), usage=usage) for n in range(first, last + 1)]


def test_entries_come_in_order_from_any_place() -> None:
    """A cursor names the last entry seen."""
    recent = RecentUsage("life", entries_kept=10)
    start = recent.after(None)
    recent.add(entries(1, 4))
    middle = recent.after("life-2")

    assert (start.entries, start.cursor, start.lost) == ((), "life-0", False)
    assert middle.entries == ((3, entries(3, 3)[0]), (4, entries(4, 4)[0]))
    assert (middle.cursor, middle.lost) == ("life-4", False)
    assert recent.after("life-4").entries == ()


@pytest.mark.parametrize("cursor", ["life-1", "other-3", "life-99", "", "life-x", "-1", "life--1", "life-²"])
def test_a_place_that_is_no_longer_known_is_said(cursor: str) -> None:
    """Forgotten, of another life, or never given out: the oldest that is left follows, marked."""
    recent = RecentUsage("life", entries_kept=3)
    recent.add(entries(1, 5))
    found = recent.after(cursor)

    assert found.lost
    assert [seq for seq, _entry in found.entries] == [3, 4, 5]


def test_an_answer_is_bounded() -> None:
    """A watcher that was away gets the rest with its next question."""
    recent = RecentUsage("life")
    recent.add(entries(1, ENTRIES_AT_ONCE + 1))
    first = recent.after("life-0")
    second = recent.after(first.cursor)

    assert (len(first.entries), len(second.entries)) == (ENTRIES_AT_ONCE, 1)
