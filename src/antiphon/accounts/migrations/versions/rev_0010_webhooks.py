"""Webhooks that are waiting to be sent."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "webhook_deliveries",
        sa.Column("event_id", sa.String(64), primary_key=True),
        sa.Column("url", sa.String(1000), primary_key=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("next_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("num_attempts", sa.Integer(), nullable=False),
    )
    op.create_index("webhook_deliveries_by_time", "webhook_deliveries", ["next_at_ms"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("webhook_deliveries")
