"""Brings a database to a revision of the schema, up or down, and tells what it has.

One tree for both engines (``migrations``). The revision stands twice: in Alembic's own table, and as a number in
``meta.schema_version``, which is where a Tutti from before the migrations looks, so that it refuses what it does not
know instead of writing into it.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, select, update

from app.domain.errors import ConfigurationError, InternalError, RequestError
from app.storage import (
    books_tables,  # noqa: F401  its tables stand on the same MetaData
    outbox_table,  # noqa: F401
    repeat_table,  # noqa: F401
    tables,
)

TREE = Path(__file__).with_name("migrations")
FIRST = "0001"
"""The schema from before the migrations."""
BASE = "base"
"""Below the first revision: no tables."""
VERSION_TABLE = "alembic_version"

_Step = Callable[[Any, Any], Any]


@functools.cache
def revisions() -> tuple[str, ...]:
    """Return the revisions this Tutti knows, oldest first."""
    return tuple(script.revision for script in reversed(list(_tree().walk_revisions())))


def head() -> str:
    """Return the newest revision this Tutti knows."""
    return revisions()[-1]


def find_revision(connection: Connection, place: str) -> str | None:
    """Return the revision of the database; None where it has no tables of ours yet.

    Args:
        connection: Open.
        place: Where the database is, for the message.

    Raises:
        ConfigurationError: a newer Tutti, or something else, wrote it.
    """
    has_meta = inspect(connection).has_table(tables.meta.name)
    if not has_meta:
        return None
    number = connection.execute(
        select(tables.meta.c.value).where(tables.meta.c.name == "schema_version")
    ).scalar_one_or_none()
    known = revisions()
    if inspect(connection).has_table(VERSION_TABLE):
        found = MigrationContext.configure(connection).get_current_revision()
    else:
        found = FIRST if number == _number(FIRST) else None
    if found not in known or number != _number(found or ""):
        written = number if found in known or found is None else _number(found)
        raise ConfigurationError(
            f"the journal {place} has schema version {written}, this Tutti knows versions up to {_number(known[-1])}",
            param="data_dir",
            remedy="use the version of Tutti that wrote it, or name another data_dir (or `store.url`)",
        )
    return found


def migrate(connection: Connection, place: str, *, to: str | None = None) -> tuple[str | None, str]:
    """Bring the database to revision ``to`` (the newest by default) within the caller's transaction.

    On SQLite the connection must have ``foreign_keys`` off: changing a table there means copying it.

    Returns:
        The revision before (None for an empty database) and after.

    Raises:
        RequestError: there is no such revision.
        ConfigurationError: see ``find_revision``.
    """
    target = require_revision(to)
    before = find_revision(connection, place)
    if before == target or (before is None and target == BASE):
        return before, target
    if before is not None and not inspect(connection).has_table(VERSION_TABLE):
        MigrationContext.configure(connection).stamp(_tree(), before)
    script = _tree()
    if before is None or (target != BASE and target > before):
        _run(connection, lambda revision, _context: script._upgrade_revs(target, revision), target)
    else:
        _run(connection, lambda revision, _context: script._downgrade_revs(target, revision), target)
    if target != BASE:
        _note_number(connection, target)
    if connection.dialect.name == "sqlite" and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
        raise InternalError("a schema change left rows without their owner", remedy="report it; nothing was changed")
    return before, target


def render_sql(dialect: str, *, before: str | None, to: str | None = None) -> str:
    """Return the SQL that ``migrate`` would run on an engine called ``dialect``.

    Raises:
        RequestError: there is no such revision.
    """
    target = require_revision(to)
    text = io.StringIO()
    if before == target:
        return ""
    script = _tree()
    up = before is None or (target != BASE and target > before)

    def steps(revision: Any, _context: Any) -> Any:
        return (script._upgrade_revs if up else script._downgrade_revs)(target, revision)

    with EnvironmentContext(
        Config(), script, fn=steps, as_sql=True, starting_rev=before, destination_rev=target
    ) as env:
        env.configure(dialect_name=dialect, output_buffer=text, transactional_ddl=True, render_as_batch=True)
        with env.begin_transaction():
            env.run_migrations()
    return text.getvalue()


def differences(connection: Connection) -> Sequence[object]:
    """Return how the database's tables differ from ``tables.metadata``; empty where they are the same."""
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, tables.metadata))


def require_revision(to: str | None) -> str:
    """Return the full name of a revision, the newest for None; raises RequestError where there is none such."""
    if to is None or to == "head":
        return head()
    known = (BASE, *revisions())
    wanted = to if to == BASE else to.rjust(len(FIRST), "0")
    if wanted not in known:
        raise RequestError(
            f"there is no schema revision {to!r}", param="--to", remedy=f"known: {', '.join(known[1:])}, head"
        )
    return wanted


def _run(connection: Connection, steps: _Step, target: str) -> None:
    with EnvironmentContext(Config(), _tree(), fn=steps, destination_rev=target) as environment:
        environment.configure(
            connection=connection, target_metadata=tables.metadata, render_as_batch=True, transactional_ddl=True
        )
        environment.run_migrations()


def _note_number(connection: Connection, revision: str) -> None:
    name, value = "schema_version", _number(revision)
    done = connection.execute(update(tables.meta).where(tables.meta.c.name == name).values(value=value))
    if done.rowcount == 0:
        connection.execute(tables.meta.insert().values(name=name, value=value))


def _number(revision: str) -> str:
    return revision.lstrip("0") or revision


def _tree() -> ScriptDirectory:
    return ScriptDirectory(str(TREE))
