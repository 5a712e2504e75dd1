"""The index files of vector stores: one SQLite file for each, in ``ANTIPHON_HOME``; some are open at a time.

Everything that touches one runs in a thread. Processes of one machine share the files.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from antiphon.search.errors import SearchError
from antiphon.search.index_file import IndexFile
from antiphon.vector_stores.errors import index_missing, index_unusable

T = TypeVar("T")
MAX_OPEN = 8
"""Open at once in a process; each holds its vectors in memory once it was searched."""
_SUFFIXES = ("", "-wal", "-shm")


class Indexes:
    """Belongs to one event loop. ``folder`` is made with the first store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[str, IndexFile] = OrderedDict()
        self._users: dict[str, int] = {}
        self._opening = asyncio.Lock()

    async def create(self, store_id: str) -> None:
        """Make the file of a new store. ``ApiError`` 500 where the disk does not take it."""
        path = self._path(store_id)
        try:
            await asyncio.to_thread(lambda: IndexFile(path).close())
        except SearchError as error:
            raise index_unusable(error.message) from error

    async def run(self, store_id: str, work: Callable[[IndexFile], T]) -> T:
        """Return what ``work`` does with the index, in a thread. ``ApiError`` 500 if it is missing or damaged."""
        async with self._opening:
            index = self._open.get(store_id)
            if index is None:
                index = self._open[store_id] = await self._opened(store_id)
            self._open.move_to_end(store_id)
            self._users[store_id] = self._users.get(store_id, 0) + 1
            self._close_unused()
        try:
            return await asyncio.to_thread(work, index)
        except SearchError as error:
            raise index_unusable(error.message) from error
        finally:
            self._users[store_id] -= 1
            if not self._users[store_id]:
                del self._users[store_id]

    async def remove(self, store_id: str) -> None:
        """Remove a store's file; what still reads it may finish."""
        async with self._opening:
            if store_id not in self._users and (index := self._open.pop(store_id, None)) is not None:
                index.close()
            path = self._path(store_id)
            await asyncio.to_thread(_unlink, path)

    async def names(self) -> list[str]:
        """Return the ids of the stores that have a file here."""
        return await asyncio.to_thread(lambda: [path.stem for path in self._folder.glob("vs_*.sqlite")])

    def close(self) -> None:
        """Close every file that is not being used."""
        for store_id in [name for name in self._open if name not in self._users]:
            self._open.pop(store_id).close()

    async def _opened(self, store_id: str) -> IndexFile:
        path = self._path(store_id)

        def open_existing() -> IndexFile | None:
            return IndexFile(path) if path.exists() else None

        try:
            index = await asyncio.to_thread(open_existing)
        except SearchError as error:
            raise index_unusable(error.message) from error
        if index is None:
            raise index_missing(store_id)
        return index

    def _close_unused(self) -> None:
        for store_id in list(self._open):
            if len(self._open) <= MAX_OPEN:
                return
            if store_id not in self._users:
                self._open.pop(store_id).close()

    def _path(self, store_id: str) -> Path:
        # Only ids that the server made: each was looked up in the database before.
        return self._folder / f"{store_id}.sqlite"


def _unlink(path: Path) -> None:
    for suffix in _SUFFIXES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)
