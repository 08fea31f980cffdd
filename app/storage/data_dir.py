"""The data directory's lock: one process writes there, and another is told who does."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from app.domain.errors import ConflictError


def require_free(directory: Path) -> None:
    """Raise ConflictError where another process holds the directory; a look before something expensive is started."""
    if (directory / "lock").exists():
        os.close(hold_directory(directory, note=False))


def hold_directory(directory: Path, *, note: bool = True) -> int:
    """Take the data directory's lock and return its file descriptor; the kernel frees it when the process ends.

    The directory is created where it is missing.

    Raises:
        ConflictError: another process holds it; the message says which.
        ConfigurationError: it cannot be created or written; InternalError where the disk is to blame.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        # Imported late: the door looks whether the directory is free, and must not load a database's library for it.
        from app.storage.faults import directory_error

        raise directory_error(error, directory) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
        os.close(descriptor)
        raise ConflictError(
            f"the data directory {str(directory)!r} is in use by {owner}",
            param="data_dir",
            remedy="talk to that server (`--server URL`), stop it, or name another data_dir in the configuration",
        ) from None
    if not note:
        return descriptor
    with contextlib.suppress(OSError):
        # A courtesy to whoever is refused: a full disk must not keep us from reading.
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"Tutti store, pid {os.getpid()}\n".encode(), 0)
    return descriptor
