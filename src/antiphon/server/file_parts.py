"""The parts of one server process that keep files, and search them."""

from collections.abc import Callable
from pathlib import Path

from antiphon.accounts import Accounts
from antiphon.backends.base import Backend
from antiphon.files import FileSettings, FileStore, FileSweeper, UploadStore, make_blob_store
from antiphon.server.request.multipart import MultipartForms
from antiphon.server.vector_embedding import ServerEmbedding
from antiphon.server.vector_ranking import ServerRanking
from antiphon.vector_stores import VectorStores, VectorStoreSettings


class FileParts:
    """Puts them together. ``start`` begins what sweeps and reads in the background; ``aclose`` ends it."""

    def __init__(
        self,
        settings: FileSettings,
        vector_stores: VectorStoreSettings,
        accounts: Accounts,
        backend: Backend,
        *,
        counted_as: Callable[[str], str],
        home: Path,
    ) -> None:
        self.forms = MultipartForms()
        self.files = FileStore(accounts.engine, make_blob_store(settings, home), settings)
        self.uploads = UploadStore(self.files)
        embedding = ServerEmbedding(backend, accounts, vector_stores.embedding_model, counted_as)
        ranking = ServerRanking(backend, accounts, vector_stores.reranker, counted_as)
        self.vector_stores = VectorStores(self.files, home, embedding, ranking, vector_stores)
        self._sweeper = FileSweeper(self.files, self.uploads)

    def start(self) -> None:
        """Begin in the event loop, once."""
        self._sweeper.start()
        self.vector_stores.start()

    async def aclose(self) -> None:
        """End what runs, and release the storage."""
        await self.vector_stores.aclose()
        await self._sweeper.aclose()
        await self.files.blobs.aclose()
