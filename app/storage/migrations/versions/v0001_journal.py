"""The run journal as the first version wrote it, before there were migrations.

A database of that version has these very tables already and is taken over as this revision (``app.storage.migrating``).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of runs, plans, tasks, calls, events, blobs and limiter states."""
    op.create_table(
        "meta",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("value", sa.String, nullable=False),
    )
    _create_runs()
    _create_work()
    op.create_table(
        "blob",
        sa.Column("sha256", sa.String, primary_key=True),
        sa.Column("bytes", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "limiter_state",
        sa.Column("scope", sa.String, primary_key=True),
        sa.Column("model", sa.String, primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("clean", sa.Integer, nullable=False),
        sa.Column("saved_s", sa.Float, nullable=False),
    )


def downgrade() -> None:
    """Drop everything: below this revision there is no journal."""
    for table in ("limiter_state", "blob", "call", "task", "plan", "event", "run", "meta"):
        op.drop_table(table)


def _create_runs() -> None:
    op.create_table(
        "run",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("request_sha", sa.String, nullable=False),
        sa.Column("idempotency_key", sa.String, unique=True),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("updated_s", sa.Float, nullable=False),
        sa.Column("questions", sa.Text, nullable=False),
        sa.Column("answers", sa.Text, nullable=False),
        sa.Column("assumptions", sa.Text, nullable=False),
        sa.Column("document_sha", sa.String),
    )
    op.create_index("run_by_created", "run", ["created_s"])
    op.create_index("run_by_status", "run", ["status"])
    op.create_table(
        "event",
        sa.Column("run_id", sa.String, sa.ForeignKey("run.id"), primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("at_s", sa.Float, nullable=False),
        sa.Column("task_id", sa.String),
        sa.Column("attempt", sa.Integer),
        sa.Column("payload", sa.Text, nullable=False),
    )
    op.create_table(
        "plan",
        sa.Column("run_id", sa.String, sa.ForeignKey("run.id"), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("sha", sa.String, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )


def _create_work() -> None:
    op.create_table(
        "task",
        sa.Column("run_id", sa.String, sa.ForeignKey("run.id"), primary_key=True),
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("account", sa.String),
        sa.Column("model", sa.String),
        sa.Column("result_sha", sa.String),
        sa.Column("usage", sa.Text, nullable=False),
        sa.Column("cost_usd", sa.String),
        sa.Column("started_s", sa.Float),
        sa.Column("finished_s", sa.Float),
        sa.Column("produced_by", sa.String, nullable=False),
        sa.Column("error", sa.Text),
    )
    op.create_table(
        "call",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("run_id", sa.String, sa.ForeignKey("run.id"), nullable=False),
        sa.Column("task_id", sa.String),
        sa.Column("purpose", sa.String, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("models", sa.Text, nullable=False),
        sa.Column("account", sa.String),
        sa.Column("model", sa.String),
        sa.Column("request_sha", sa.String, nullable=False),
        sa.Column("provider_id", sa.String),
        sa.Column("usage", sa.Text),
        sa.Column("cost_usd", sa.String),
        sa.Column("answer_sha", sa.String),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("sent_s", sa.Float),
        sa.Column("settled_s", sa.Float),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("error", sa.Text),
    )
    op.create_index("call_by_run", "call", ["run_id", "created_s"])
