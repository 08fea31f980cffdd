"""The outbox on both engines: numbers that grow, the same questions, the same answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from app.storage import ledger, outbox
from app.storage.database import bring_to, open_for_writing
from app.storage.place import Place
from tests.fakes.ledger_commands import ALICE, NOON_S, a_settle, an_entry


@pytest.fixture
def engine(place: Place) -> Iterator[Engine]:
    opened = open_for_writing(place)
    bring_to(opened, place, None)
    yield opened
    opened.dispose()


def test_outbox_answers_the_same_on_both_engines(engine: Engine) -> None:
    """An undone transaction leaves a gap at most, and no event."""
    for number in range(4):
        with engine.connect() as connection, connection.begin() as transaction:
            ledger.apply(connection, [a_settle(None, an_entry(f"e{number}"))])
            if number == 1:
                transaction.rollback()
    with engine.begin() as connection:
        events = outbox.pending(connection, 0, docs_max=10, bytes_max=10**9)
        assert [event.seq for event in events] == sorted(event.seq for event in events)
        assert len(events) == 3
        assert b'"tutti.ledger.entry_id":"e0"' in events[0].body
        assert [one.seq for one in outbox.pending(connection, events[0].seq, docs_max=1, bytes_max=1)] == [
            events[1].seq
        ]
        outbox.shipped(connection, [events[0].seq])
        outbox.dead(connection, events[1].seq, status=400, reason="why", now_s=NOON_S)
        (letter,) = outbox.dead_letters(connection, limit=5)
        assert letter.body == events[1].body
        backlog = outbox.backlog(connection, NOON_S + 1)
        assert (backlog.count, backlog.dead, backlog.oldest_age_s) == (1, 1, 1.0)
        assert outbox.used_bytes(connection) > 3 * 700
        assert outbox.replay(connection, [letter.event_id]) == 1
        assert outbox.drop(connection, None) == 0
        assert outbox.has_old(connection, NOON_S + 1, ships=True)
        assert outbox.expire(connection, until_s=NOON_S + 1, ships=True)[0] == 1
        assert outbox.forget(connection, ALICE.user) == 2
        assert outbox.pending(connection, 0, docs_max=10, bytes_max=10**9) == []
