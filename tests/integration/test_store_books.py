"""The store keeps the books on both engines: the unit tests' own tests of it, and checks beside a writer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from actors.store import Store
from app.storage.place import Place
from tests.unit.actors.test_store_books import (  # noqa: F401  collected here too, over the store of this module
    NOON,
    PRICE,
    TEAM,
    Wall,
    a_hold,
    a_settle,
    an_entry,
    test_a_message_that_cannot_be_written_fails_alone,
    test_a_watcher_gets_entries_as_they_are_booked_and_goes_on_where_it_was,
    test_holds_and_entries_are_booked_and_refused_and_said_twice,
    test_the_store_tells_the_time,
    test_usage_and_reconciliation_are_of_what_was_booked,
    wall,
)

PAIRS = 150


@pytest.fixture
async def store(place: Place, wall: Wall) -> AsyncIterator[Store]:  # noqa: F811  a fixture, not the name
    opened = Store(str(place.data_dir), place.url, wall_s=wall)
    await opened.sync_books([TEAM], [PRICE])
    yield opened
    await opened.close()


async def test_a_check_beside_a_writer_sees_one_moment(store: Store) -> None:
    """It adds up what is changing under it, and must not take that for a difference."""

    async def write() -> None:
        for number in range(PAIRS):
            await store.apply_books(
                [a_hold(f"h{number}", 2), a_settle(f"h{number}", an_entry(f"e{number}", 1, at_s=NOON + number))]
            )

    writing = asyncio.create_task(write())
    checks = 0
    while not writing.done():
        assert await store.verify_books() == []
        checks += 1
    await writing

    assert checks > 1
    assert (await store.budget_figures())[0].spent == PAIRS
