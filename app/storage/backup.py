"""Copies a journal's file while it is written to, checks such a copy, and puts one in the place of a journal.

SQLite only: PostgreSQL has tools of its own for this (``pg_dump``, ``pg_restore``, continuous archiving).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

from sqlalchemy import create_engine

from app.domain.errors import ConfigurationError, NotFoundError
from app.storage import migrating
from app.storage.faults import copy_error, is_storage_error

_COMPANIONS = ("-wal", "-shm", "-journal")


def copy_file(source: Path, target: Path) -> None:
    """Copy the database to ``target``, whole or not at all, replacing what is there; a writer may go on meanwhile.

    One step of SQLite's online backup: a reader's snapshot, which in WAL keeps no writer waiting. Copying in several
    steps would begin again with every commit of another process.

    Raises:
        InternalError: the disk refuses; nothing is left behind.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        # It holds what people asked and models answered: for the owner's eyes, wherever it is written to.
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with (
            contextlib.closing(_open_read_only(source)) as reading,
            contextlib.closing(sqlite3.connect(partial)) as writing,
        ):
            reading.backup(writing, pages=-1)
            # One file that needs no companions, wherever it is carried.
            writing.execute("PRAGMA journal_mode=DELETE")
        _sync(partial)
        partial.replace(target)
        _sync(target.parent)
    except BaseException as error:
        for name in (partial, *(partial.with_name(partial.name + end) for end in _COMPANIONS)):
            name.unlink(missing_ok=True)
        if is_storage_error(error):
            raise copy_error(error, target) from error
        raise


def require_file(path: Path) -> None:
    """Raise NotFoundError where there is no such file."""
    if not path.is_file():
        raise NotFoundError(f"there is no file {str(path)!r}", param="FILE", remedy="name one that exists")


def check_file(path: Path) -> str:
    """Return the schema revision of a copy after checking all of its pages.

    Raises:
        NotFoundError: there is no such file.
        ConfigurationError: it is no journal, is damaged, or was written by a newer Tutti.
    """
    require_file(path)
    try:
        with contextlib.closing(_open_read_only(path)) as connection:
            verdict = str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
            orphan = connection.execute("PRAGMA foreign_key_check").fetchone()
    except sqlite3.Error:
        verdict, orphan = "it is no SQLite database", None
    if verdict != "ok" or orphan is not None:
        raise ConfigurationError(
            f"the file {str(path)!r} is damaged ({verdict if verdict != 'ok' else 'rows without their owner'})",
            param="FILE",
            remedy="take another backup",
        )
    engine = create_engine("sqlite://", creator=lambda: _open_read_only(path))
    try:
        with engine.connect() as connection:
            revision = migrating.find_revision(connection, repr(str(path)))
    finally:
        engine.dispose()
    if revision is None:
        raise ConfigurationError(f"the file {str(path)!r} holds no journal", param="FILE", remedy="name a backup")
    return revision


def restore_file(backup: Path, file: Path, *, aside: Path) -> bool:
    """Put ``backup`` in the place of the journal ``file``, which is kept as ``aside``; the caller holds the lock.

    Safe to repeat after a crash at any point: until the last rename, which is atomic, the old journal stands.

    Returns:
        Whether there was a journal to keep.
    """
    incoming = file.with_name(f".{file.name}.restoring")
    copy_file(backup, incoming)
    existed = file.exists()
    if existed:
        _settle(file)
        _keep(file, aside)
    for end in _COMPANIONS:
        companion = file.with_name(file.name + end)
        # What could not be moved into a damaged file goes with it.
        if companion.exists():
            companion.replace(aside.with_name(aside.name + end))
    incoming.replace(file)
    _sync(file.parent)
    return existed


def _keep(file: Path, aside: Path) -> None:
    try:
        os.link(file, aside)
    except OSError:
        # A file system without links: the copy takes longer and room, no more.
        shutil.copy2(file, aside)


def _settle(file: Path) -> None:
    """Move what is in the log into the file, where the database still can; a damaged one is kept as it is."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _open_read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
