"""The table of events that were told in the transaction of their fact, beside the journal's on one ``MetaData``."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, LargeBinary, String, Table, Text

from app.storage.tables import metadata

outbox = Table(
    "outbox",
    metadata,
    # SQLite counts by itself only what it calls INTEGER. A number is never given again.
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("id", String, nullable=False),
    Column("time_ns", BigInteger, nullable=False),
    Column("type", String, nullable=False),
    Column("user_id", String),
    Column("size", Integer, nullable=False),
    Column("state", Integer, nullable=False),
    # As in the spool: waiting, shipped, dead.
    Column("status", Integer),
    Column("reason", Text),
    Column("dead_s", Float),
    Column("body", LargeBinary, nullable=False),
    sqlite_autoincrement=True,
)
Index("outbox_by_state", outbox.c.state, outbox.c.seq)
