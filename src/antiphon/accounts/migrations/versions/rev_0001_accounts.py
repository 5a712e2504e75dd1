"""Keys, their generation, usage rows and what was spent per day."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_DOUBLE: sa.Double[float] = sa.Double()


def upgrade() -> None:
    """Create the four tables and the one row of ``key_state``."""
    _create_keys()
    state = op.create_table(
        "key_state",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("secret_check", sa.LargeBinary(32)),
    )
    op.bulk_insert(state, [{"id": 1, "generation": 0, "secret_check": None}])
    _create_usage()
    op.create_table(
        "spend",
        sa.Column("key_id", sa.String(32), primary_key=True),
        sa.Column("day", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("usd", _DOUBLE, nullable=False),
    )


def _create_keys() -> None:
    op.create_table(
        "keys",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False, unique=True),
        sa.Column("hint", sa.String(40), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger()),
        sa.Column("revoked_at_ms", sa.BigInteger()),
        sa.Column("rpm", sa.Integer()),
        sa.Column("tpm", sa.BigInteger()),
        sa.Column("rpd", sa.Integer()),
        sa.Column("concurrency", sa.Integer()),
        sa.Column("budget_usd", _DOUBLE),
        sa.Column("budget_period", sa.String(8)),
        sa.Column("models", sa.String(4000)),
        sa.Column("is_admin", sa.Boolean(), nullable=False),
    )


def _create_usage() -> None:
    op.create_table(
        "usage",
        sa.Column("id", sa.String(28), primary_key=True),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(32)),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("model_asked", sa.String(256), nullable=False),
        sa.Column("model_answered", sa.String(256)),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("error_code", sa.String(64)),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cache", sa.String(8)),
        sa.Column("ttft_s", _DOUBLE),
        sa.Column("duration_s", _DOUBLE, nullable=False),
        sa.Column("compute_s", _DOUBLE),
        sa.Column("usd", _DOUBLE),
    )
    op.create_index("usage_by_time", "usage", ["at_ms"])
    op.create_index("usage_by_key", "usage", ["key_id", "at_ms"])
    op.create_index("usage_by_request", "usage", ["request_id"])


def downgrade() -> None:
    """Drop everything."""
    for table in ("spend", "usage", "key_state", "keys"):
        op.drop_table(table)
