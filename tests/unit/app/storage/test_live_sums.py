"""Who watches the books live and adds up what is told has the stored sums, whatever comes in whatever order."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import example, given
from sqlalchemy import select

from app.domain.books.entries import Command, Correct, Correction, Hold, Settle
from app.domain.books.sums import DIMENSIONS, SUMS, Sums, dimensions_of, hour_of, sums_of
from app.domain.chat import Usage
from app.domain.live_usage import booked_by
from app.storage import books_rows as rows
from app.storage import ledger
from app.storage.books_tables import usage_hour
from tests.fakes.ledger_commands import ALICE, NOON_S, a_settle, an_entry, fresh_books
from tests.unit.app.storage.test_ledger_properties import SPECS, STORY, histories, quick

_USAGE = Usage(input_tokens=2, output_tokens=1)
SAID_IN_PART: tuple[Command, ...] = (
    Hold(hold_id="h", owners=ALICE, amount_nano=400, tokens=5, at_s=NOON_S, expires_s=NOON_S + 60.0),
    a_settle("h", an_entry("e0")),
    a_settle("h", an_entry("e0"), an_entry("e1"), an_entry("e1")),
    Settle(hold_id=None, entries=(an_entry("e1"), an_entry("e2")), at_s=NOON_S),
    Correct(correction_id="c", entry_id="e1", usage=_USAGE, cost_nano=7, price_id="p1", at_s=NOON_S),
)
"""Settlements of which some is in the books already, and some comes twice."""


@quick
@given(history=histories)
@example(history=STORY)
@example(history=SAID_IN_PART)
def test_what_is_told_of_commands_adds_up_to_the_stored_sums(history: Sequence[Command]) -> None:
    """By hour and dimension: every entry is told once, and every correction, whatever brought it about."""
    with fresh_books(SPECS) as engine, engine.begin() as connection:
        told = list(booked_by(history, ledger.apply(connection, history)))
        stored = {
            (row.hour, *(getattr(row, name) for name in DIMENSIONS)): rows.sums_in(row)
            for row in connection.execute(select(usage_hour))
        }
    added: dict[tuple[object, ...], Sums] = {}
    for one in told:
        entry, sums = (one.entry, one.differences) if isinstance(one, Correction) else (one, sums_of(one))
        place = (hour_of(entry.at_s), *dimensions_of(entry))
        added[place] = tuple(a + b for a, b in zip(added.get(place, (0,) * len(SUMS)), sums, strict=True))

    assert added == stored
