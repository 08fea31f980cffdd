"""The tables of the journal (durability.md 5.3), one schema for SQLite and PostgreSQL.

Structured columns that code never filters by are JSON text written by ``codec``. Artifacts and answers are blobs,
content addressed: write the blob first, then the row that names it, in one transaction.

The tables are made by ``migrations``, not from here: a change here needs a new revision there, and a test compares.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

meta = Table("meta", metadata, Column("name", String, primary_key=True), Column("value", String, nullable=False))

run = Table(
    "run",
    metadata,
    Column("id", String, primary_key=True),
    Column("status", String, nullable=False),
    Column("request", Text, nullable=False),
    Column("request_sha", String, nullable=False),
    Column("idempotency_key", String, unique=True),
    Column("created_s", Float, nullable=False),
    Column("updated_s", Float, nullable=False),
    Column("questions", Text, nullable=False),
    Column("answers", Text, nullable=False),
    Column("assumptions", Text, nullable=False),
    Column("document_sha", String),
    Column("owner_epoch", Integer, nullable=False, server_default="0"),
    Column("owner", String),
    Column("buyers", Text),
    Column("clock_s", Float),
    Column("forked_from", String),
)
Index("run_by_created", run.c.created_s)
Index("run_by_status", run.c.status)

event = Table(
    "event",
    metadata,
    Column("run_id", String, ForeignKey("run.id"), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String, nullable=False),
    Column("at_s", Float, nullable=False),
    Column("task_id", String),
    Column("attempt", Integer),
    Column("payload", Text, nullable=False),
)

plan = Table(
    "plan",
    metadata,
    Column("run_id", String, ForeignKey("run.id"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("sha", String, nullable=False),
    Column("body", Text, nullable=False),
)

task = Table(
    "task",
    metadata,
    Column("run_id", String, ForeignKey("run.id"), primary_key=True),
    Column("id", String, primary_key=True),
    Column("state", String, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("account", String),
    Column("model", String),
    Column("result_sha", String),
    Column("usage", Text, nullable=False),
    Column("cost_usd", String),
    Column("started_s", Float),
    Column("finished_s", Float),
    Column("produced_by", String, nullable=False),
    Column("error", Text),
)

call = Table(
    "call",
    metadata,
    Column("key", String, primary_key=True),
    Column("run_id", String, ForeignKey("run.id"), nullable=False),
    Column("task_id", String),
    Column("purpose", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("models", Text, nullable=False),
    Column("account", String),
    Column("model", String),
    Column("request_sha", String, nullable=False),
    Column("provider_id", String),
    Column("usage", Text),
    Column("cost_usd", String),
    Column("answer_sha", String),
    Column("created_s", Float, nullable=False),
    Column("sent_s", Float),
    Column("settled_s", Float),
    Column("tries", Integer, nullable=False),
    Column("error", Text),
)
Index("call_by_run", call.c.run_id, call.c.created_s)

blob = Table(
    "blob",
    metadata,
    Column("sha256", String, primary_key=True),
    Column("bytes", LargeBinary, nullable=False),
)

limiter_state = Table(
    "limiter_state",
    metadata,
    Column("scope", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("state", Text, nullable=False),
    Column("clean", Integer, nullable=False),
    Column("saved_s", Float, nullable=False),
)
