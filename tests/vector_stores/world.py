"""What the tests of vector stores share: files, a model of two dimensions, and any number of servers over one database."""

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.files.content import new, pieces

from antiphon.files import FileSettings, FileStore
from antiphon.files.blobs import DiskBlobs
from antiphon.protocol.errors import ApiError
from antiphon.search.index_file import Vector
from antiphon.vector_stores import (
    FileCounts,
    NewStoreFile,
    SearchQuery,
    VectorStore,
    VectorStores,
    VectorStoreSettings,
    search_query,
)

ACCOUNT = "a"


class GatedEmbedding:
    """Counts words. While ``gate`` is closed, calls wait; ``waiting`` is how many do."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0
        self.texts: list[str] = []
        self.name = "words"
        self.too_long: ApiError | None = None
        """What a text of more than 200 characters is refused with; None: none is."""

    def model(self) -> str:
        return self.name

    async def embed(self, texts: Sequence[str], model: str, account: str, path: str) -> list[Vector]:
        del model, account, path
        self.waiting += 1
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1
        if self.too_long is not None and max(map(len, texts)) > 200:
            raise self.too_long
        self.texts += texts
        return [np.array([1.0, 1.0 / (1 + len(text))], np.float32) for text in texts]


class World:
    """One database and one home folder; ``server`` makes vector stores over both, as each process of a machine does."""

    def __init__(self, engine: AsyncEngine, home: Path) -> None:
        self.home = home
        self.files = FileStore(engine, DiskBlobs(home / "files"), FileSettings())
        self.servers: list[VectorStores] = []

    def server(self, embedding: GatedEmbedding | None = None, **settings: Any) -> VectorStores:
        made = VectorStores(self.files, self.home, embedding or GatedEmbedding(), VectorStoreSettings(**settings))
        self.servers.append(made)
        return made

    async def file(self, content: bytes, name: str = "x.txt", **attributes: Any) -> NewStoreFile:
        """Keep a file, and return it as it is put into a store."""
        kept = await self.files.add_whole(new(ACCOUNT, name), pieces(content))
        return NewStoreFile(file_id=kept.id, filename=name, attributes=attributes, chunk_tokens=100, chunk_overlap=10)

    async def aclose(self) -> None:
        for server in self.servers:
            await server.aclose()
        await self.files.blobs.aclose()

    def chunks(self, store: VectorStore) -> list[str]:
        """Return the names of the documents of all chunks in the index file, one for each chunk."""
        path = self.home / "vector_stores" / f"{store.id}.sqlite"
        with sqlite3.connect(path) as connection:
            rows = connection.execute("SELECT d.name FROM chunks c JOIN documents d ON d.id = c.document").fetchall()
        connection.close()
        return [row[0] for row in rows]


async def counts(server: VectorStores, store: VectorStore) -> FileCounts:
    return (await server.table.counts([store.id]))[store.id]


async def read_all(server: VectorStores) -> None:
    """Read every file that is free now, as the background task does."""
    while (file := await server.table.claim()) is not None:
        await server.ingestion._process(file)  # pyright: ignore[reportPrivateUsage] - one step of the background task


def query(text: str, **body: Any) -> SearchQuery:
    return search_query({"query": text, **body})
