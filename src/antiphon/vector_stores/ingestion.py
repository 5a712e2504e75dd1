"""Reads files into vector stores in the background, and removes what nobody keeps.

Which files are to be read is in the database, with a lease for the process that reads one: what a process that was killed had
begun, another one or the next start takes up, after the last step that it embedded. A file is written into its index in one
transaction. Any number of processes of one machine may do this at once. While a key is at its limits none of its files is begun.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import msgspec
import structlog

from antiphon.files import FileStore, StoredFile
from antiphon.protocol.errors import ApiError
from antiphon.search.chunking import Chunking
from antiphon.search.document import Document
from antiphon.search.index_file import EmbeddedDocument, IndexFile
from antiphon.vector_stores.embedding import ChunkEmbedder, StoreEmbedding
from antiphon.vector_stores.errors import KeyAtLimit, UnreadableFile
from antiphon.vector_stores.indexes import Indexes
from antiphon.vector_stores.progress import FileProgress, ProgressFiles
from antiphon.vector_stores.reading import read_text
from antiphon.vector_stores.records import StoreFile
from antiphon.vector_stores.settings import VectorStoreSettings
from antiphon.vector_stores.store import LEASE_MS, VectorStoreTable
from antiphon.wire.failures import is_transient

LOOK_EVERY_S = 5.0
"""How often the database is asked for files of processes that were killed; new ones are begun at once."""
SWEEP_EVERY_S = 60.0
_RETRY_S = 5.0
_MOST = 500
_SERVER_ERROR = 500
_PATH = "/v1/vector_stores"

_log = structlog.get_logger("antiphon.vector_stores")


class IngestionStatistics(msgspec.Struct, frozen=True):
    """What this process has read since it started."""

    files_completed_total: int
    files_failed_total: int


class Ingestion:
    """Belongs to one event loop. ``start`` begins the tasks that ``aclose`` ends."""

    def __init__(
        self,
        table: VectorStoreTable,
        indexes: Indexes,
        progress: ProgressFiles,
        files: FileStore,
        *,
        embedding: StoreEmbedding,
        settings: VectorStoreSettings,
    ) -> None:
        self._table = table
        self._indexes = indexes
        self._progress = progress
        self._files = files
        self._embedding = embedding
        self._settings = settings
        self._wake = asyncio.Event()
        self._pauses: dict[str, float] = {}
        """Accounts at their limits, and until when none of their files is begun, by the event loop's clock."""
        self._tasks: list[asyncio.Task[None]] = []
        self._num_completed = self._num_failed = 0

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._read_for_ever(), name="antiphon-vector-store-files"),
            asyncio.create_task(self._sweep_for_ever(), name="antiphon-vector-store-sweep"),
        ]

    def wake(self) -> None:
        """Say that there are new files."""
        self._wake.set()

    def statistics(self) -> IngestionStatistics:
        """Return counts without waiting."""
        return IngestionStatistics(self._num_completed, self._num_failed)

    async def aclose(self) -> None:
        """End the tasks. A file that was being read is free for the next start."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def forget_file(self, file_id: str) -> None:
        """Take a file that was deleted out of every store that it is in."""
        for store_id in await self._table.stores_of(file_id):
            await self.remove(store_id, file_id)

    async def remove(self, store_id: str, file_id: str) -> bool:
        """Take a file out of a store and its index; False if another request has."""
        is_removed = await self._table.remove_file(store_id, file_id)
        with contextlib.suppress(ApiError):  # the index may be gone with its store
            await self._indexes.run(store_id, lambda index: index.delete([file_id]))
        return is_removed

    async def align_attributes(self, store_id: str, file_id: str, written: Mapping[str, Any] | None = None) -> None:
        """Make the index have the attributes of a file's row, however many requests change them at once.

        ``written`` is what the index is known to have.
        """
        while (file := await self._table.find_file(store_id, file_id)) is not None and file.attributes != written:
            written = dict(file.attributes)
            document = Document(file_id, "", metadata=written)
            await self._indexes.run(store_id, lambda index, document=document: index.set_metadata([document]))

    async def sweep(self) -> None:
        """Remove stores past their time, files that were deleted, and index files without a store."""
        for store_id in await self._table.empty_expired():
            await self._indexes.remove(store_id)
        while gone := await self._table.without_file(_MOST):
            for store_id, file_id in gone:
                await self.remove(store_id, file_id)
        names = await self._indexes.names()
        for start in range(0, len(names), _MOST):
            some = names[start : start + _MOST]
            known = await self._table.known(some)
            for store_id in some:
                if store_id not in known:
                    await self._indexes.remove(store_id)
        begun = await self._progress.pairs()
        for start in range(0, len(begun), _MOST):
            group = set(begun[start : start + _MOST])
            for store_id, file_id in group - await self._table.with_status(group, "in_progress"):
                await self._progress.forget(store_id, file_id)

    async def _read_for_ever(self) -> None:
        while True:
            self._wake.clear()
            try:
                while (file := await self._table.claim(self._paused())) is not None:
                    await self._process(file)
            except ApiError as error:
                _log.warning("vector_store_files_not_read", error=error.message)
                await asyncio.sleep(_RETRY_S)
            except Exception:  # noqa: BLE001 - whatever failed, files that come later are read
                _log.exception("vector_store_files_not_read")
                await asyncio.sleep(_RETRY_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._look_again_s())

    def _paused(self) -> set[str]:
        now = asyncio.get_running_loop().time()
        self._pauses = {account: until for account, until in self._pauses.items() if until > now}
        return set(self._pauses)

    def _look_again_s(self) -> float:
        """Return for how long nothing new is expected: until the first pause is over, at most ``LOOK_EVERY_S``."""
        now = asyncio.get_running_loop().time()
        return max(min([LOOK_EVERY_S, *(until - now for until in self._pauses.values())]), 0.0)

    async def _sweep_for_ever(self) -> None:
        while True:
            try:
                await self.sweep()
            except Exception:  # noqa: BLE001 - whatever failed is tried again with the next sweep
                _log.exception("vector_stores_not_swept")
            await asyncio.sleep(SWEEP_EVERY_S)

    async def _process(self, file: StoreFile) -> None:
        """Read one claimed file. Only a failure of the database is raised."""
        keeping = asyncio.create_task(self._keep(file))
        try:
            await self._read(file)
        except UnreadableFile as error:
            await self._failed(file, error)
        except KeyAtLimit as limit:
            _log.info("vector_store_file_waits", file_id=file.file_id, limit_wait_s=limit.wait_s)
            self._pauses[file.account] = asyncio.get_running_loop().time() + limit.wait_s
            await self._table.release(file)
        except ApiError as error:
            # The model is loading, busy or limited: the file waits. A 500 may be the file's own.
            if error.status != _SERVER_ERROR and is_transient(error.status):
                _log.warning("vector_store_file_waits", file_id=file.file_id, error=error.message)
                await self._table.release(file, _RETRY_S)
                return
            await self._failed(file, UnreadableFile("server_error", error.message))
        except asyncio.CancelledError:
            await asyncio.shield(self._table.release(file))
            raise
        except Exception as error:  # noqa: BLE001 - one file must not end the reading of all others
            _log.exception("vector_store_file_failed", file_id=file.file_id)
            message = f"The server could not read the file ({type(error).__name__})."
            await self._failed(file, UnreadableFile("server_error", message))
        finally:
            keeping.cancel()
            await asyncio.wait({keeping})

    async def _failed(self, file: StoreFile, error: UnreadableFile) -> None:
        self._num_failed += 1
        await self._table.fail(file, error)
        await self._progress.forget(file.vector_store_id, file.file_id)

    async def _keep(self, file: StoreFile) -> None:
        while True:
            await asyncio.sleep(LEASE_MS / 3000)
            with contextlib.suppress(ApiError):
                await self._table.keep(file)

    async def _read(self, file: StoreFile) -> None:
        store = await self._table.find(file.vector_store_id, file.account)
        stored = await self._files.find(file.file_id, file.account)
        if store is None or stored is None:
            await self._table.remove_file(file.vector_store_id, file.file_id)
            return
        progress = await self._progress.load(file) or await self._begun(file, stored)
        embedder = ChunkEmbedder(self._embedding, store.model, file.account, _PATH)
        while progress.next_chunks(1):
            if not await self._table.keep(file):
                return  # cancelled, removed or added anew
            await embedder.step(progress)
            if progress.next_chunks(1):
                await self._progress.save(file, progress)
        await self._write(file, progress)
        await self._progress.forget(file.vector_store_id, file.file_id)

    async def _begun(self, file: StoreFile, stored: StoredFile) -> FileProgress:
        read = await read_text(self._files, stored, self._settings)
        chunking = Chunking(file.chunk_tokens, file.chunk_overlap)
        chunks = await asyncio.to_thread(chunking.chunks, read.text, read.syntax)
        if not chunks:
            raise UnreadableFile("invalid_file", "There is no text in the file.")
        return FileProgress(read, chunks)

    async def _write(self, file: StoreFile, progress: FileProgress) -> None:
        read, chunks, vectors = progress.read, progress.chunks, progress.vectors
        current = await self._table.find_file(file.vector_store_id, file.file_id)
        attributes: dict[str, Any] = dict((current or file).attributes)
        document = Document(file.file_id, read.text, file.filename, attributes)

        def write(index: IndexFile) -> None:
            index.write([EmbeddedDocument(document, "", chunks, vectors)])

        await self._indexes.run(file.vector_store_id, write)
        usage_bytes = sum(len(chunk.text.encode()) for chunk in chunks) + sum(vector.nbytes for vector in vectors)
        if await self._table.complete(file, usage_bytes):
            self._num_completed += 1
            # They may have been changed between the row that was read above and the index.
            await self.align_attributes(file.vector_store_id, file.file_id, attributes)
        elif await self._table.find_file(file.vector_store_id, file.file_id) is None:
            await self._indexes.run(file.vector_store_id, lambda index: index.delete([file.file_id]))
