"""Sessions with a PostgreSQL server: none waits for ever, and the writer's holds the lock that keeps a second one out.

A server that was stopped, or is behind a network that swallows everything, answers nothing, and its kernel may go on
acknowledging: no limit of the server or of TCP helps then. So every wait has a limit on our side, and a session that
was waited for in vain is not used again: nobody knows what the server is doing in it.

Imported only where the database is on a server; ``database`` does.
"""

from __future__ import annotations

import time
from typing import Any, TypeVar, cast

import psycopg
from psycopg import Cursor
from psycopg.abc import Buffer, PQGen
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow
from psycopg.types.string import StrDumperUnknown
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import Dialect
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from app.domain.errors import ConflictError

Value = TypeVar("Value")

LOCK_TIMEOUT_MS = 5_000
"""How long a statement waits for a lock that somebody else holds."""
CONNECT_TIMEOUT_S = 5
WRITE_S = 10.0
"""The longest that a statement of the writer may take; the server itself ends it then."""
READ_S = 20.0
"""And one of a reader: a page of figures, not a look at everything."""
WITHOUT_ANSWER_S = 2.0
"""How long after that the server is taken for gone."""
ALIVE_S = 5.0
"""The longest that it may take to say that it is there."""
LONG_S = 3_600.0
"""For changes of the schema and for what reads everything."""
LOST_AFTER_S = 20
"""A server, or a client, whose machine says nothing for so long is taken for gone."""
LOCK_TRIES = 10
LOCK_PAUSE_S = 0.2
END_SESSION_MS = 500
LOCK_CLASS = 0x7A771
"""First half of the advisory lock's key; the second is the schema's, so that two may share a database."""
CLIENT_CHECKS_FROM = 140_000
"""The first version that notices during a statement that its client is gone."""

FIND_HOLDER = """
SELECT a.pid, a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.classid = %s AND l.objid = hashtext(current_schema())::oid
AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


class Session(psycopg.Connection[TupleRow]):
    """A connection on which nothing waits longer than its patience."""

    patience_s: float = ALIVE_S

    def wait(self, gen: PQGen[Value], interval: float = 0.1, timeout: float | None = None) -> Value:
        """Consume ``gen``; a session whose server does not answer is closed."""
        try:
            return super().wait(gen, interval, self.patience_s if timeout is None else timeout)
        except psycopg.OperationalError as error:
            if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
                raise
            self.pgconn.finish()
            raise psycopg.OperationalError("the server does not answer") from error


def watch(engine: Engine, statement_s: float, *, writer: bool) -> None:
    """Make an engine's connections sessions of ours.

    Args:
        engine: Of a PostgreSQL database, not connected yet.
        statement_s: The longest that a statement may take.
        writer: Whether its one session is to hold the writer's lock.
    """

    def connect(_dialect: Dialect, _entry: ConnectionPoolEntry, arguments: list[Any], options: dict[str, Any]) -> Any:
        return Session.connect(*arguments, **options)

    def prepare(session: Session, _entry: ConnectionPoolEntry) -> None:
        try:
            _prepare(session, statement_s)
            if writer:
                _hold(session)
            session.commit()
        except BaseException:
            session.close()
            raise

    def check_out(session: Session, _entry: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
        session.patience_s = statement_s + WITHOUT_ANSWER_S

    def check_in(session: Session | None, _entry: ConnectionPoolEntry) -> None:
        # What comes next is the pool's question whether it is still alive.
        if session is not None:
            session.patience_s = ALIVE_S

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "connect", prepare)
    event.listen(engine, "checkout", check_out)
    event.listen(engine, "checkin", check_in)


def connect_arguments(application_name: str) -> dict[str, object]:
    """Return what to connect with: a server or a network that is gone is noticed by TCP as well."""
    return {
        "application_name": application_name,
        "connect_timeout": CONNECT_TIMEOUT_S,
        "keepalives_idle": LOST_AFTER_S // 2,
        "keepalives_interval": LOST_AFTER_S // 4,
        "keepalives_count": 2,
        "tcp_user_timeout": LOST_AFTER_S * 1_000,
    }


def allow_long(connection: Connection) -> None:
    """Let the statements of the transaction that begins now take up to ``LONG_S``."""
    session = cast("Session", connection.connection.driver_connection)
    session.patience_s = LONG_S + WITHOUT_ANSWER_S
    connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(LONG_S * 1_000)}")


def find_holder(connection: Connection) -> str | None:
    """Return who holds the writer's lock of this database, None where nobody does."""
    row = connection.exec_driver_sql(FIND_HOLDER, (LOCK_CLASS,)).first()
    return None if row is None else _holder(row.pid, row.application_name)


def _prepare(session: Session, statement_s: float) -> None:
    _replace_nul(session)
    with session.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
        cursor.execute(f"SET statement_timeout = {int(statement_s * 1_000)}")


def _replace_nul(session: Session) -> None:
    """Make text fit that holds NUL, which SQLite keeps and PostgreSQL has no way to: a provider may send anything."""

    class Dumper(StrDumperUnknown):
        def dump(self, obj: str) -> Buffer | None:
            return super().dump(obj.replace("\x00", "\N{REPLACEMENT CHARACTER}"))

    session.adapters.register_dumper(str, Dumper)


def _hold(session: Session) -> None:
    """Take the writer's lock for this session; raises ConflictError where another Tutti has it."""
    with session.cursor() as cursor:
        # Whatever the server's default is, a commit that returned must be on disk; stricter ones are kept.
        cursor.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )
        # The server, too, notices soon that this session's machine or process is gone, and frees the lock.
        cursor.execute(f"SET tcp_keepalives_idle = {LOST_AFTER_S // 2}")
        cursor.execute(f"SET tcp_keepalives_interval = {LOST_AFTER_S // 4}")
        cursor.execute("SET tcp_keepalives_count = 2")
        if session.info.server_version >= CLIENT_CHECKS_FROM:
            cursor.execute("SET client_connection_check_interval = 1000")
        if not _take(cursor):
            _wait_or_refuse(cursor, session.info.get_parameters().get("application_name", ""))


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
        cursor.execute(FIND_HOLDER, (LOCK_CLASS,))
        row = cursor.fetchone()
        if row is not None and row[1] == own_name:
            cursor.execute("SELECT pg_terminate_backend(%s, %s)", (row[0], END_SESSION_MS))
        if _take(cursor):
            return
        time.sleep(LOCK_PAUSE_S)
    if row is not None and row[1] == own_name:
        raise psycopg.OperationalError(f"our session before this one, the server's process {row[0]}, does not end")
    holder = _holder(row[0], row[1]) if row is not None else "another process"
    raise ConflictError(
        f"another Tutti writes to this PostgreSQL database ({holder})",
        param="store.url",
        remedy="talk to that server (`--server URL`), stop it, or name another database in `store.url`",
    )


def _holder(pid: int, application_name: str) -> str:
    return f"{application_name!r}, the server's process {pid}"
