"""Opens the journal's database and checks its schema version.

SQLite runs in WAL with ``synchronous=FULL``: a commit that returned survives power loss. One process writes (the store
actor holds the data directory's lock); any number may read.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, inspect, select
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from app.domain.errors import ConfigurationError
from app.storage import tables

BUSY_TIMEOUT_MS = 5_000


def open_database(data_dir: Path) -> Engine:
    """Open (or create) the journal in ``data_dir`` and return its engine.

    Raises:
        ConfigurationError: the file was written by another version of Tutti, or cannot be opened.
    """
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    engine = create_engine(f"sqlite:///{data_dir / 'journal.sqlite'}", connect_args={"check_same_thread": False})
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", _begin)
    with engine.begin() as connection:
        _ensure_schema(connection, data_dir)
    return engine


def _begin(connection: Connection) -> None:
    """Begin for real: left to itself the driver begins late, and every savepoint's release syncs the disk."""
    connection.exec_driver_sql("BEGIN")


def _set_pragmas(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={BUSY_TIMEOUT_MS}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _ensure_schema(connection: Connection, data_dir: Path) -> None:
    if not inspect(connection).has_table("meta"):
        tables.metadata.create_all(connection)
        connection.execute(tables.meta.insert().values(name="schema_version", value=str(tables.SCHEMA_VERSION)))
        return
    found = connection.execute(select(tables.meta.c.value).where(tables.meta.c.name == "schema_version")).scalar_one()
    if found != str(tables.SCHEMA_VERSION):
        raise ConfigurationError(
            f"the journal in {str(data_dir)!r} has schema version {found}, this Tutti writes {tables.SCHEMA_VERSION}",
            param="data_dir",
            remedy="use the version of Tutti that wrote it, or name another data_dir",
        )
