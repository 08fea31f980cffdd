"""The schema goes up and down on both engines with data in place, and ends as the code's own tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Engine, func, insert, inspect, select

from actors.store import Store
from app.domain.books.entries import Expire, Void
from app.domain.errors import ConfigurationError, RequestError
from app.domain.run import RunRecord, RunStatus
from app.services.conduct import Conductor, Tools
from app.services.prompts import Prompts
from app.storage import journal, migrating, tables
from app.storage.database import bring_to, open_database, open_for_writing
from app.storage.place import FILE_NAME, Place
from tests.fakes.clock import RunningClock
from tests.fakes.journal import InProcessJournal
from tests.fakes.models import ScriptedCaller, orchestra
from tests.unit.actors.test_store import an_event
from tests.unit.actors.test_store_books import NOON, PRICE, TEAM, a_hold, a_settle, an_entry
from tests.unit.app.services.test_conduct import by_purpose

JOURNAL_V1 = Path(__file__).parents[1] / "fixtures" / "journal_v1.sql"


@pytest.fixture
def engine(place: Place) -> Iterator[Engine]:
    opened = open_for_writing(place)
    yield opened
    opened.dispose()


class SoonAfter(RunningClock):
    """A clock by which a run of the past was accepted just now: its time limit is not what is tested."""

    def __init__(self, record: RunRecord) -> None:
        self._lag_s = super().wall_s() - record.created_s - 1.0

    def wall_s(self) -> float:
        return super().wall_s() - self._lag_s


def write_journal_v1(data_dir: Path) -> None:
    """Leave in ``data_dir`` what the last Tutti without migrations left there when it was killed."""
    connection = sqlite3.connect(data_dir / FILE_NAME)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.executescript(JOURNAL_V1.read_text(encoding="utf-8"))
    connection.close()


def begin_in_v1(place: Place) -> None:
    """Leave in ``place`` what the first version left; its rows in PostgreSQL, which it did not know."""
    if place.url is None:
        write_journal_v1(place.data_dir)
        return
    folder = place.data_dir / "v1"
    folder.mkdir()
    write_journal_v1(folder)
    source, target = open_database(folder), open_database(place.data_dir, place.url)
    with source.connect() as read, target.begin() as write:
        for table in tables.metadata.sorted_tables:
            rows = [dict(row) for row in read.execute(select(table)).mappings()]
            if rows and table.name != "meta":
                write.execute(insert(table), rows)
    source.dispose()
    target.dispose()


def tables_of(engine: Engine) -> set[str]:
    """Return the tables there are, Alembic's own left out."""
    return set(inspect(engine).get_table_names()) - {migrating.VERSION_TABLE}


def add_run(engine: Engine, run_id: str) -> None:
    """Write one run with an event, in what every version of the table has."""
    values = {name: "x" for name in ("status", "request", "request_sha", "questions", "answers", "assumptions")}
    with engine.begin() as connection:
        connection.execute(insert(tables.run).values(id=run_id, created_s=1.0, updated_s=1.0, **values))
        journal.append_events(connection, [an_event("k", run_id)])


def run_ids(engine: Engine) -> set[str]:
    """Return the runs that have their event."""
    with engine.begin() as connection:
        runs = connection.execute(select(tables.run.c.id)).scalars().all()
        return {run_id for run_id in runs if journal.events_after(connection, run_id, 0)}


def test_every_revision_goes_up_and_down_with_data_in_place(engine: Engine, place: Place) -> None:
    """An operator who must go back to the version before loses no run, and gets all the way up again."""
    revisions = migrating.revisions()
    for revision in revisions:
        bring_to(engine, place, revision)
        add_run(engine, f"at-{revision}")
    everything = {f"at-{revision}" for revision in revisions}
    assert run_ids(engine) == everything

    for revision in reversed(revisions):
        assert bring_to(engine, place, revision)[1] == revision
        assert run_ids(engine) == everything
    bring_to(engine, place, None)
    assert run_ids(engine) == everything

    bring_to(engine, place, migrating.BASE)
    assert tables_of(engine) == set()
    bring_to(engine, place, None)
    assert run_ids(engine) == set()


def test_going_down_and_up_again_works_with_a_row_in_every_table(engine: Engine, place: Place) -> None:
    """Constraints show only with data; what a lower revision does not have is gone, all else stays."""
    bring_to(engine, place, None)
    filled = [table for table in tables.metadata.sorted_tables if table.name != "meta"]
    with engine.begin() as connection:
        for table in filled:
            connection.execute(table.insert().values({column.name: a_value(column) for column in table.columns}))
    assert {table.name for table in filled} | {"meta"} == tables_of(engine)

    for revision in reversed(migrating.revisions()):
        bring_to(engine, place, revision)
    kept = tables_of(engine)
    bring_to(engine, place, None)

    with engine.begin() as connection:
        rows = {table.name: connection.execute(select(func.count()).select_from(table)).scalar() for table in filled}
    assert rows == {table.name: int(table.name in kept) for table in filled}


def a_value(column: Column[Any]) -> object:
    """Return a value that fits the column; the same everywhere, so that references find their row."""
    kinds: dict[type, object] = {str: "x", int: 1, float: 1.0, bytes: b"x", bool: True}
    return kinds[column.type.python_type]


def test_the_migrated_schema_is_the_one_of_the_code(engine: Engine, place: Place) -> None:
    """A table changed without a revision, or a revision without its table, shows here."""
    bring_to(engine, place, None)

    with engine.connect() as connection:
        assert migrating.differences(connection) == []
        connection.rollback()
        connection.exec_driver_sql("ALTER TABLE limiter_state DROP COLUMN saved_s")
        assert migrating.differences(connection), "the comparison must be able to fail"


def test_opening_again_changes_nothing(engine: Engine, place: Place) -> None:
    """A start is no migration unless there is one."""
    assert bring_to(engine, place, None)[0] is None

    before, after, kept = bring_to(engine, place, None)

    assert (before, after, kept) == (migrating.head(), migrating.head(), None)


@pytest.mark.parametrize("number", ["9999", "0"])
def test_a_schema_that_this_tutti_does_not_know_is_refused(engine: Engine, place: Place, number: str) -> None:
    """A newer journal must not be written into by an older Tutti."""
    bring_to(engine, place, None)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{number}'")
        connection.exec_driver_sql(f"UPDATE meta SET value = '{number}'")
    engine.dispose()

    with pytest.raises(ConfigurationError, match=f"schema version {number}, this Tutti knows") as refused:
        open_database(place.data_dir, place.url)
    assert "use the version of Tutti that wrote it" in (refused.value.remedy or "")


def test_a_revision_that_does_not_exist_is_refused(engine: Engine, place: Place) -> None:
    """A slip in --to must not end in a half-way schema."""
    with pytest.raises(RequestError, match="no schema revision '77'"):
        bring_to(engine, place, "77")
    assert tables_of(engine) == set()


def test_a_failing_migration_changes_nothing(engine: Engine, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A schema is whole or as it was: both engines change it in one transaction."""

    def fail(*_arguments: Any) -> None:
        raise ConfigurationError("stopped half-way")

    monkeypatch.setattr(migrating, "_note_number", fail)
    with pytest.raises(ConfigurationError, match="half-way"):
        bring_to(engine, place, None)

    monkeypatch.undo()
    assert tables_of(engine) == set()
    bring_to(engine, place, None)
    add_run(engine, "after")
    assert run_ids(engine) == {"after"}


def test_the_dry_run_prints_sql_that_makes_the_same_schema(engine: Engine, place: Place, engine_name: str) -> None:
    """What an operator reviews, or runs by hand, is what would be run."""
    script = migrating.render_sql(engine_name, before=None)
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        if engine_name == "sqlite":
            driver.executescript(script)
        else:
            driver.execute(script)
            driver.commit()

        assert migrating.differences(connection) == []


async def test_a_run_under_way_in_the_first_version_goes_on_under_this_one(tmp_path: Path) -> None:
    """An upgrade in the middle of a run: nothing is lost, and what was paid for is not bought again."""
    write_journal_v1(tmp_path)
    store = Store(str(tmp_path))
    await go_on(store)
    await store.close()


@pytest.mark.parametrize("revision", migrating.revisions()[1:-1])
async def test_a_run_and_books_under_way_in_an_older_version_go_on(place: Place, revision: str) -> None:
    """What a version wrote that already kept books: holds that are open end, entries that are said again are known."""
    begin_in_v1(place)
    first = Store(str(place.data_dir), place.url)
    await first.sync_books([TEAM], [PRICE])
    await first.apply_books([a_hold("h1"), a_settle("h1", an_entry("e1")), a_hold("h2"), a_hold("h3", 200)])
    await first.apply_books([Void(hold_id="h3", at_s=NOON), a_hold("lost", 100), Expire(at_s=NOON, holder="nobody")])
    await first.close()
    engine = open_for_writing(place)
    assert bring_to(engine, place, revision)[1] == revision
    engine.dispose()

    store = Store(str(place.data_dir), place.url)
    assert await store.verify_books() == []
    await go_on(store)
    said_again = await store.apply_books([a_hold("h2"), a_settle("h1", an_entry("e1"))])
    await store.apply_books([a_settle("h2", an_entry("e2", 100)), Expire(at_s=NOON, holder="r1")])
    (figures,) = await store.budget_figures()

    assert [answer.outcome for answer in said_again] == ["replayed", "replayed"]
    assert (figures.spent, figures.held, figures.unknown) == (300 + 100, 0, 100)
    assert [hold.hold_id for hold in await store.unknown_holds()] == ["lost"]
    assert await store.verify_books() == []
    await store.close()


async def go_on(store: Store) -> None:
    """Conduct the run that was interrupted to its end; what was paid for is not bought again."""
    interrupted: RunRecord = await store.get_run("run-1")
    caller = ScriptedCaller(by_purpose)
    tools = Tools(
        caller=caller,
        journal=InProcessJournal(store),
        clock=SoonAfter(interrupted),
        orchestra=orchestra(redo_max=1),
        prompts=Prompts.load(),
    )
    assert await store.unfinished_runs() == ["run-1"]
    assert [task.task_id for task in interrupted.tasks] == ["t1"]

    ended = await Conductor(interrupted, tools).conduct()

    assert ended.status is RunStatus.COMPLETED
    assert sorted(call.task_id or "" for call in caller.calls if call.purpose == "task") == ["t2", "t3"]


def test_the_first_version_is_kept_beside_before_it_is_migrated(tmp_path: Path) -> None:
    """Whoever must go back to the old Tutti has the file it knows."""
    write_journal_v1(tmp_path)
    engine = open_for_writing(Place(tmp_path))
    try:
        before, after, kept = bring_to(engine, Place(tmp_path), None)
    finally:
        engine.dispose()

    assert before == migrating.FIRST
    if after == migrating.FIRST:
        assert kept is None
        return
    assert kept is not None
    old = sqlite3.connect(kept)
    assert old.execute("SELECT value FROM meta").fetchall() == [("1",)]
    assert old.execute("SELECT count(*) FROM task").fetchall() == [(1,)]
    old.close()
