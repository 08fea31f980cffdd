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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from app.storage import migrating
from app.storage.backup import copy_file
from app.storage.faults import fault, is_storage_error
from app.storage.place import Place

BUSY_TIMEOUT_MS = 5_000
"""How long a statement waits for SQLite's file while another program has it."""


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
    from app.storage import server_sessions

    engine = create_engine(
        place.address(),
        hide_parameters=True,
        pool_pre_ping=True,
        # The one connection is the one that holds the lock.
        pool_size=1,
        max_overflow=0,
        connect_args=server_sessions.connect_arguments(f"tutti store {os.getpid()} {secrets.token_hex(4)}"),
    )
    server_sessions.watch(engine, server_sessions.WRITE_S, writer=True)
    return engine


def open_for_reading(place: Place) -> Engine:
    """Return an engine for readers of a database that somebody else migrates."""
    if place.file is not None:
        return _sqlite(place, begin="BEGIN")
    from app.storage import server_sessions

    engine = create_engine(
        place.address(),
        hide_parameters=True,
        pool_pre_ping=True,
        connect_args=server_sessions.connect_arguments("tutti reader"),
    )
    server_sessions.watch(engine, server_sessions.READ_S, writer=False)
    return engine


def allow_long(connection: Connection) -> Connection:
    """Let the statements of the transaction that begins now take long: they change the schema, or read everything."""
    if connection.dialect.name == "postgresql":
        from app.storage import server_sessions

        server_sessions.allow_long(connection)
    return connection


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
                allow_long(connection)
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
