"""Stored chat completions by the millisecond in which they were stored, and indexes that hold two lists in order."""

from alembic import op
from sqlalchemy import text

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Turn seconds into milliseconds, and create the indexes."""
    op.drop_index("stored_completions_by_account", "stored_completions")
    op.alter_column("stored_completions", "created_at", new_column_name="created_at_ms")
    op.execute(text("UPDATE stored_completions SET created_at_ms = created_at_ms * 1000"))
    op.create_index("stored_completions_by_account", "stored_completions", ["account", "created_at_ms", "id"])
    op.create_index(
        "vector_store_files_by_store", "vector_store_files", ["vector_store_id", "created_at_ms", "file_id"]
    )


def downgrade() -> None:
    """Drop the indexes, and turn milliseconds into seconds."""
    op.drop_index("vector_store_files_by_store", "vector_store_files")
    op.drop_index("stored_completions_by_account", "stored_completions")
    op.execute(text("UPDATE stored_completions SET created_at_ms = created_at_ms / 1000"))
    op.alter_column("stored_completions", "created_at_ms", new_column_name="created_at")
    op.create_index("stored_completions_by_account", "stored_completions", ["account", "created_at"])
