"""`tutti db`: copies taken under load and restored elsewhere hold what was acknowledged; refusals change nothing."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from sqlalchemy import create_engine
from typer.testing import CliRunner, Result

from actors.store import Store
from app import cli
from app.storage import migrating
from app.storage.database import open_database
from app.storage.place import FILE_NAME, Place
from app.terminal.execute import Doors
from tests.fixtures.postgres import PostgresServer
from tests.integration.test_storage_faults import ROOT, count, fill, read_until, runs_in, small_disk, verdict
from tests.integration.test_storage_migrations import write_journal_v1
from tests.unit.actors.test_store import a_run

__all__ = ["small_disk"]
Play = Callable[..., Result]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Run `tutti db ...` on a database."""

    def run(place: Place, *words: str, answer: str | None = None) -> Result:
        account = {"name": "a", "provider": "custom", "base_url": "http://127.0.0.1:1", "models": ["m"]}
        store = {"url": place.url.replace("$", "$$") if place.url else None}
        config = tmp_path / "tutti.yaml"
        config.write_text(yaml.safe_dump({"accounts": [account], "data_dir": str(place.data_dir), "store": store}))
        doors = Doors(interactive=lambda: answer is not None, read_line=lambda: answer or "")
        return CliRunner().invoke(cli.app, ["db", *words, "--config", str(config)], obj=doors)

    return run


async def with_runs(place: Place, *run_ids: str) -> None:
    store = Store(str(place.data_dir), place.url)
    for run_id in run_ids:
        await store.create_run(a_run(run_id))
    await store.close()


def test_a_copy_taken_under_load_and_restored_elsewhere_holds_what_was_acknowledged(tmp_path: Path, play: Play) -> None:
    """The restore drill: a backup that was never restored is a hope."""
    live, copy = Place(tmp_path / "live"), tmp_path / "copy.sqlite"
    with subprocess.Popen(
        [sys.executable, "-m", "tests.fixtures.storage_worker", str(live.data_dir)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        try:
            before = read_until(writer, lambda lines: count(lines, "ok") >= 200)
            taken = play(live, "backup", str(copy))
            after = read_until(writer, lambda lines: count(lines, "ok") >= 20)
        finally:
            writer.kill()
    assert taken.exit_code == 0, taken.output
    elsewhere = Place(tmp_path / "elsewhere")

    restored = play(elsewhere, "restore", str(copy))

    assert restored.exit_code == 0, restored.output
    assert verdict(elsewhere.data_dir) == "ok"
    assert copy.stat().st_mode & 0o777 == 0o600, "what people asked is not for every user of the machine"
    runs = asyncio.run(runs_in(elsewhere.data_dir))
    assert {line.split()[1] for line in before} <= runs
    numbers = sorted(int(run_id.split("-")[1]) for run_id in runs)
    assert numbers == list(range(1, len(numbers) + 1)), "a moment of the writer's, without gaps"
    assert count(before + after, "no") == 0, "the copy kept the writer from nothing"


async def test_restoring_keeps_what_was_there_and_asks_first(tmp_path: Path, play: Play) -> None:
    """A restore over the wrong database must be possible to take back."""
    old, new, copy = Place(tmp_path / "old"), Place(tmp_path / "new"), tmp_path / "copy.sqlite"
    await with_runs(old, "run-old")
    await with_runs(new, "run-new")
    assert play(old, "backup", str(copy)).exit_code == 0

    for answer in (None, "n"):
        refused = play(new, "restore", str(copy), answer=answer)
        assert refused.exit_code == 2
        assert "Nothing was changed" in refused.output
        assert await runs_in(new.data_dir) == {"run-new"}
    assert play(new, "restore", str(copy), answer="y").exit_code == 0

    assert await runs_in(new.data_dir) == {"run-old"}
    (aside,) = new.data_dir.glob("journal.replaced-*.sqlite")
    assert play(new, "restore", str(aside), "--yes").exit_code == 0
    assert await runs_in(new.data_dir) == {"run-new"}


async def test_a_writer_of_postgresql_is_seen_and_its_schema_stays(
    tmp_path: Path, play: Play, postgres: PostgresServer
) -> None:
    """From another machine there is no common directory: the database's own lock tells."""
    url = postgres.new_database()
    store = Store(str(tmp_path / "one"), url)
    await store.ping()
    elsewhere = Place(tmp_path / "two", url)

    refused = play(elsewhere, "migrate", "--to", "1", "--yes")

    assert (refused.exit_code, "another Tutti writes to this PostgreSQL" in refused.output) == (2, True)
    assert "in use: 'tutti store" in play(elsewhere, "status").output
    await store.close()
    assert "in use: no" in play(elsewhere, "status").output


async def test_a_running_server_keeps_its_database(tmp_path: Path, play: Play) -> None:
    """Neither schema nor file may change under a writer; a copy may be taken."""
    place, copy = Place(tmp_path / "data"), tmp_path / "copy.sqlite"
    store = Store(str(place.data_dir))
    await store.create_run(a_run())

    assert play(place, "backup", str(copy)).exit_code == 0
    for words in (("restore", str(copy), "--yes"), ("migrate",), ("migrate", "--to", "1", "--yes")):
        refused = play(place, *words)
        assert (refused.exit_code, "in use by Tutti store, pid" in refused.output) == (2, True), words
    assert "Tutti store, pid" in play(place, "status").output
    await store.close()


@pytest.mark.parametrize("content", [b"garbage " * 2_000, b"", None])
async def test_what_is_no_copy_is_refused(tmp_path: Path, play: Play, content: bytes | None) -> None:
    """The last moment to notice a broken backup is before it takes a database's place."""
    place, copy = Place(tmp_path / "data"), tmp_path / "copy.sqlite"
    await with_runs(place, "run-1")
    if content is not None:
        copy.write_bytes(content)

    refused = play(place, "restore", str(copy), "--yes")

    assert refused.exit_code == 2
    assert str(copy) in refused.output
    assert await runs_in(place.data_dir) == {"run-1"}


async def test_a_copy_with_a_torn_page_is_refused(tmp_path: Path, play: Play) -> None:
    """Half of a page of zeros in the middle: SQLite opens it, so all pages must be looked at."""
    place, copy = Place(tmp_path / "data"), tmp_path / "copy.sqlite"
    await with_runs(place, *(f"run-{number}" for number in range(200)))
    assert play(place, "backup", str(copy)).exit_code == 0
    whole = copy.read_bytes()
    at = whole.index(b"run-100")
    copy.write_bytes(whole[: at - 1_000] + bytes(2_000) + whole[at + 1_000 :])

    refused = play(place, "restore", str(copy), "--yes")

    assert refused.exit_code == 2
    assert "damaged" in refused.output


async def test_a_copy_that_finds_no_room_leaves_nothing_behind(tmp_path: Path, play: Play, small_disk: Path) -> None:
    """Half a copy under the name of a whole one would be found on the worst of days."""
    place = Place(tmp_path / "data")
    await with_runs(place, "run-1")
    fill(small_disk / "ballast")

    refused = play(place, "backup", str(small_disk / "copy.sqlite"))

    assert refused.exit_code == 4
    assert "its disk is full" in refused.output
    assert set(os.listdir(small_disk)) == {"ballast"}


def test_migrate_goes_down_and_up_again_and_status_says_where_it_stands(place: Place, play: Play) -> None:
    """Going back loses what newer versions keep, so it is asked for; on SQLite the file as it was stays."""
    open_database(place.data_dir, place.url).dispose()
    first, newest = migrating.revisions()[0], migrating.head()
    assert first != newest

    assert play(place, "migrate", "--to", first).exit_code == 2
    assert stands(play, place) == newest
    assert play(place, "migrate", "--to", "77").exit_code == 2
    down = play(place, "migrate", "--to", first, "--yes")
    assert down.exit_code == 0, down.output
    assert stands(play, place) == first
    assert (place.data_dir / f"journal.before-{first}.sqlite").exists() == (place.url is None)
    dry = play(place, "migrate", "--dry-run")
    assert "CREATE TABLE" in dry.output
    assert stands(play, place) == first
    assert play(place, "migrate").exit_code == 0
    assert stands(play, place) == newest
    assert play(place, "migrate", "--dry-run").output == "-- nothing to do\n"


def test_the_first_version_s_file_is_copied_before_it_is_migrated(tmp_path: Path, play: Play) -> None:
    """An upgrade that is regretted is taken back with `restore`, and the old Tutti reads the result."""
    write_journal_v1(tmp_path)

    assert play(Place(tmp_path), "migrate").exit_code == 0

    kept = tmp_path / f"journal.before-{migrating.head()}.sqlite"
    assert play(Place(tmp_path), "restore", str(kept), "--yes").exit_code == 0
    engine = create_engine(f"sqlite:///{tmp_path / FILE_NAME}")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT value FROM meta").scalar() == "1"
        assert connection.exec_driver_sql("SELECT state FROM task").scalar() == "completed"
    engine.dispose()


def test_postgresql_s_own_tools_are_named_and_its_password_is_not(
    tmp_path: Path, play: Play, postgres: PostgresServer
) -> None:
    """A copy of ours would be worse than what every operator of PostgreSQL has."""
    place = Place(tmp_path, postgres.new_database())
    (tmp_path / "copy").write_bytes(b"x")

    outputs = [
        play(place, "backup", str(tmp_path / "new")).output,
        play(place, "restore", str(tmp_path / "copy")).output,
    ]
    outputs.append(play(place, "status").output)

    assert "pg_dump" in outputs[0]
    assert "pg_restore" in outputs[1]
    assert re.search(r"postgresql://127\.0\.0\.1:\d+/test_", outputs[2])
    assert postgres.password not in "".join(outputs)


def stands(play: Play, place: Place) -> str:
    """Return the revision that `tutti db status` tells."""
    done = play(place, "status", "--json")
    assert done.exit_code == 0, done.output
    return str(json.loads(done.stdout)["revision"])
