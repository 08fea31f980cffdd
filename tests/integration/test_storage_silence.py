"""A PostgreSQL server that hangs instead of dying refuses writes in time, and nothing in doubt is done twice.

Really stopped (SIGSTOP), whole or in the one session that writes, or behind a network that swallows everything: the
kernel goes on acknowledging, and no error comes by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import pytest

from actors.clock import SystemClock
from actors.store import Store
from app.domain.books.entries import Outcome
from app.domain.errors import GatewayError, InternalError
from app.services.gateway import bookkeeper
from app.services.gateway.bookkeeper import Bookkeeper
from app.services.gateway.purses import Ceiling
from app.storage import server_sessions
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.tcp_proxy import Proxy, running_proxy
from tests.unit.actors.test_store import a_run, an_event
from tests.unit.actors.test_store_books import OWNERS, PRICE, TEAM, a_hold, a_settle, an_entry

NO_ANSWER = "the database server does not answer"
COMMIT_OF_WRITES = (b"txid_current_if_assigned", b"COMMIT")
"""What the writer's session says at the end of a transaction, and no reader."""
WITHIN_S = 100.0
"""For everything that ends by itself, on a machine that is busy; without a limit of ours it would never end."""


CEILING = Ceiling(100, 10)


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("WRITE_S", 3.0), ("READ_S", 3.0), ("WITHOUT_ANSWER_S", 1.0), ("CONNECT_TIMEOUT_S", 2)):
        monkeypatch.setattr(server_sessions, name, seconds)
    monkeypatch.setattr(server_sessions, "ALIVE_S", 3.0)
    monkeypatch.setattr(server_sessions.Session, "patience_s", 3.0)
    monkeypatch.setattr(server_sessions, "LOCK_TRIES", 4)
    monkeypatch.setattr(bookkeeper, "HOLD_TIMEOUT_S", 3.0)


@pytest.fixture
def proxy(postgres: PostgresServer) -> Iterator[Proxy]:
    with running_proxy(postgres.port) as opened:
        yield opened


@pytest.fixture
async def store(postgres: PostgresServer, proxy: Proxy, tmp_path: Path) -> AsyncIterator[Store]:
    """A store whose sessions go through the proxy."""
    database = urlsplit(postgres.new_database()).path
    opened = Store(str(tmp_path), postgres.url("").replace(f":{postgres.port}/", f":{proxy.port}{database}"))
    await opened.sync_books([TEAM], [PRICE])
    yield opened
    await opened.close()


Value = TypeVar("Value")
Hang = Callable[[], contextlib.AbstractContextManager[None]]


@pytest.fixture(params=["server", "session", "network"])
def hang(request: pytest.FixtureRequest, postgres: PostgresServer, proxy: Proxy) -> Hang:
    """Return what makes the writer's server hang for as long as the context lasts."""

    @contextlib.contextmanager
    def hanging() -> Iterator[None]:
        only = None
        if request.param == "session":
            query = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'tutti store%'"
            only = [pid for (pid,) in postgres.execute(query)]
            assert len(only) == 1, "there is one writer"
        try:
            if request.param == "network":
                proxy.silent = True
            else:
                postgres.freeze(only)
            yield
        finally:
            proxy.silent = False
            if request.param != "network":
                postgres.thaw(only)

    return hanging


@pytest.mark.timeout(400)
async def test_a_server_that_hangs_refuses_writes_and_goes_on_by_itself(store: Store, hang: Hang) -> None:
    """Whoever would buy hears so in time, a gateway's call gets no ticket; what was said then may be said again."""
    keeper = Bookkeeper(store, SystemClock(), holder="replica")
    await store.create_run(a_run("before"))
    with hang():
        async with asyncio.timeout(WITHIN_S):
            with pytest.raises(InternalError, match="the books do not answer"):
                await keeper.hold(OWNERS, CEILING)
            refused = await asyncio.gather(
                store.create_run(a_run("during")),
                store.apply_books([a_hold("h1")]),
                store.record_calls([], [a_hold("h2")]),
                return_exceptions=True,
            )

    for error in refused:
        assert isinstance(error, InternalError), error
        assert NO_ANSWER in error.message
        assert "Tutti goes on by itself" in (error.remedy or "")
    answers = await until_written(lambda: store.apply_books([a_hold("h1"), a_settle("h1", an_entry("e1"))]))
    assert all(answer.accepted for answer in answers)
    await store.create_run(a_run("during"))
    assert {run.run_id for run in await store.list_runs(10, None)} == {"before", "during"}
    ticket = await until_written(lambda: keeper.hold(OWNERS, CEILING))
    ticket.close(an_entry("e2", 60))
    await keeper.aclose()
    assert await store.verify_books() == []
    (figures,) = await store.budget_figures()
    assert (figures.spent, figures.unknown) == (300 + 60, 0)


@pytest.mark.timeout(400)
async def test_a_read_of_a_server_that_hangs_is_refused_in_time(store: Store, postgres: PostgresServer) -> None:
    """A page that asks must not wait for ever either, nor may a second Tutti that wants to start."""
    await store.create_run(a_run("before"))
    postgres.freeze()
    try:
        async with asyncio.timeout(WITHIN_S):
            for _ in range(2):
                with pytest.raises(InternalError, match=NO_ANSWER):
                    await store.get_run("before")
            started = Store(str(store._place.data_dir / "other"), store._place.url)
            # All who wait for its opening share one attempt.
            opened = await asyncio.gather(*(started.ping() for _ in range(20)), return_exceptions=True)
    finally:
        postgres.thaw()

    assert all(isinstance(one, InternalError) and NO_ANSWER in one.message for one in opened), opened
    assert (await until_written(lambda: store.get_run("before"))).run_id == "before"
    await started.close()


@pytest.mark.timeout(400)
async def test_a_commit_whose_answer_was_lost_is_recognised(store: Store, proxy: Proxy) -> None:
    """It was done: the caller hears so, instead of an error that makes it come again."""
    proxy.lose_answer_to = COMMIT_OF_WRITES
    await store.create_run(a_run("run-1"))
    assert proxy.lost == 1
    proxy.lose_answer_to = COMMIT_OF_WRITES
    await store.append_events([an_event("once")])
    assert proxy.lost == 2
    proxy.lose_answer_to = COMMIT_OF_WRITES
    (answer,) = await store.apply_books([a_hold("h1")])

    assert proxy.lost == 3
    assert answer.outcome == "done"
    assert [event.kind for event in await store.events_after("run-1", 0, 0.0)] == ["once"]
    assert await outcomes_of(store, "h1") == ["replayed"]


@pytest.mark.timeout(400)
async def test_a_transaction_that_was_cut_before_its_commit_is_refused(store: Store, proxy: Proxy) -> None:
    """The receipt tells the one from the other: what was not done is never acknowledged."""
    proxy.lose_answer_to = COMMIT_OF_WRITES[:1]
    with pytest.raises(InternalError, match=NO_ANSWER):
        await store.apply_books([a_hold("h1")])

    assert proxy.lost == 1
    assert await outcomes_of(store, "h1") == ["done"]


@pytest.mark.timeout(400)
async def test_a_commit_in_doubt_while_nobody_answers_is_done_once(store: Store, proxy: Proxy) -> None:
    """It is refused, because nobody knows; it was done, and said again it is the same hold."""
    proxy.silent_after = COMMIT_OF_WRITES
    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(InternalError, match=NO_ANSWER):
            await store.apply_books([a_hold("h1")])
    assert proxy.silent, "the test did not meet the fault"
    proxy.silent = False

    answers = await until_written(lambda: store.apply_books([a_hold("h1")]))
    assert [answer.outcome for answer in answers] == ["replayed"]
    assert [figures.held for figures in await store.budget_figures()] == [a_hold("h1").amount_nano]
    assert await store.verify_books() == []


async def outcomes_of(store: Store, hold_id: str) -> list[Outcome]:
    """Say a hold and return what became of it."""
    return [answer.outcome for answer in await store.apply_books([a_hold(hold_id)])]


async def until_written(write: Callable[[], Awaitable[Value]]) -> Value:
    """Repeat a command until it is done, as its callers do."""
    until = time.monotonic() + WITHIN_S
    while True:
        try:
            return await write()
        except GatewayError:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.2)
