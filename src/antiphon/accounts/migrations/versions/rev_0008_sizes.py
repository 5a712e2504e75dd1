"""Indexes by which the stores of responses and chat completions find their size and their oldest rows."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the indexes."""
    op.create_index("responses_by_size", "responses", ["num_bytes"])
    op.create_index("stored_completions_by_size", "stored_completions", ["num_bytes"])
    op.create_index("stored_completions_by_age", "stored_completions", ["created_at"])
    op.create_index("stored_completions_by_expiry", "stored_completions", ["expires_at_ms"])


def downgrade() -> None:
    """Drop them."""
    op.drop_index("responses_by_size", "responses")
    for name in ("size", "age", "expiry"):
        op.drop_index(f"stored_completions_by_{name}", "stored_completions")
