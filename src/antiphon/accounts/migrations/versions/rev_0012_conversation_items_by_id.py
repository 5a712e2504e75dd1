"""An index by which an item of a conversation is found by its id, as the cursor of a list is."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the index."""
    op.create_index("conversation_items_by_id", "conversation_items", ["conversation_id", "item_id"])


def downgrade() -> None:
    """Drop it."""
    op.drop_index("conversation_items_by_id", "conversation_items")
