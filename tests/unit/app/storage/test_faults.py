"""A fault is told by what the driver or the kernel says, and its words hold neither SQL nor a password."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from app.domain.errors import ConfigurationError, InternalError
from app.storage.faults import FaultKind, copy_error, directory_error, fault, kind_of
from app.storage.place import Place

PLACE = Place(Path("/data"), "postgresql://tutti:hunter2@db.example.com:5433/books?sslmode=require")
SQL = "INSERT INTO event VALUES ('a secret prompt')"


def lite(code: int) -> DBAPIError:
    error = sqlite3.OperationalError("said by SQLite")
    error.sqlite_errorcode = code
    return OperationalError(SQL, None, error)


def post(state: type[psycopg.Error]) -> DBAPIError:
    return DBAPIError(SQL, None, state("said by PostgreSQL"))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (lite(sqlite3.SQLITE_FULL), FaultKind.FULL),
        (lite(sqlite3.SQLITE_IOERR_FSYNC), FaultKind.IO),
        (lite(sqlite3.SQLITE_BUSY), FaultKind.LOCKED),
        (lite(sqlite3.SQLITE_READONLY_DBMOVED), FaultKind.READ_ONLY),
        (lite(sqlite3.SQLITE_CORRUPT), FaultKind.DAMAGED),
        (lite(sqlite3.SQLITE_NOTADB), FaultKind.DAMAGED),
        (lite(sqlite3.SQLITE_ERROR), None),
        (post(psycopg.errors.DiskFull), FaultKind.FULL),
        (post(psycopg.errors.TooManyConnections), FaultKind.BUSY),
        (post(psycopg.errors.OutOfMemory), FaultKind.IO),
        (post(psycopg.errors.AdminShutdown), FaultKind.GONE),
        (post(psycopg.errors.CannotConnectNow), FaultKind.GONE),
        (post(psycopg.errors.LockNotAvailable), FaultKind.LOCKED),
        (post(psycopg.errors.QueryCanceled), FaultKind.SLOW),
        (post(psycopg.errors.DeadlockDetected), FaultKind.LOCKED),
        (post(psycopg.errors.ReadOnlySqlTransaction), FaultKind.READ_ONLY),
        (post(psycopg.errors.InvalidPassword), FaultKind.REFUSED),
        (post(psycopg.errors.InsufficientPrivilege), FaultKind.REFUSED),
        (post(psycopg.errors.DataCorrupted), FaultKind.DAMAGED),
        (post(psycopg.errors.UniqueViolation), None),
        (post(psycopg.OperationalError), FaultKind.GONE),
        (IntegrityError(SQL, None, sqlite3.IntegrityError("unique")), None),
        (OSError(errno.ENOSPC, "no space"), FaultKind.FULL),
        (OSError(errno.EROFS, "read-only"), FaultKind.READ_ONLY),
        (ValueError("ours"), None),
    ],
    ids=repr,
)
def test_a_fault_is_told_by_its_code(error: BaseException, kind: FaultKind | None) -> None:
    """What is no fault is a bug of one command, and must not fail its neighbours."""
    assert kind_of(error) is kind


@pytest.mark.parametrize("kind", list(FaultKind))
def test_every_fault_says_what_to_do_and_hides_the_rest(kind: FaultKind) -> None:
    """The message reaches callers: no SQL, no parameters, no password, and a remedy."""
    error = next(
        error
        for error in (
            lite(sqlite3.SQLITE_FULL),
            lite(sqlite3.SQLITE_IOERR),
            lite(sqlite3.SQLITE_READONLY),
            lite(sqlite3.SQLITE_BUSY),
            lite(sqlite3.SQLITE_CORRUPT),
            post(psycopg.errors.AdminShutdown),
            post(psycopg.errors.QueryCanceled),
            post(psycopg.errors.TooManyConnections),
            post(psycopg.errors.InvalidPassword),
        )
        if kind_of(error) is kind
    )

    told = fault(error, PLACE)

    assert isinstance(told, InternalError)
    assert "'postgresql://db.example.com:5433/books'" in told.message
    assert (told.remedy or "").endswith("Tutti goes on by itself then")
    for hidden in ("INSERT", "secret", "hunter2", "said by", "tutti:"):
        assert hidden not in f"{told.message} {told.remedy}"


def test_a_bug_of_one_command_is_called_one() -> None:
    """An operator must not look at the disk for it."""
    told = fault(IntegrityError(SQL, None, sqlite3.IntegrityError("unique")), PLACE)

    assert "bug of ours" in (told.remedy or "")
    assert "secret" not in told.message


def test_an_input_output_error_is_looked_into(tmp_path: Path) -> None:
    """SQLite says "I/O error" for much; a disk that takes a probe has another trouble than being full."""
    told = fault(lite(sqlite3.SQLITE_IOERR_WRITE), Place(tmp_path))

    assert "its disk reports an error" in told.message
    assert list(tmp_path.iterdir()) == [], "the probe is gone"
    gone = fault(lite(sqlite3.SQLITE_IOERR_WRITE), Place(tmp_path / "missing"))
    assert isinstance(gone, InternalError)


def test_a_directory_s_error_is_the_operator_s_unless_the_disk_is_to_blame() -> None:
    """Permissions are configuration; a full disk passes."""
    closed = directory_error(PermissionError(errno.EACCES, "Permission denied"), Path("/data"))
    file = directory_error(NotADirectoryError(errno.ENOTDIR, "Not a directory"), Path("/data"))
    full = directory_error(OSError(errno.ENOSPC, "No space left"), Path("/data"))

    assert isinstance(closed, ConfigurationError)
    assert closed.param == "data_dir"
    assert isinstance(file, ConfigurationError)
    assert isinstance(full, InternalError)
    assert "its disk is full" in copy_error(sqlite_full(), Path("/copy")).message


def sqlite_full() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error
