"""Files and uploads, and the blobs that hold their content."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "blobs",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("location", sa.String(64), nullable=False, unique=True),
        sa.Column("num_bytes", sa.BigInteger(), nullable=False),
        sa.Column("num_references", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "files",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("num_bytes", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger()),
    )
    op.create_index("files_by_account", "files", ["account", "created_at_ms", "id"])
    op.create_index("files_by_expiry", "files", ["expires_at_ms"])
    op.create_table(
        "file_usage",
        sa.Column("account", sa.String(64), primary_key=True),
        sa.Column("num_bytes", sa.BigInteger(), nullable=False),
        sa.Column("num_files", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("mime_type", sa.String(255), nullable=False),
        sa.Column("num_bytes", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("num_parts", sa.Integer(), nullable=False),
        sa.Column("num_held_bytes", sa.BigInteger(), nullable=False),
        sa.Column("file_id", sa.String(64)),
        sa.Column("file_expires_after_s", sa.BigInteger()),
    )
    op.create_index("uploads_by_expiry", "uploads", ["status", "expires_at_ms"])
    op.create_table(
        "upload_parts",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("upload_id", sa.String(64), nullable=False),
        sa.Column("location", sa.String(64), nullable=False, unique=True),
        sa.Column("num_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
    )
    op.create_index("upload_parts_by_upload", "upload_parts", ["upload_id"])


def downgrade() -> None:
    """Drop them."""
    for table in ("upload_parts", "uploads", "file_usage", "files", "blobs"):
        op.drop_table(table)
