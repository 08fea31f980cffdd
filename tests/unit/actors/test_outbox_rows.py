"""The store holds back purchases, never bookings, while the outbox is full of what nobody takes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from actors.store import Store
from app.domain.errors import CapacityError
from app.domain.events.spec import ElasticsearchSpec, EventsSpec
from app.domain.events.spooled import Backlog, SpooledEvent
from tests.fakes.ledger_commands import NOON_S, a_hold, a_settle, an_entry

SHIPS = EventsSpec(spool_bytes=2_000, elasticsearch=ElasticsearchSpec(url="http://localhost:1"))


class Wall:
    """A wall clock that stands until it is moved."""

    now_s = NOON_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
async def store(tmp_path: Path, wall: Wall) -> AsyncIterator[Store]:
    opened = Store(str(tmp_path), wall_s=wall)
    yield opened
    await opened.close()


async def waiting(store: Store) -> list[SpooledEvent]:
    """Return what waits, as the shipper asks."""
    found = await store.outbox("pending", (0, 1_000, 10**9))
    assert isinstance(found, list)
    return found


async def test_full_outbox_holds_back_purchases_until_it_is_shipped(store: Store, wall: Wall) -> None:
    """What was bought is booked all the same."""
    await store.outbox("configure", (SHIPS,))
    await store.apply_books([a_hold("h1"), a_settle("h1", *(an_entry(f"e{number}") for number in range(4)))])
    wall.now_s += 60
    await store._outbox.expire()

    with pytest.raises(CapacityError, match="not shipped"):
        await store.apply_books([a_hold("h2")])
    await store.apply_books([a_settle(None, an_entry("e9"))])
    events = await waiting(store)
    assert len(events) == 5
    await store.outbox("shipped", ([event.seq for event in events],))
    await store._outbox.expire()
    (answer,) = await store.apply_books([a_hold("h2")])
    assert answer.accepted


async def test_nothing_that_waits_is_given_up_before_the_configuration_is_known(store: Store) -> None:
    """A store that just came back does not know whether somebody takes its events."""
    await store.apply_books([a_settle(None, an_entry("e1", at_s=NOON_S - 10**7))])
    await store._outbox.expire()
    assert len(await waiting(store)) == 1

    await store.outbox("configure", (EventsSpec(),))
    await store._outbox.expire()  # if the store's own look was not faster
    backlog = await store.outbox("backlog", ())
    assert isinstance(backlog, Backlog)
    assert backlog.count == 0


async def test_configuring_names_the_life_that_heard_it(store: Store, tmp_path: Path) -> None:
    """So that whoever configures sees that it was restarted, and says again what it does not keep."""
    first = await store.outbox("configure", (SHIPS,))
    again = await store.outbox("configure", (SHIPS,))
    other = Store(str(tmp_path / "other"))
    second = await other.outbox("configure", (SHIPS,))
    await other.close()

    assert first == again
    assert second != first


async def test_only_what_is_meant_for_others_is_done(store: Store) -> None:
    """The name of a method comes from outside."""
    with pytest.raises(AssertionError, match="not for others"):
        await store.outbox("expire", ())
