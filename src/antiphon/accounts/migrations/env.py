"""What Alembic runs: the revisions, over the connection that ``database.migrate`` hands in."""

from alembic import context
from sqlalchemy import Connection

from antiphon.accounts.schema import metadata

connection: Connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
