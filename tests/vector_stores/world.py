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
from antiphon.protocol.errors import ApiError, prompt_too_long
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
from antiphon.vector_stores.errors import KeyAtLimit

ACCOUNT = "a"


class GatedEmbedding:
    """Counts words. While ``gate`` is closed, calls wait; ``waiting`` is how many do.

    ``room`` is how many texts of each account its limits let in for files; without an entry they are not limited. ``at_once`` is
    the most that they let in together.
    """

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0
        self.texts: list[str] = []
        self.room: dict[str, int] = {}
        self.at_once = 1000
        self.wait_s = 3600.0
        self.refused: list[str] = []
        """The account of each call for files that its limits did not let in."""
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
        return self._vectors(texts)

    async def embed_within_limits(self, texts: Sequence[str], model: str, account: str, path: str) -> list[Vector]:
        room = self.room.get(account, len(texts))
        if not room:
            self.refused.append(account)
            raise KeyAtLimit(self.wait_s)
        some = texts[: min(room, self.at_once)]
        if account in self.room:
            self.room[account] -= len(some)
        return await self.embed(some, model, account, path)

    def _vectors(self, texts: Sequence[str]) -> list[Vector]:
        return [np.array([1.0, 1.0 / (1 + len(text))], np.float32) for text in texts]


class WordRanking:
    """Ranks passages by how many of the question's words they have, as logits; reads at most ``most_chars`` of one."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        self.most_chars = 10_000
        self.are_logits = True

    async def reranker(self, ranker: str, account: str, param: str) -> str | None:
        del account, param
        return None if ranker == "none" else "words"

    async def relevance(
        self, question: str, passages: Sequence[str], model: str, account: str, path: str
    ) -> Sequence[float]:
        del model, account, path
        if max(map(len, passages)) > self.most_chars:
            raise prompt_too_long(self.most_chars, max(map(len, passages)), 0)
        self.asked.append((question, list(passages)))
        words = set(question.split())
        shares = [len(words & set(passage.split())) / len(words) for passage in passages]
        return [8 * share - 4 for share in shares] if self.are_logits else shares


class World:
    """One database and one home folder; ``server`` makes vector stores over both, as each process of a machine does."""

    def __init__(self, engine: AsyncEngine, home: Path) -> None:
        self.home = home
        self.files = FileStore(engine, DiskBlobs(home / "files"), FileSettings())
        self.servers: list[VectorStores] = []

    def server(
        self, embedding: GatedEmbedding | None = None, ranking: WordRanking | None = None, **settings: Any
    ) -> VectorStores:
        made = VectorStores(
            self.files,
            self.home,
            embedding or GatedEmbedding(),
            ranking or WordRanking(),
            VectorStoreSettings(**settings),
        )
        self.servers.append(made)
        return made

    async def file(
        self, content: bytes, name: str = "x.txt", account: str = ACCOUNT, **attributes: Any
    ) -> NewStoreFile:
        """Keep a file, and return it as it is put into a store."""
        kept = await self.files.add_whole(new(account, name), pieces(content))
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
    """Read every file that may be begun now, as the background task does."""
    ingestion = server.ingestion
    while (file := await server.table.claim(ingestion._paused())) is not None:  # pyright: ignore[reportPrivateUsage] - one step of the background task
        await ingestion._process(file)  # pyright: ignore[reportPrivateUsage] - the same


def query(text: str, **body: Any) -> SearchQuery:
    return search_query({"query": text, **body})
