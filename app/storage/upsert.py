"""Inserts that know what to do where the row is there already: the one place where the two engines spell it apart.

Statements are built once, at import: building one costs more than running it. ``on`` picks the spelling of the engine
that a connection belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Executable, Table
from sqlalchemy.dialects import postgresql, sqlite

SQLITE = "sqlite"
POSTGRESQL = "postgresql"


@dataclass(frozen=True, slots=True)
class Upsert:
    """One statement in both spellings."""

    sqlite: sqlite.Insert
    postgresql: postgresql.Insert

    def on(self, connection: Connection) -> Executable:
        """Return the statement for this connection's engine."""
        return self.postgresql if connection.dialect.name == POSTGRESQL else self.sqlite


def replacing(table: Table) -> Upsert:
    """Return "insert, or replace every column but the key"."""
    kept = [column.name for column in table.columns if not column.primary_key]
    return _both(table, lambda insert: _update(insert, table, replaced=kept, added=()))


def adding(table: Table, added: Sequence[str], replaced: Sequence[str] = ()) -> Upsert:
    """Return "insert, or add to the columns ``added`` and replace those ``replaced``", for sums kept by key."""
    return _both(table, lambda insert: _update(insert, table, replaced=replaced, added=added))


def ignoring(table: Table) -> Upsert:
    """Return "insert, or leave what is there"."""
    return _both(table, lambda insert: insert.on_conflict_do_nothing())


_Spelled = sqlite.Insert | postgresql.Insert


def _both(table: Table, spell: Callable[[_Spelled], _Spelled]) -> Upsert:
    lite, post = spell(sqlite.insert(table)), spell(postgresql.insert(table))
    assert isinstance(lite, sqlite.Insert)
    assert isinstance(post, postgresql.Insert)
    return Upsert(sqlite=lite, postgresql=post)


def _update(insert: _Spelled, table: Table, *, replaced: Sequence[str], added: Sequence[str]) -> _Spelled:
    new = {name: insert.excluded[name] for name in replaced}
    sums = {name: table.c[name] + insert.excluded[name] for name in added}
    return insert.on_conflict_do_update(
        index_elements=[column.name for column in table.primary_key], set_={**new, **sums}
    )
