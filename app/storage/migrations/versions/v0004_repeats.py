"""Answers of calls with an idempotency key, kept for a day for every replica."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "repeat",
        sa.Column("place", sa.String, primary_key=True),
        sa.Column("fingerprint", sa.String, nullable=False),
        sa.Column("holder", sa.String, nullable=False),
        sa.Column("lease_until_s", sa.Float),
        sa.Column("answer", sa.Text),
        sa.Column("expires_s", sa.Float, nullable=False),
    )
    op.create_index("repeat_by_expiry", "repeat", ["expires_s"])


def downgrade() -> None:
    """Drop it: repeats are bought again."""
    op.drop_table("repeat")
