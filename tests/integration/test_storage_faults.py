"""A fault of the storage refuses writes with words that help, loses nothing acknowledged, and ends by itself.

The real thing where it can be had: a file system that is full or read-only, a lock of another process, and for failing
system calls a library preloaded into a process of its own. PostgreSQL's restart stands in ``test_storage_store``.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from actors.clock import SystemClock
from actors.event_log import EventLog
from actors.own_origin import own_origin
from actors.store import Store
from app.domain.errors import ConfigurationError, InternalError
from app.domain.events.spec import EventsSpec, FileSpec
from app.services.events.emitter import Emitter
from app.storage import database
from app.storage.place import FILE_NAME, Place
from tests.unit.actors.test_store import a_run, an_event

ROOT = Path(__file__).parents[2]
FAULTY_DISK = ROOT / "tests" / "fixtures" / "faulty_disk.c"
LINES_MAX = 5_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes; needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tutti-test", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"no right to mount a small file system: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="session")
def faulty_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes system calls fail, compiled here."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no C compiler")
        pytest.skip("no C compiler to build the library that makes system calls fail")
    library = tmp_path_factory.mktemp("faulty") / "faulty_disk.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(FAULTY_DISK), "-ldl"], check=True)
    return library


async def test_a_full_disk_refuses_writes_until_there_is_room(small_disk: Path) -> None:
    """ENOSPC from the kernel: the caller hears it before anything is paid for, and nothing has to be restarted."""
    store = Store(str(small_disk / "data"))
    await store.create_run(a_run("before"))
    ballast = small_disk / "ballast"
    fill(ballast)

    refused = await until_refused(store)
    assert "its disk is full" in refused.message
    assert refused.remedy == "free space there; Tutti goes on by itself then"
    assert [event.kind for event in await store.events_after("before", 0, 0.0)] == []
    written = {run.run_id for run in await store.list_runs(1_000, None)}
    ballast.unlink()
    await store.create_run(a_run("after"))

    assert {run.run_id for run in await store.list_runs(1_000, None)} == {*written, "after"}
    await store.close()
    assert verdict(small_disk / "data") == "ok"


async def test_a_spool_whose_disk_is_full_holds_up_nobody_and_loses_nothing(small_disk: Path) -> None:
    """ENOSPC from the kernel: who tells goes on at once, the operator reads why, and all is kept once there is room."""
    log = EventLog(str(small_disk / "data"), EventsSpec(file=FileSpec(folder=str(small_disk / "never"))))
    emitter = Emitter(log, own_origin("test"), SystemClock(), chance=random.random)
    told = [f"q-{number}" for number in range(40)]
    emitter.emit("access.refused", request_id=told[0], reason="x" * 1_000)
    assert await emitter.flush()
    ballast = small_disk / "ballast"
    fill(ballast)
    refused, took_s = 0, []
    for name in told[1:]:
        began_s = time.process_time()
        emitter.emit("access.refused", request_id=name, reason="x" * 1_000)
        took_s.append(time.process_time() - began_s)
        refused += not await emitter.flush()
    said = (await log.backlog()).note
    with pytest.raises(InternalError, match="its disk is full"):
        await emitter.record("operator.acted", operator="me")
    ballast.unlink()

    assert refused > 0
    assert statistics.median(took_s) < 0.001
    assert "its disk is full" in said
    assert await emitter.flush()
    assert (await log.backlog()).note == ""
    kept = [orjson.loads(event.body) for event in await log.pending(0, 1_000, 10**7)]
    assert [event["tutti.request.id"] for event in kept if event["event.action"] == "access.refused"] == told
    assert not emitter.dropped
    await log.close()


async def test_a_directory_that_is_full_at_the_start_is_used_once_there_is_room(small_disk: Path) -> None:
    """The actor that could not open its database tries again with the next command."""
    ballast = small_disk / "ballast"
    fill(ballast)
    store = Store(str(small_disk / "data"))
    with pytest.raises(InternalError, match="its disk is full"):
        await store.ping()

    ballast.unlink()

    assert await store.ping() == "ok"
    await store.close()


async def test_a_read_only_file_system_is_named_and_used_once_it_is_writable(small_disk: Path) -> None:
    """An operator's mistake at the start: the message names the directory, and the remedy is enough."""
    remount(small_disk, "ro")
    store = Store(str(small_disk / "data"))
    with pytest.raises(ConfigurationError, match="cannot be written") as refused:
        await store.ping()
    assert str(small_disk / "data") in refused.value.message
    assert refused.value.param == "data_dir"

    remount(small_disk, "rw")

    assert await store.ping() == "ok"
    await store.close()


async def test_a_lock_of_another_process_is_waited_for_then_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has the file open in an editor of databases: reading goes on, writing says who must let go."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 300)
    store = Store(str(tmp_path))
    await store.create_run(a_run())
    program = f"""
import sqlite3, sys
connection = sqlite3.connect({str(tmp_path / FILE_NAME)!r}, isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(  # noqa: ASYNC220  starting takes no time that anybody waits for here
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(InternalError, match="another program keeps it locked") as refused:
            await store.append_events([an_event("refused")])
        assert (await store.get_run("run-1")).run_id == "run-1"
        holder.stdin.close()
        holder.wait(30)

    await store.append_events([an_event("after")])

    assert "end the program" in (refused.value.remedy or "")
    assert [event.kind for event in await store.events_after("run-1", 0, 0.0)] == ["after"]
    await store.close()


async def test_a_file_that_is_no_database_is_named_and_left_alone(tmp_path: Path) -> None:
    """A damaged journal is a matter for a person with a backup, never for a fresh start over it."""
    (tmp_path / FILE_NAME).write_bytes(b"garbage " * 1_000)

    with pytest.raises(InternalError, match="the database is damaged") as refused:
        await Store(str(tmp_path)).ping()
    assert "tutti db restore" in (refused.value.remedy or "")
    assert (tmp_path / FILE_NAME).read_bytes() == b"garbage " * 1_000


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (f"sync {errno.EIO}", "its disk reports an error"),
        (f"write {errno.EIO}", "its disk reports an error"),
        (f"write {errno.ENOSPC}", "its disk is full"),
        (f"write {errno.EROFS}", "it is read-only"),
    ],
)
def test_failing_system_calls_lose_nothing_acknowledged(
    tmp_path: Path, faulty_disk: Path, fault: str, words: str
) -> None:
    """What fsync or write refuse is refused to the caller; after the fault, and after kill -9, all else is there."""
    control = tmp_path / "fault"
    environment = {**os.environ, "LD_PRELOAD": str(faulty_disk), "TUTTI_FAULT": str(control)}
    data = tmp_path / "data"
    with subprocess.Popen(
        [sys.executable, "-m", "tests.fixtures.storage_worker", str(data)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            lines = read_until(process, lambda found: count(found, "ok") >= 20)
            for _ in range(2):
                (tmp_path / "next").write_text(fault)
                (tmp_path / "next").replace(control)
                lines += read_until(process, lambda found: count(found, "no") >= 5)
                control.unlink()
                lines += read_until(process, lambda found: count(found, "ok") >= 20)
        finally:
            process.kill()

    acknowledged = [line.split()[1] for line in lines if line.startswith("ok ")]
    refusals = {line for line in lines if line.startswith("no ")}
    assert all(words in line and "Tutti goes on by itself" in line for line in refusals), refusals
    assert verdict(data) == "ok"
    kept = asyncio.run(runs_in(data))
    assert set(acknowledged) <= kept
    assert count(lines, "no") >= 10


def test_a_killed_writer_leaves_what_it_acknowledged_and_no_lock(place: Place) -> None:
    """kill -9 in the middle of writing: the successor gets the lock at once and finds everything that was promised."""
    words = [str(place.data_dir), *([place.url] if place.url else [])]
    acknowledged: set[str] = set()
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-m", "tests.fixtures.storage_worker", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                lines = read_until(process, lambda found: count(found, "ok") >= 30)
            finally:
                process.kill()
        acknowledged |= {line.split()[1] for line in lines if line.startswith("ok ")}
        assert count(lines, "no") == 0, lines

        assert acknowledged <= asyncio.run(runs_in(place.data_dir, place.url))


def read_until(process: subprocess.Popen[str], enough: Callable[[list[str]], bool]) -> list[str]:
    """Return the worker's lines up to the one with which there are enough."""
    assert process.stdout is not None
    lines: list[str] = []
    while not enough(lines):
        line = process.stdout.readline()
        assert line, f"the worker ended after {lines[-3:]}"
        lines.append(line)
        assert len(lines) < LINES_MAX, lines[-3:]
    return lines


def count(lines: list[str], word: str) -> int:
    """Return how many lines begin with that word."""
    return sum(line.startswith(f"{word} ") for line in lines)


def fill(ballast: Path) -> None:
    """Take all room there is left."""
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(descriptor, bytes(4096))
    os.close(descriptor)


async def until_refused(store: Store) -> InternalError:
    """Write until the store refuses; the log may have room for some more."""
    for number in range(200):
        try:
            await store.create_run(a_run(f"full-{number}", text="y" * 20_000))
        except InternalError as error:
            return error
    raise AssertionError("the disk did not get full")


def remount(folder: Path, mode: str) -> None:
    """Make a mounted file system read-only or writable."""
    subprocess.run(["mount", "-o", f"remount,{mode}", str(folder)], check=True)


def verdict(data_dir: Path) -> str:
    """Return what SQLite says of every page of the journal."""
    with contextlib.closing(sqlite3.connect(data_dir / FILE_NAME)) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])


async def runs_in(data_dir: Path, url: str | None = None) -> set[str]:
    """Return the ids of the runs that a new store finds."""
    store = Store(str(data_dir), url)
    found = {run.run_id for run in await store.list_runs(1_000_000, None)}
    await store.close()
    return found
