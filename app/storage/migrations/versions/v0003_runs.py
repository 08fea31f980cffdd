"""Who conducts a run, fenced by an epoch, and on whose behalf it buys."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ADDED = ("owner_epoch", "owner", "buyers")


def upgrade() -> None:
    """Add the columns; runs of before belong to nobody yet, and whoever goes on with one takes it first."""
    op.add_column("run", sa.Column("owner_epoch", sa.Integer, nullable=False, server_default="0"))
    op.add_column("run", sa.Column("owner", sa.String))
    op.add_column("run", sa.Column("buyers", sa.Text))


def downgrade() -> None:
    """Drop them: the version before knows no owners."""
    for name in ADDED:
        op.drop_column("run", name)
