"""Vector stores, the files in them, and batches of those."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "vector_stores",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("description", sa.String(2000)),
        sa.Column("metadata", sa.LargeBinary(), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_active_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_after_days", sa.Integer()),
        sa.Column("expires_at_ms", sa.BigInteger()),
    )
    op.create_index("vector_stores_by_account", "vector_stores", ["account", "created_at_ms", "id"])
    op.create_index("vector_stores_by_expiry", "vector_stores", ["expires_at_ms"])
    op.create_table(
        "vector_store_files",
        sa.Column("vector_store_id", sa.String(64), primary_key=True),
        sa.Column("file_id", sa.String(64), primary_key=True),
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("batch_id", sa.String(64)),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("attributes", sa.LargeBinary(), nullable=False),
        sa.Column("chunk_tokens", sa.Integer(), nullable=False),
        sa.Column("chunk_overlap", sa.Integer(), nullable=False),
        sa.Column("usage_bytes", sa.BigInteger(), nullable=False),
        sa.Column("error_code", sa.String(32)),
        sa.Column("error_message", sa.String(2000)),
        sa.Column("leased_until_ms", sa.BigInteger(), nullable=False),
    )
    op.create_index("vector_store_files_by_status", "vector_store_files", ["status", "leased_until_ms"])
    op.create_index("vector_store_files_by_file", "vector_store_files", ["file_id"])
    op.create_index("vector_store_files_by_batch", "vector_store_files", ["batch_id"])
    op.create_table(
        "vector_store_batches",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("vector_store_id", sa.String(64), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("is_cancelled", sa.Boolean(), nullable=False),
    )
    op.create_index("vector_store_batches_by_store", "vector_store_batches", ["vector_store_id"])


def downgrade() -> None:
    """Drop them."""
    for table in ("vector_store_batches", "vector_store_files", "vector_stores"):
        op.drop_table(table)
