"""Files over SQLite and PostgreSQL, in a folder of the test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.state.conftest import database_url, engine, postgres_socket, postgres_url

from antiphon.files import FileSettings, FileStore, UploadStore
from antiphon.files.blobs import DiskBlobs

__all__ = ["database_url", "engine", "postgres_socket", "postgres_url"]


@pytest.fixture
async def store(engine: AsyncEngine, tmp_path: Path) -> AsyncIterator[FileStore]:
    """A store that takes 1000 bytes in one file, 2000 of one key, and 3000 of all."""
    blobs = DiskBlobs(tmp_path / "files")
    settings = FileSettings(max_file_bytes=1000, max_upload_bytes=1500, max_key_bytes=2000, max_bytes=3000)
    yield FileStore(engine, blobs, settings)
    await blobs.aclose()


@pytest.fixture
def uploads(store: FileStore) -> UploadStore:
    return UploadStore(store)
