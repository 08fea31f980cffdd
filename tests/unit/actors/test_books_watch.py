"""Every look at the books is told, with how many sums differ; the store looks by itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, update

from actors import books_watch
from actors.books_watch import BooksWatch
from actors.store import Store
from app.domain.books.prices import PriceRow, Rates
from app.domain.errors import InternalError
from app.storage.books_tables import ledger_account, usage_hour
from tests.fakes.ledger_commands import NOON_S, a_hold, a_settle, an_entry


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store(str(tmp_path), wall_s=lambda: NOON_S)
    await opened.sync_books([], [PriceRow(price_id="p1", model="m", rates=Rates(input="1", output="1"))])
    await opened.apply_books([a_hold("h"), a_settle("h", an_entry("e"))])
    yield opened
    await opened.close()


async def told(store: Store) -> list[tuple[int, str]]:
    """Return what was told of looks: how much differs, and the outcome."""
    waiting = await store.outbox("pending", (0, 1_000, 10**9))
    assert isinstance(waiting, list)
    documents: list[dict[str, Any]] = [json.loads(event.body) for event in waiting]
    return [
        (one["tutti.ledger.difference"], one["event.outcome"])
        for one in documents
        if one["event.action"] == "ledger.verified"
    ]


async def test_look_that_is_asked_for_is_told(store: Store) -> None:
    """Right or wrong: that nobody looked must not read as that all is well."""
    good = await store.verify_books()
    await store._write_alone(lambda connection: connection.execute(delete(usage_hour)).rowcount)
    bad = await store.verify_books()

    assert good == []
    assert bad
    assert await told(store) == [(0, "success"), (len(bad), "failure")]


async def test_store_looks_by_itself_soon_after_its_start(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Debits that are not credits are found without reading an entry, told, and said in the log."""
    await store._write_alone(
        lambda connection: (
            connection.execute(
                update(ledger_account).where(ledger_account.c.owner_kind == "counter").values(credits_posted=1)
            ).rowcount
        )
    )
    await store.close()
    monkeypatch.setattr(books_watch, "FIRST_S", 0.0)
    again = Store(str(tmp_path), wall_s=lambda: NOON_S)
    await again.ping()
    async with asyncio.timeout(30):
        while not await told(again):  # noqa: ASYNC110  the store tells nobody when it has looked
            await asyncio.sleep(0.01)
    found = await told(again)
    await again.close()

    assert [outcome for _difference, outcome in found] == ["failure"]
    assert found[0][0] > 0
    assert "the books do not add up" in caplog.text


async def test_look_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that was full a moment ago may have room now; a day later is too late."""
    monkeypatch.setattr(books_watch, "FIRST_S", 0.0)
    monkeypatch.setattr(books_watch, "RETRY_S", 0.0)
    tries: list[str] = []
    done = asyncio.Event()

    async def read(_query: object) -> Any:
        tries.append("read")
        if len(tries) < 3:
            raise InternalError("the disk does not answer")
        return []

    async def write(_command: object) -> Any:
        done.set()

    watch = asyncio.create_task(BooksWatch(read=read, write=write, wall_s=lambda: NOON_S).run())
    async with asyncio.timeout(30):
        await done.wait()
    await asyncio.sleep(0)
    watch.cancel()

    assert len(tries) == 3
