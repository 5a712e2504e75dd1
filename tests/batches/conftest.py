"""Batches over SQLite and PostgreSQL."""

from tests.state.conftest import database_url, engine, postgres_socket, postgres_url

__all__ = ["database_url", "engine", "postgres_socket", "postgres_url"]
