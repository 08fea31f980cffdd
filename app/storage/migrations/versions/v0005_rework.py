"""Runs whose tasks are done again, and runs that go on from another's results."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; runs of before were neither."""
    op.add_column("run", sa.Column("clock_s", sa.Float))
    op.add_column("run", sa.Column("forked_from", sa.String))


def downgrade() -> None:
    """Drop them."""
    op.drop_column("run", "forked_from")
    op.drop_column("run", "clock_s")
