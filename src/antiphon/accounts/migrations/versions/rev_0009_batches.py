"""Batches, the journal of their finished lines, and which usage is theirs."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables; no usage so far is a batch's."""
    op.create_table(
        "batches",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("cancelling_at_ms", sa.BigInteger()),
        sa.Column("owner", sa.String(64)),
        sa.Column("lease_until_ms", sa.BigInteger(), nullable=False),
        sa.Column("num_total", sa.Integer(), nullable=False),
        sa.Column("num_completed", sa.Integer(), nullable=False),
        sa.Column("num_failed", sa.Integer(), nullable=False),
        sa.Column("detail", sa.LargeBinary(), nullable=False),
    )
    op.create_index("batches_by_account", "batches", ["account", "created_at_ms", "id"])
    op.create_index("batches_by_status", "batches", ["status", "lease_until_ms"])
    op.create_table(
        "batch_results",
        sa.Column("batch_id", sa.String(64), primary_key=True),
        sa.Column("line", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("is_error", sa.Boolean(), nullable=False),
        sa.Column("result", sa.LargeBinary(), nullable=False),
    )
    op.add_column("usage", sa.Column("is_batch", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    """Drop them."""
    op.drop_column("usage", "is_batch")
    for table in ("batch_results", "batches"):
        op.drop_table(table)
