"""The books: accounts, transfers, holds, usage entries with their sums by hour, budgets and the prices used."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BALANCES = (
    *("debits_pending", "debits_posted", "debits_unknown"),
    *("credits_pending", "credits_posted", "credits_unknown"),
)
DIMENSIONS = ("tenant", "team", "user", "key", "model", "account", "provider", "task_type", "ending")
SUMS = (
    *("calls", "unpriced", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"),
    *("cache_write_1h_tokens", "reasoning_tokens", "cost_nano", "savings_nano", "duration_ms"),
)
TABLES = (
    *("books_clock", "price_used", "budget", "usage_run", "usage_day", "usage_hour", "usage_entry"),
    *("hold", "transfer", "leg", "ledger_account"),
)


def upgrade() -> None:
    """Create the tables of the ledger and of usage."""
    _create_accounts()
    _create_holds()
    _create_usage()
    _create_budgets()


def downgrade() -> None:
    """Drop the books with everything in them: the journal stays as it is."""
    for table in TABLES:
        op.drop_table(table)


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.String, nullable=False) for name in names]


def _numbers(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]


def _index_where(name: str, table: str, columns: list[str], condition: str, *, unique: bool = False) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, unique=unique, sqlite_where=where, postgresql_where=where)


def _create_accounts() -> None:
    op.create_table(
        "ledger_account",
        sa.Column("id", sa.String, primary_key=True),
        *_texts("ledger", "owner_kind", "owner_name", "window_kind", "time_zone", "window_key"),
        sa.Column("starts_s", sa.Float, nullable=False),
        sa.Column("ends_s", sa.Float),
        sa.Column("alerted", sa.Integer, nullable=False),
        *_numbers(*BALANCES),
        sa.CheckConstraint(" AND ".join(f"{name} >= 0" for name in BALANCES), name="ledger_account_not_negative"),
    )
    op.create_index("ledger_account_by_window", "ledger_account", ["window_kind", "window_key"])
    op.create_table(
        "leg",
        sa.Column("leg_set", sa.String, primary_key=True),
        sa.Column("account_id", sa.String, primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "transfer",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("at_s", sa.Float, nullable=False),
        sa.Column("hold_id", sa.String),
        sa.Column("entry_id", sa.String),
        sa.Column("leg_set", sa.String, nullable=False),
        *_numbers("nano", "tokens", "freed_nano", "freed_tokens"),
        sa.CheckConstraint(
            "nano >= 0 AND tokens >= 0 AND freed_nano >= 0 AND freed_tokens >= 0", name="transfer_not_negative"
        ),
    )
    _index_where("transfer_ends_hold_once", "transfer", ["hold_id"], "kind IN ('post', 'void', 'expire')", unique=True)


def _create_holds() -> None:
    op.create_table(
        "hold",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("resolved", sa.Integer, nullable=False),
        *_texts("tenant", "team", "user", "key", "run_id"),
        sa.Column("nano", sa.BigInteger),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("calls", sa.Integer, nullable=False),
        sa.Column("covers", sa.Text, nullable=False),
        sa.Column("holder", sa.String, nullable=False),
        sa.Column("at_s", sa.Float, nullable=False),
        sa.Column("expires_s", sa.Float, nullable=False),
        sa.Column("ended_s", sa.Float),
        sa.Column("leg_set", sa.String, nullable=False),
        sqlite_with_rowid=False,
    )
    _index_where("hold_open_by_expiry", "hold", ["expires_s"], "state = 'open'")
    _index_where("hold_unknown", "hold", ["ended_s"], "state = 'expired' AND resolved = 0")


def _create_usage() -> None:
    op.create_table(
        "usage_entry",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("corrects", sa.String),
        sa.Column("hold_id", sa.String),
        sa.Column("leg_set", sa.String, nullable=False),
        sa.Column("at_s", sa.Float, nullable=False),
        sa.Column("hour", sa.Integer, nullable=False),
        sa.Column("booked_s", sa.Float, nullable=False),
        *_texts("run_id", "task_id", *DIMENSIONS),
        *_numbers(*SUMS),
        sa.Column("batch", sa.Integer, nullable=False),
        sa.Column("price_id", sa.String),
        sa.Column("usage_source", sa.String, nullable=False),
        sa.Column("ttft_ms", sa.BigInteger),
        *_texts("request_id", "trace_id", "error_kind"),
    )
    op.create_index("usage_entry_by_time", "usage_entry", ["at_s"])
    _index_where("usage_entry_by_run", "usage_entry", ["run_id", "at_s"], "run_id <> ''")
    _index_where("usage_entry_by_corrected", "usage_entry", ["corrects"], "corrects IS NOT NULL")
    op.create_table(
        "usage_hour",
        sa.Column("hour", sa.Integer, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.String, primary_key=True) for name in DIMENSIONS),
        *_numbers(*SUMS),
        sqlite_with_rowid=False,
    )
    op.create_index("usage_hour_by_user", "usage_hour", ["user", "hour"])
    op.create_index("usage_hour_by_key", "usage_hour", ["key", "hour"])
    op.create_table(
        "usage_day",
        sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.String, primary_key=True) for name in DIMENSIONS),
        *_numbers(*SUMS),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "usage_run",
        sa.Column("run_id", sa.String, primary_key=True),
        sa.Column("hour", sa.Integer, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.String, primary_key=True) for name in DIMENSIONS),
        *_numbers(*SUMS),
        sqlite_with_rowid=False,
    )
    op.create_index("usage_run_by_hour", "usage_run", ["hour"])


def _create_budgets() -> None:
    op.create_table(
        "budget",
        sa.Column("id", sa.String, primary_key=True),
        *_texts("owner", "owner_kind", "owner_name", "window_kind", "time_zone"),
        sa.Column("limit_nano", sa.BigInteger),
        sa.Column("limit_tokens", sa.BigInteger),
        sa.Column("soft_share", sa.Float, nullable=False),
        sa.Column("hard", sa.Integer, nullable=False),
        sa.Column("configured", sa.Integer, nullable=False),
        sa.Column("active", sa.Integer, nullable=False),
    )
    op.create_index("budget_by_owner", "budget", ["owner"])
    op.create_table(
        "price_used", sa.Column("id", sa.String, primary_key=True), sa.Column("body", sa.Text, nullable=False)
    )
    op.create_table(
        "books_clock",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("quarter", sa.BigInteger, nullable=False),
    )
