"""Says what is wrong with the storage, and what to do, in words that hold no SQL, no parameters and no password.

A fault is the storage's (disk full, locked, server gone): it ends by itself or by a person's hand, and writing goes on
then. What is no fault is a bug in the command that met it.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sqlalchemy.exc import DBAPIError, SQLAlchemyError, TimeoutError

from app.domain.errors import ConfigurationError, GatewayError, InternalError
from app.storage.place import Place


class FaultKind(StrEnum):
    """What is wrong with the storage."""

    FULL = "full"
    IO = "io"
    READ_ONLY = "read_only"
    LOCKED = "locked"
    GONE = "gone"
    SLOW = "slow"
    BUSY = "busy"
    DAMAGED = "damaged"
    REFUSED = "refused"
    """The database server does not let us in, or not do this."""


@dataclass(frozen=True, slots=True)
class _Words:
    what: str
    remedy: str


_WORDS = {
    FaultKind.FULL: _Words("its disk is full", "free space there"),
    FaultKind.IO: _Words(
        "its disk reports an error", "look at the disk's health (the kernel's log) and its free space"
    ),
    FaultKind.READ_ONLY: _Words("it is read-only", "make it writable again (permissions, mount, or a standby server)"),
    FaultKind.LOCKED: _Words("another program keeps it locked", "end the program that has the database open"),
    FaultKind.GONE: _Words("the database server does not answer", "start it, or check `store.url` and the network"),
    FaultKind.SLOW: _Words("the database server takes too long", "look at its load, its disk and its locks"),
    FaultKind.BUSY: _Words("the database server takes no more connections", "raise max_connections, or free some"),
    FaultKind.DAMAGED: _Words(
        "the database is damaged", "stop Tutti and restore a backup with `tutti db restore FILE`"
    ),
    FaultKind.REFUSED: _Words(
        "the database server refuses us", "check user, password, database and rights in `store.url`"
    ),
}
PROBE_BYTES = 65_536
GOES_ON = "; Tutti goes on by itself then"

# Primary result codes: https://www.sqlite.org/rescode.html
_SQLITE = {
    5: FaultKind.LOCKED,
    6: FaultKind.LOCKED,
    7: FaultKind.IO,
    8: FaultKind.READ_ONLY,
    10: FaultKind.IO,
    11: FaultKind.DAMAGED,
    13: FaultKind.FULL,
    14: FaultKind.IO,
    26: FaultKind.DAMAGED,
}
# https://www.postgresql.org/docs/current/errcodes-appendix.html, longest prefix first.
_POSTGRESQL = (
    ("53100", FaultKind.FULL),
    ("53300", FaultKind.BUSY),
    ("53", FaultKind.IO),
    ("25006", FaultKind.READ_ONLY),
    ("55P03", FaultKind.LOCKED),
    ("40", FaultKind.LOCKED),
    ("57014", FaultKind.SLOW),
    ("57", FaultKind.GONE),
    ("08", FaultKind.GONE),
    ("28", FaultKind.REFUSED),
    ("3D", FaultKind.REFUSED),
    ("42501", FaultKind.REFUSED),
    ("58", FaultKind.IO),
    ("XX001", FaultKind.DAMAGED),
    ("XX002", FaultKind.DAMAGED),
)
_ERRNO = {
    errno.ENOSPC: FaultKind.FULL,
    errno.EDQUOT: FaultKind.FULL,
    errno.EFBIG: FaultKind.FULL,
    errno.EIO: FaultKind.IO,
    errno.EROFS: FaultKind.READ_ONLY,
    errno.EACCES: FaultKind.READ_ONLY,
    errno.EPERM: FaultKind.READ_ONLY,
}


def kind_of(error: BaseException) -> FaultKind | None:
    """Return what is wrong with the storage, or None where the storage is not to blame."""
    if isinstance(error, OSError):
        return _ERRNO.get(error.errno or 0, FaultKind.IO)
    if isinstance(error, TimeoutError):
        return FaultKind.BUSY
    if not isinstance(error, DBAPIError | sqlite3.Error):
        return None
    code = getattr(error.orig if isinstance(error, DBAPIError) else error, "sqlite_errorcode", None)
    if isinstance(code, int):
        return _SQLITE.get(code & 0xFF)
    if isinstance(error, sqlite3.Error):
        return None
    state = getattr(error.orig, "sqlstate", None)
    if isinstance(state, str):
        return next((kind for prefix, kind in _POSTGRESQL if state.startswith(prefix)), None)
    return _without_state(error)


def fault(error: BaseException, place: Place | None) -> GatewayError:
    """Return the error for a caller whose write or read met ``error``.

    Args:
        error: From the database's driver or the file system.
        place: Where the database is; None where that is not known.
    """
    if isinstance(error, GatewayError):
        return error
    kind = kind_of(error)
    if kind is None:
        return InternalError(
            f"the journal refused this ({type(error).__name__})", remedy="a bug of ours: the server's log says more"
        )
    if kind is FaultKind.IO and place is not None and place.file is not None:
        kind = _look_closer(place.file)
    return _unusable(kind, str(place or "database"))


def directory_error(error: OSError, directory: Path) -> GatewayError:
    """Return the error for a data directory that cannot be created or written."""
    if kind_of(error) in (FaultKind.FULL, FaultKind.IO) and error.errno not in (errno.ENOTDIR, errno.ELOOP):
        return _unusable(_ERRNO.get(error.errno or 0, FaultKind.IO), repr(str(directory)))
    return ConfigurationError(
        f"the data directory {str(directory)!r} cannot be written: {error.strerror}",
        param="data_dir",
        remedy="make it writable for the user that runs Tutti, or name another data_dir in the configuration",
    )


def copy_error(error: BaseException, target: Path) -> InternalError:
    """Return the error for a copy of the database that could not be made."""
    words = _WORDS[kind_of(error) or FaultKind.IO]
    return InternalError(f"the copy {str(target)!r} could not be made: {words.what}", remedy=words.remedy)


def is_storage_error(error: BaseException) -> bool:
    """Whether ``error`` comes from below us: driver, pool or file system."""
    return isinstance(error, SQLAlchemyError | sqlite3.Error | OSError)


def _unusable(kind: FaultKind, place: str) -> InternalError:
    words = _WORDS[kind]
    return InternalError(f"the journal {place} cannot be used: {words.what}", remedy=words.remedy + GOES_ON)


def _look_closer(file: Path) -> FaultKind:
    """Ask the disk itself: SQLite says "I/O error" for a full or read-only one, too, depending on what it was doing."""
    probe = file.with_name(f".{file.name}.probe")
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, bytes(PROBE_BYTES))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
            probe.unlink()
    except OSError as error:
        return _ERRNO.get(error.errno or 0, FaultKind.IO)
    return FaultKind.IO


def _without_state(error: DBAPIError) -> FaultKind | None:
    """Sort an error that carries no code: PostgreSQL's driver gives none where no server spoke."""
    name = type(error.orig).__name__
    if error.connection_invalidated:
        return FaultKind.GONE
    if name != "OperationalError" and name != "ConnectionTimeout":
        return None
    said = str(error.orig)
    if "password" in said or "authentication" in said or "does not exist" in said:
        return FaultKind.REFUSED
    if "too many clients" in said or "remaining connection slots" in said:
        return FaultKind.BUSY
    return FaultKind.GONE
