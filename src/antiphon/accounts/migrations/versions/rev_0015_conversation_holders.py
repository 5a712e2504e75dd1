"""Which response has a conversation that is taken."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("conversations", sa.Column("taken_by", sa.String(32)))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("conversations", "taken_by")
