"""The tables of the books (ADR 6), beside the journal's on one ``MetaData``.

Amounts are integers: nano-dollars and tokens. A transfer moves its amounts on every account of its leg set at once, so
"all budgets or none" is one row, and the other side of all of them is the counter account of each ledger. Transfers,
entries and legs are only ever added; balances, sums by hour and the state of a hold are kept in the same transaction
and can be made again from them (``books_checks``). An empty text means "nobody" or "none": keys cannot hold null.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Float, Index, Integer, String, Table, Text, text

from app.domain.books.sums import DIMENSIONS, SUMS
from app.storage.tables import metadata

BALANCES = (
    "debits_pending",
    "debits_posted",
    "debits_unknown",
    "credits_pending",
    "credits_posted",
    "credits_unknown",
)

ledger_account = Table(
    "ledger_account",
    metadata,
    Column("id", String, primary_key=True),
    Column("ledger", String, nullable=False),
    Column("owner_kind", String, nullable=False),
    Column("owner_name", String, nullable=False),
    Column("window_kind", String, nullable=False),
    Column("time_zone", String, nullable=False),
    Column("window_key", String, nullable=False),
    Column("starts_s", Float, nullable=False),
    Column("ends_s", Float),
    Column("alerted", Integer, nullable=False),
    *(Column(name, BigInteger, nullable=False) for name in BALANCES),
    CheckConstraint(" AND ".join(f"{name} >= 0" for name in BALANCES), name="ledger_account_not_negative"),
)
Index("ledger_account_by_window", ledger_account.c.window_kind, ledger_account.c.window_key)

leg = Table(
    "leg",
    metadata,
    Column("leg_set", String, primary_key=True),
    Column("account_id", String, primary_key=True),
    sqlite_with_rowid=False,
)

transfer = Table(
    "transfer",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("kind", String, nullable=False),
    Column("at_s", Float, nullable=False),
    Column("hold_id", String),
    Column("entry_id", String),
    Column("leg_set", String, nullable=False),
    Column("nano", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("freed_nano", BigInteger, nullable=False),
    Column("freed_tokens", BigInteger, nullable=False),
    CheckConstraint(
        "nano >= 0 AND tokens >= 0 AND freed_nano >= 0 AND freed_tokens >= 0", name="transfer_not_negative"
    ),
)
_ENDS_A_HOLD = text("kind IN ('post', 'void', 'expire')")
Index(
    "transfer_ends_hold_once",
    transfer.c.hold_id,
    unique=True,
    sqlite_where=_ENDS_A_HOLD,
    postgresql_where=_ENDS_A_HOLD,
)

hold = Table(
    "hold",
    metadata,
    Column("id", String, primary_key=True),
    Column("state", String, nullable=False),
    Column("resolved", Integer, nullable=False),
    Column("tenant", String, nullable=False),
    Column("team", String, nullable=False),
    Column("user", String, nullable=False),
    Column("key", String, nullable=False),
    Column("run_id", String, nullable=False),
    Column("nano", BigInteger),
    Column("tokens", BigInteger, nullable=False),
    Column("calls", Integer, nullable=False),
    Column("covers", Text, nullable=False),
    Column("holder", String, nullable=False),
    Column("at_s", Float, nullable=False),
    Column("expires_s", Float, nullable=False),
    Column("ended_s", Float),
    Column("leg_set", String, nullable=False),
    sqlite_with_rowid=False,
)
_IS_OPEN = text("state = 'open'")
Index("hold_open_by_expiry", hold.c.expires_s, sqlite_where=_IS_OPEN, postgresql_where=_IS_OPEN)
_IS_UNKNOWN = text("state = 'expired' AND resolved = 0")
Index("hold_unknown", hold.c.ended_s, sqlite_where=_IS_UNKNOWN, postgresql_where=_IS_UNKNOWN)

usage_entry = Table(
    "usage_entry",
    metadata,
    Column("id", String, primary_key=True),
    Column("corrects", String),
    Column("hold_id", String),
    Column("leg_set", String, nullable=False),
    Column("at_s", Float, nullable=False),
    Column("hour", Integer, nullable=False),
    Column("booked_s", Float, nullable=False),
    Column("run_id", String, nullable=False),
    Column("task_id", String, nullable=False),
    *(Column(name, String, nullable=False) for name in DIMENSIONS),
    *(Column(name, BigInteger, nullable=False) for name in SUMS),
    Column("batch", Integer, nullable=False),
    Column("price_id", String),
    Column("usage_source", String, nullable=False),
    Column("ttft_ms", BigInteger),
    Column("request_id", String, nullable=False),
    Column("trace_id", String, nullable=False),
    Column("error_kind", String, nullable=False),
)
Index("usage_entry_by_time", usage_entry.c.at_s)
_OF_A_RUN = text("run_id <> ''")
Index(
    "usage_entry_by_run",
    usage_entry.c.run_id,
    usage_entry.c.at_s,
    sqlite_where=_OF_A_RUN,
    postgresql_where=_OF_A_RUN,
)
_IS_CORRECTION = text("corrects IS NOT NULL")
Index("usage_entry_by_corrected", usage_entry.c.corrects, sqlite_where=_IS_CORRECTION, postgresql_where=_IS_CORRECTION)

usage_hour = Table(
    "usage_hour",
    metadata,
    Column("hour", Integer, primary_key=True, autoincrement=False),
    *(Column(name, String, primary_key=True) for name in DIMENSIONS),
    *(Column(name, BigInteger, nullable=False) for name in SUMS),
    sqlite_with_rowid=False,
)
Index("usage_hour_by_user", usage_hour.c.user, usage_hour.c.hour)
Index("usage_hour_by_key", usage_hour.c.key, usage_hour.c.hour)

usage_day = Table(
    "usage_day",
    metadata,
    Column("day", Integer, primary_key=True, autoincrement=False),
    *(Column(name, String, primary_key=True) for name in DIMENSIONS),
    *(Column(name, BigInteger, nullable=False) for name in SUMS),
    sqlite_with_rowid=False,
)
"""Days of UTC, since 1970: months are asked for more often than anything, and have thirty of these."""

usage_run = Table(
    "usage_run",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("hour", Integer, primary_key=True, autoincrement=False),
    *(Column(name, String, primary_key=True) for name in DIMENSIONS),
    *(Column(name, BigInteger, nullable=False) for name in SUMS),
    sqlite_with_rowid=False,
)
Index("usage_run_by_hour", usage_run.c.hour)

budget = Table(
    "budget",
    metadata,
    Column("id", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("owner_kind", String, nullable=False),
    Column("owner_name", String, nullable=False),
    Column("window_kind", String, nullable=False),
    Column("time_zone", String, nullable=False),
    Column("limit_nano", BigInteger),
    Column("limit_tokens", BigInteger),
    Column("soft_share", Float, nullable=False),
    Column("hard", Integer, nullable=False),
    Column("configured", Integer, nullable=False),
    Column("active", Integer, nullable=False),
)
Index("budget_by_owner", budget.c.owner)

price_used = Table(
    "price_used",
    metadata,
    Column("id", String, primary_key=True),
    Column("body", Text, nullable=False),
)

books_clock = Table(
    "books_clock",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("quarter", BigInteger, nullable=False),
)
