"""The store's side of the books: durable, idempotent, on its own clock, grouped; overdue holds become unknown."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection

from actors import store as store_module
from actors.store import Store
from app.domain.books.budgets import BudgetSpec, OwnerKind, Owners, Window
from app.domain.books.entries import Answer, Command, Correct, Correction, Hold, Settle, UsageEntry, Void
from app.domain.books.figures import ExportRow
from app.domain.books.prices import PriceRow, Rates
from app.domain.books.sums import SUMS, sums_of
from app.domain.books.unknown import Settlement
from app.domain.books.usage import Dimension, UsageQuery
from app.domain.chat import Usage
from app.domain.errors import CapacityError, InternalError
from app.domain.live_usage import Booked
from app.storage import ledger

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()
OWNERS = Owners(tenant="acme", team="research", user="ann", key="ci")
PRICE = PriceRow(price_id="p1", model="m", rates=Rates(input="1", output="1"))
TEAM = BudgetSpec(owner_kind=OwnerKind.TEAM, owner_name="research", window=Window.DAY, limit_nano=1_000)


class Wall:
    """A wall clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = NOON

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
async def store(tmp_path: Path, wall: Wall) -> AsyncIterator[Store]:
    opened = Store(str(tmp_path), wall_s=wall)
    await opened.sync_books([TEAM], [PRICE])
    yield opened
    await opened.close()


def a_hold(name: str, nano: int = 400, *, at_s: float = NOON, life_s: float = 60.0) -> Hold:
    return Hold(
        hold_id=name,
        owners=OWNERS,
        amount_nano=nano,
        tokens=10,
        at_s=at_s,
        expires_s=at_s + life_s,
        holder="r1",
    )


def an_entry(name: str, nano: int = 300, *, key: str = "ci", at_s: float = NOON) -> UsageEntry:
    return UsageEntry(
        entry_id=name,
        at_s=at_s,
        owners=Owners(tenant="acme", team="research", user="ann", key=key),
        model="m",
        account="a",
        usage=Usage(input_tokens=5, output_tokens=2),
        cost_nano=nano,
        price_id="p1",
    )


def a_settle(hold: str | None, *entries: UsageEntry) -> Settle:
    return Settle(hold_id=hold, entries=entries, at_s=NOON)


async def test_holds_and_entries_are_booked_and_refused_and_said_twice(store: Store) -> None:
    """One message carries many commands; each has its own answer, and saying it again changes nothing."""
    commands: list[Command] = [a_hold("h1"), a_hold("h2"), a_hold("h3"), a_settle("h1", an_entry("e1"))]
    answers = await store.apply_books(commands)
    again = await store.apply_books(commands)
    (figures,) = await store.budget_figures()

    assert [answer.outcome for answer in answers] == ["done", "done", "refused", "done"]
    assert [answer.outcome for answer in again[:2]] == ["replayed", "replayed"]
    assert (figures.spent, figures.held, figures.left) == (300, 400, 300)
    assert answers[2].refusal is not None
    assert answers[2].refusal.left == 200
    assert await store.verify_books() == []


async def test_the_store_tells_the_time(store: Store, wall: Wall) -> None:
    """A replica whose clock is a day ahead neither opens another window nor makes its holds live longer."""
    await store.apply_books([a_hold("h1", at_s=NOON + 86_400, life_s=10.0)])
    (figures,) = await store.budget_figures()
    wall.now_s = NOON + 11.0
    expired = await store.expire_holds()
    (after,) = await store.budget_figures()

    assert (figures.held, figures.window_key) == (400, "2026-11-21")
    assert expired == 1
    assert (after.held, after.unknown) == (0, 400)


async def test_overdue_holds_are_unknown_as_soon_as_the_store_is_opened(tmp_path: Path, wall: Wall) -> None:
    """What a dead replica held counts as spent after a restart of the store, without anybody asking for it."""
    first = Store(str(tmp_path), wall_s=wall)
    await first.sync_books([TEAM], [])
    await first.apply_books([a_hold("h1", life_s=10.0)])
    await first.close()
    wall.now_s = NOON + 11.0
    second = Store(str(tmp_path), wall_s=wall)
    await second.ping()
    try:
        async with asyncio.timeout(30):
            while not (await second.budget_figures())[0].unknown:
                continue
    finally:
        await second.close()


async def test_calls_that_come_while_one_is_written_are_written_together(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction has one sync of the disk, however many replicas wait for it."""
    sizes: list[int] = []
    apply = ledger.apply

    def counted(connection: Connection, commands: Sequence[Command]) -> list[Answer]:
        sizes.append(len(commands))
        return apply(connection, commands)

    monkeypatch.setattr(ledger, "apply", counted)
    answers = await asyncio.gather(*(store.apply_books([Void(hold_id=f"h{n}", at_s=NOON)]) for n in range(20)))

    assert [answer.outcome for (answer,) in answers] == ["missing"] * 20
    assert sum(sizes) == 20
    assert len(sizes) <= 3


async def test_a_message_that_cannot_be_written_fails_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its neighbours of the same transaction are booked all the same."""
    apply = ledger.apply

    def refuse_poison(connection: Connection, commands: Sequence[Command]) -> list[Answer]:
        if any(isinstance(command, Hold) and command.hold_id == "poison" for command in commands):
            raise InternalError("this one cannot be written")
        return apply(connection, commands)

    monkeypatch.setattr(ledger, "apply", refuse_poison)
    good, bad, other = await asyncio.gather(
        store.apply_books([a_hold("h1", 100)]),
        store.apply_books([a_hold("poison", 100)]),
        store.apply_books([a_hold("h2", 100)]),
        return_exceptions=True,
    )

    assert isinstance(bad, InternalError)
    assert [answer.outcome for part in (good, other) if isinstance(part, list) for answer in part] == ["done", "done"]


async def test_too_many_waiting_commands_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that does not keep up is said, not hidden in a growing queue."""
    monkeypatch.setattr(store_module, "BOOKS_COMMANDS_MAX", 1)
    with pytest.raises(CapacityError):
        await store.apply_books([Void(hold_id="h1", at_s=NOON), Void(hold_id="h2", at_s=NOON)])


async def test_a_budget_near_its_end_is_said_once(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """In the log of the store, where whoever looks after it sees it; with the amounts."""
    caplog.set_level(logging.WARNING, "actors.store")
    for number, nano in enumerate((700, 200, 50)):
        await store.apply_books([a_settle(None, an_entry(f"e{number}", nano))])

    assert [record.getMessage() for record in caplog.records] == [
        "the day budget of team 'research' is near its end: $0.0000009 of $0.000001"
    ]


async def test_usage_and_reconciliation_are_of_what_was_booked(store: Store) -> None:
    """The sums that people see are the entries that were settled."""
    await store.apply_books([a_settle(None, an_entry("e1"), an_entry("e2", key="other"))])
    rows = await store.usage(UsageQuery(from_s=NOON - 60, to_s=NOON + 60, group_by=(Dimension.KEY,)))
    lines = await store.reconcile_books([ExportRow(account="a", day=date(2026, 11, 21), model="m", cost_nano=600)])

    assert [(row.group, row.calls, row.cost_nano) for row in rows] == [(("ci",), 1, 300), (("other",), 1, 300)]
    assert [(line.ours, line.verdict) for line in lines] == [(600, "equal")]


async def test_a_watcher_gets_entries_as_they_are_booked_and_goes_on_where_it_was(store: Store) -> None:
    """Nothing twice, nothing left out; an entry that was booked before is no news."""
    start = await store.entries_after(None, 0.0)
    waiting = asyncio.create_task(store.entries_after(start.cursor, 30.0))
    await store.apply_books([a_settle(None, an_entry("e1")), a_settle(None, an_entry("e1"))])
    first = await waiting
    await store.apply_books([a_settle(None, an_entry("e2"))])
    second = await store.entries_after(first.cursor, 30.0)
    idle = await store.entries_after(second.cursor, 0.0)

    assert [_name(entry) for _seq, entry in first.entries] == ["e1"]
    assert [_name(entry) for _seq, entry in second.entries] == ["e2"]
    assert (idle.entries, idle.cursor, idle.lost) == ((), second.cursor, False)


def a_correction(name: str, entry: str, nano: int | None) -> Correct:
    usage = Usage(input_tokens=4, output_tokens=9)
    return Correct(correction_id=name, entry_id=entry, usage=usage, cost_nano=nano, price_id="p1", at_s=NOON)


async def test_what_a_watcher_is_told_adds_up_to_the_stored_sums_after_corrections(store: Store, wall: Wall) -> None:
    """Said by somebody, or because who knows came after a person had settled: each once, in the order of the books."""
    start = await store.entries_after(None, 0.0)
    await store.apply_books([a_hold("h1", 200), a_hold("h2", 300), a_settle(None, an_entry("e1"))])
    wall.now_s = NOON + 61.0
    await store.expire_holds()
    for hold in ("h1", "h2"):
        await store.settle_unknown(Settlement(hold_id=hold, how="as_spent", reason="billed", by="ann"))
    await store.apply_books([a_settle("h1", an_entry("e2", 50)), Void(hold_id="h2", at_s=NOON)])
    for correct in (a_correction("c1", "e1", None), a_correction("c1", "e1", None), a_correction("c2", "e1", 120)):
        await store.apply_books([correct])
    await store.apply_books([a_settle(None, an_entry("e2", 50), an_entry("e3", 5)), a_correction("c3", "none", 1)])
    found = await store.entries_after(start.cursor, 0.0)
    told = [one for _seq, one in found.entries]
    (row,) = await store.usage(UsageQuery(from_s=NOON - 60, to_s=NOON + 120))

    assert [_name(one) for one in told] == [
        *("e1", "h1/settled", "h2/settled", "e2", "h1/replaced", "h2/replaced", "c1", "c2", "e3")
    ]
    assert _added(told) == {name: getattr(row, name) for name in SUMS}
    assert (row.calls, row.unpriced, row.cost_nano, row.input_tokens, row.output_tokens) == (5, 0, 175, 14, 13)
    assert [one.entry.cost_nano for one in told if isinstance(one, Correction)] == [0, 0, None, 120]
    assert await store.verify_books() == []


async def test_a_correction_wakes_who_watches(store: Store) -> None:
    """It is news as an entry is."""
    await store.apply_books([a_settle(None, an_entry("e1"))])
    start = await store.entries_after(None, 0.0)
    waiting = asyncio.create_task(store.entries_after(start.cursor, 30.0))
    await asyncio.sleep(0)
    await store.apply_books([a_correction("c1", "e1", 200)])
    ((_seq, told),) = (await waiting).entries

    assert isinstance(told, Correction)
    assert (told.entry.entry_id, told.entry.cost_nano) == ("e1", 200)
    assert dict(zip(SUMS, told.differences, strict=True))["cost_nano"] == -100


def _name(booked: Booked) -> str:
    return booked.correction_id if isinstance(booked, Correction) else booked.entry_id


def _added(told: Sequence[Booked]) -> dict[str, int]:
    sums = [one.differences if isinstance(one, Correction) else sums_of(one) for one in told]
    return dict(zip(SUMS, (sum(column) for column in zip(*sums, strict=True)), strict=True))
