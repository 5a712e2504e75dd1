"""Which upstream has an object that was made through this server, and whose it is."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "upstream_objects",
        sa.Column("id", sa.String(200), primary_key=True),
        sa.Column("upstream", sa.String(200), nullable=False),
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
    )
    op.create_index("upstream_objects_by_expiry", "upstream_objects", ["expires_at_ms"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("upstream_objects")
