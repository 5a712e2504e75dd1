"""Whether a row's tokens are estimated."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; the rows before it have no estimates, but 0 for what was not told."""
    op.add_column("usage", sa.Column("is_estimate", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("usage", "is_estimate")
