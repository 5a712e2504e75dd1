"""What the response cache spared, in dollars."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_DOUBLE: sa.Double[float] = sa.Double()


def upgrade() -> None:
    """Add the column; what older rows saved is unknown."""
    op.add_column("usage", sa.Column("saved_usd", _DOUBLE))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("usage", "saved_usd")
