"""The parts of vector stores, put together: rows, index files, reading in the background, search."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from antiphon.files import FileStore
from antiphon.protocol.errors import ApiError
from antiphon.vector_stores.embedding import StoreEmbedding
from antiphon.vector_stores.errors import is_index_missing, no_such_store, store_expired
from antiphon.vector_stores.indexes import Indexes
from antiphon.vector_stores.ingestion import Ingestion
from antiphon.vector_stores.progress import ProgressFiles
from antiphon.vector_stores.ranking import StoreRanking
from antiphon.vector_stores.records import FileCounts, StoreFile, VectorStore
from antiphon.vector_stores.searching import Found, SearchQuery, StoreSearch
from antiphon.vector_stores.settings import VectorStoreSettings
from antiphon.vector_stores.store import VectorStoreTable, now_ms

Json = dict[str, Any]


class VectorStores:
    """Belongs to one event loop. ``home`` is the folder for index files; ``files`` are owned by their creator."""

    def __init__(
        self,
        files: FileStore,
        home: Path,
        embedding: StoreEmbedding,
        ranking: StoreRanking,
        settings: VectorStoreSettings,
    ) -> None:
        self.files = files
        self.embedding = embedding
        self.ranking = ranking
        self.table = VectorStoreTable(files.engine, settings)
        self._indexes = Indexes(home / "vector_stores")
        progress = ProgressFiles(home / "vector_stores")
        self.ingestion = Ingestion(self.table, self._indexes, progress, files, embedding=embedding, settings=settings)
        self._search = StoreSearch(self._indexes, embedding, ranking, settings.rerank_candidates)

    async def create(self, account: str, values: Json) -> VectorStore:
        """Make an empty store with the ``values`` of a checked request. ``ApiError`` 400 without an embedding model."""
        expiry: Json = values.get("expires_after") or {}
        store = await self.table.create(
            account,
            name=values.get("name") or "",
            description=values.get("description"),
            metadata=values.get("metadata") or {},
            model=self.embedding.model(),
            expires_after_days=expiry.get("days"),
        )
        try:
            await self._indexes.create(store.id)
        except BaseException:
            await self.table.delete(store.id)
            raise
        return store

    async def require(self, store_id: str, account: str) -> VectorStore:
        """Return a store of ``account``. ``ApiError`` 404 for one that is not there, or another's."""
        store = await self.table.find(store_id, account)
        if store is None:
            raise no_such_store(store_id)
        return store

    async def require_live(self, store_id: str, account: str) -> VectorStore:
        """Return a store of ``account`` that may be added to and searched. ``ApiError`` 404, or 400 past its time."""
        store = await self.require(store_id, account)
        if store.is_expired(now_ms()):
            raise store_expired(store_id)
        return store

    async def value(self, store: VectorStore) -> Json:
        """Return a store as the API shows it."""
        counts = await self.table.counts([store.id])
        return store.value(counts[store.id], now_ms())

    async def values(self, stores: Sequence[VectorStore]) -> list[Json]:
        """Return stores as the API shows them."""
        counts: Mapping[str, FileCounts] = await self.table.counts([store.id for store in stores]) if stores else {}
        return [store.value(counts[store.id], now_ms()) for store in stores]

    async def delete(self, store: VectorStore) -> bool:
        """Remove a store and its index; False if another request has."""
        is_deleted = await self.table.delete(store.id)
        await self._indexes.remove(store.id)
        return is_deleted

    async def set_attributes(self, file: StoreFile, attributes: Mapping[str, Any]) -> bool:
        """Replace the attributes of a file, by which a search may filter from now on; False if it is gone."""
        if not await self.table.set_attributes(file.vector_store_id, file.file_id, attributes):
            return False
        async with self._present([file.vector_store_id], file.account):
            await self.ingestion.align_attributes(file.vector_store_id, file.file_id)
        return True

    async def texts(self, file: StoreFile) -> list[str]:
        """Return the text of a file in pieces, as it was read; empty while it is not."""
        async with self._present([file.vector_store_id], file.account):
            return await self._indexes.run(file.vector_store_id, lambda index: index.texts_of(file.file_id))

    async def search(
        self,
        stores: Sequence[VectorStore],
        query: SearchQuery,
        account: str,
        path: str,
        reranker: str | None = None,
    ) -> list[Found]:
        """Return what answers best. ``path`` is for the usage rows of the models. ``reranker`` as ``ranking`` chose it.

        Raises ``ApiError``.
        """
        async with self._present([store.id for store in stores], account):
            found = await self._search.search(stores, query, account, path, reranker)
        for store in stores:
            await self.table.touch(store)
        # A process that was killed may have left a file in the index that is in the store no more.
        held = await self.table.with_status({(one.vector_store_id, one.file_id) for one in found}, "completed")
        return [one for one in found if (one.vector_store_id, one.file_id) in held]

    @asynccontextmanager
    async def _present(self, store_ids: Sequence[str], account: str) -> AsyncGenerator[None]:
        """Within the block, a store that another request deletes is reported as one that is not there: 404, or 400 past its time."""
        try:
            yield
        except ApiError as error:
            if is_index_missing(error):
                for store_id in store_ids:
                    await self.require_live(store_id, account)
            raise

    def start(self) -> None:
        """Begin what runs without a request."""
        self.ingestion.start()

    async def aclose(self) -> None:
        """Stop it, and close the index files."""
        await self.ingestion.aclose()
        self._indexes.close()
