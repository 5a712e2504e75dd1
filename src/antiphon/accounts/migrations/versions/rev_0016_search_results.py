"""What searches of a response found, for the turns that follow it."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("responses", sa.Column("found", sa.LargeBinary))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("responses", "found")
