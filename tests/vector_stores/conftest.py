"""Vector stores over SQLite and PostgreSQL, with an embedding model that a test can hold up."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.state.conftest import database_url, engine, postgres_socket, postgres_url
from tests.vector_stores.world import World

__all__ = ["database_url", "engine", "postgres_socket", "postgres_url"]


@pytest.fixture
async def world(engine: AsyncEngine, tmp_path: Path) -> AsyncIterator[World]:
    made = World(engine, tmp_path)
    yield made
    await made.aclose()
