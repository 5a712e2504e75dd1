"""How the database came to look as ``schema.py`` says: Alembic revisions, run when a server or command starts."""
