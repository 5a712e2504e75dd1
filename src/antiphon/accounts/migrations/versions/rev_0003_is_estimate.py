"""Whether a row's tokens are estimated."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; older rows have no estimates: they have 0 where an API reported no usage."""
    op.add_column("usage", sa.Column("is_estimate", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("usage", "is_estimate")
