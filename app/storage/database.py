"""Opens the journal's database on either engine, for its one writer or for readers.

SQLite runs in WAL with ``synchronous=FULL``: a commit that returned survives power loss; the directory's lock keeps
other processes from writing. On PostgreSQL the writer's own session holds an advisory lock: whoever writes has the
lock, and a session that is lost takes transaction and lock with it, so two writers can never overlap.

Readers need no lock. Behind a pooler that hands one session to many (PgBouncer in transaction mode) the lock would be
worth nothing: name the server itself in ``store.url``.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from app.domain.errors import ConflictError
from app.storage import migrating
from app.storage.backup import copy_file
from app.storage.faults import fault, is_storage_error
from app.storage.place import Place

if TYPE_CHECKING:
    from psycopg import Connection as PostgresConnection
    from psycopg import Cursor
    from psycopg.abc import Buffer
    from psycopg.rows import TupleRow

BUSY_TIMEOUT_MS = 5_000
"""How long a statement waits for a lock that somebody else holds, on both engines."""
CONNECT_TIMEOUT_S = 5
LOST_AFTER_S = 20
"""A server, or a client, that says nothing for so long is taken for gone."""
LOCK_TRIES = 10
LOCK_PAUSE_S = 0.2
LOCK_CLASS = 0x7A771
"""First half of the advisory lock's key; the second is the schema's, so that two may share a database."""

_FIND_HOLDER = """
SELECT a.pid, a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.classid = %s AND l.objid = hashtext(current_schema())::oid
AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def open_database(data_dir: Path, url: str | None = None) -> Engine:
    """Open the database for its one writer, created or migrated to this Tutti's schema; a copy is kept before that.

    Raises:
        ConfigurationError: a newer Tutti wrote it.
        ConflictError: another Tutti writes to it.
        InternalError: it cannot be used; the message says why and what to do.
    """
    place = Place(data_dir, url)
    if place.file is not None:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    engine = open_for_writing(place)
    try:
        bring_to(engine, place, None)
    except BaseException:
        engine.dispose()
        raise
    return engine


def open_for_writing(place: Place) -> Engine:
    """Return the engine of the one writer, whatever schema the database has; connects when first used."""
    if place.file is not None:
        return _sqlite(place, begin="BEGIN IMMEDIATE")
    engine = create_engine(
        place.address(),
        hide_parameters=True,
        pool_pre_ping=True,
        # The one connection is the one that holds the lock.
        pool_size=1,
        max_overflow=0,
        connect_args=_connect_args(f"tutti store {os.getpid()} {secrets.token_hex(4)}"),
    )
    event.listen(engine, "connect", _hold)
    return engine


def open_for_reading(place: Place) -> Engine:
    """Return an engine for readers of a database that somebody else migrates."""
    if place.file is not None:
        return _sqlite(place, begin="BEGIN")
    engine = create_engine(
        place.address(), hide_parameters=True, pool_pre_ping=True, connect_args=_connect_args("tutti reader")
    )
    event.listen(engine, "connect", _prepare_session)
    return engine


def find_holder(connection: Connection) -> str | None:
    """Return who holds the writer's lock of this PostgreSQL database, None where nobody does."""
    row = connection.exec_driver_sql(_FIND_HOLDER, (LOCK_CLASS,)).first()
    return None if row is None else _holder(row.pid, row.application_name)


def bring_to(engine: Engine, place: Place, revision: str | None) -> tuple[str | None, str, Path | None]:
    """Bring the writer's database to ``revision`` (the newest for None).

    Returns:
        The revision before, the one after, and the copy of the file that was kept, where one was.

    Raises:
        GatewayError: see ``migrating.migrate``.
    """
    target = migrating.require_revision(revision)
    try:
        with engine.connect() as connection, _foreign_keys_off(connection):
            with connection.begin():
                before = migrating.find_revision(connection, str(place))
            kept = None
            if place.file is not None and before not in (None, target):
                kept = place.file.with_name(f"journal.before-{target}.sqlite")
                copy_file(place.file, kept)
            with connection.begin():
                migrating.migrate(connection, str(place), to=target)
    except Exception as error:
        if is_storage_error(error):
            raise fault(error, place) from error
        raise
    return before, target, kept


@contextmanager
def _foreign_keys_off(connection: Connection) -> Iterator[None]:
    """Let SQLite copy a table in order to change it, which its children must not notice; the end checks them."""
    if connection.dialect.name != "sqlite":
        yield
        return
    # Without effect inside of a transaction, so before the first and after the last.
    _pragma(connection, "foreign_keys=OFF")
    try:
        yield
    finally:
        if not connection.invalidated:
            _pragma(connection, "foreign_keys=ON")


def _sqlite(place: Place, *, begin: str) -> Engine:
    engine = create_engine(place.address(), hide_parameters=True, connect_args={"check_same_thread": False})

    def begin_for_real(connection: Connection) -> None:
        # Left to itself the driver begins late, and every savepoint's release syncs the disk.
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", begin_for_real)
    return engine


def _set_pragmas(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    # The first one is first: switching to WAL needs the file for itself for a moment.
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _pragma(connection: Connection, pragma: str) -> None:
    driver = connection.connection.driver_connection
    assert driver is not None, "a connection in use has its driver's"
    driver.execute(f"PRAGMA {pragma}")


def _connect_args(application_name: str) -> dict[str, object]:
    return {
        "application_name": application_name,
        "connect_timeout": CONNECT_TIMEOUT_S,
        "keepalives_idle": LOST_AFTER_S // 2,
        "keepalives_interval": LOST_AFTER_S // 4,
        "keepalives_count": 2,
        "tcp_user_timeout": LOST_AFTER_S * 1_000,
    }


def _prepare_session(connection: PostgresConnection[TupleRow], _entry: ConnectionPoolEntry) -> None:
    _replace_nul(connection)
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = {BUSY_TIMEOUT_MS}")
    connection.commit()


def _replace_nul(connection: PostgresConnection[TupleRow]) -> None:
    """Make text fit that holds NUL, which SQLite keeps and PostgreSQL has no way to: a provider may send anything."""
    from psycopg.types.string import StrDumperUnknown

    class Dumper(StrDumperUnknown):
        def dump(self, obj: str) -> Buffer | None:
            return super().dump(obj.replace("\x00", "\N{REPLACEMENT CHARACTER}"))

    connection.adapters.register_dumper(str, Dumper)


def _hold(connection: PostgresConnection[TupleRow], entry: ConnectionPoolEntry) -> None:
    """Take the writer's lock for this session; raises ConflictError where another Tutti has it."""
    try:
        _prepare_session(connection, entry)
        with connection.cursor() as cursor:
            # Whatever the server's default is, a commit that returned must be on disk; stricter ones are kept.
            cursor.execute(
                "SELECT set_config('synchronous_commit', 'on', false) "
                "WHERE current_setting('synchronous_commit') = 'off'"
            )
            # The server, too, notices soon that this session's machine is gone, and frees the lock.
            cursor.execute(f"SET tcp_keepalives_idle = {LOST_AFTER_S // 2}")
            cursor.execute(f"SET tcp_keepalives_interval = {LOST_AFTER_S // 4}")
            cursor.execute("SET tcp_keepalives_count = 2")
            if not _take(cursor):
                _wait_or_refuse(cursor, connection.info.get_parameters().get("application_name", ""))
        connection.commit()
    except BaseException:
        connection.close()
        raise


def _take(cursor: Cursor[TupleRow]) -> bool:
    cursor.execute("SELECT pg_try_advisory_lock(%s, hashtext(current_schema()))", (LOCK_CLASS,))
    row = cursor.fetchone()
    return row is not None and bool(row[0])


def _wait_or_refuse(cursor: Cursor[TupleRow], own_name: str) -> None:
    """Take the lock once a session that is ending has freed it; refuse where it belongs to a living Tutti.

    A session of this very process, whose end the server has not noticed, is ended. That of a store that was just killed
    is given a moment: the server notices when it has done what it was doing.
    """
    row = None
    for _ in range(LOCK_TRIES):
        cursor.execute(_FIND_HOLDER, (LOCK_CLASS,))
        row = cursor.fetchone()
        if row is not None and row[1] == own_name:
            cursor.execute("SELECT pg_terminate_backend(%s, %s)", (row[0], BUSY_TIMEOUT_MS))
        if _take(cursor):
            return
        time.sleep(LOCK_PAUSE_S)
    holder = _holder(row[0], row[1]) if row is not None else "another process"
    raise ConflictError(
        f"another Tutti writes to this PostgreSQL database ({holder})",
        param="store.url",
        remedy="talk to that server (`--server URL`), stop it, or name another database in `store.url`",
    )


def _holder(pid: int, application_name: str) -> str:
    return f"{application_name!r}, the server's process {pid}"
