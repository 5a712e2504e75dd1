"""Stores over SQLite and PostgreSQL."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.accounts.conftest import database_url, postgres_socket, postgres_url

from antiphon.accounts.database import open_database

__all__ = ["database_url", "engine", "postgres_socket", "postgres_url"]


@pytest.fixture
async def engine(database_url: str, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    """A database at the newest revision, once of each kind."""
    opened = await open_database(database_url, tmp_path)
    yield opened
    await opened.dispose()
