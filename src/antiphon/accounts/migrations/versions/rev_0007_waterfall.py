"""Where the time of a request went: its path, its wait and prefill in the engine, its attempts at backends."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; what older rows would have in them was not recorded."""
    op.add_column("usage", sa.Column("path", sa.String(64)))
    op.add_column("usage", sa.Column("queue_s", sa.Double()))
    op.add_column("usage", sa.Column("prefill_s", sa.Double()))
    op.add_column("usage", sa.Column("attempts", sa.Text()))


def downgrade() -> None:
    """Drop the columns."""
    for name in ("attempts", "prefill_s", "queue_s", "path"):
        op.drop_column("usage", name)
