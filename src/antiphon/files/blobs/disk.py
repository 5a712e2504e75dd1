"""Blobs in a folder: written under ``incoming``, flushed to the disk, and renamed into place."""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from antiphon.files.blobs.base import (
    PIECE_BYTES,
    BlobListing,
    BlobStore,
    BlobWriter,
    Checksum,
    WrittenBlob,
    is_location,
    new_location,
)
from antiphon.files.errors import FULL_DISK, storage_full

T = TypeVar("T")
_NUM_THREADS = 4
_LOOK_AT_ROOM_EVERY = 16 * 1024 * 1024


class DiskBlobs(BlobStore):
    """``folder`` is made at the first write, for this user alone. ``min_free_bytes`` stay free on its disk."""

    def __init__(self, folder: Path, *, min_free_bytes: int = 0) -> None:
        self._folder = folder
        self._min_free_bytes = min_free_bytes
        # Threads of its own: a disk that hangs holds up files alone.
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="files")

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Return ``function(*args)`` from one of the threads; a full disk is ``ApiError`` 507."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)
        except OSError as error:
            if error.errno in FULL_DISK:
                raise storage_full() from error
            raise

    @asynccontextmanager
    async def writer(self, *, wants_md5: bool = False) -> AsyncGenerator[BlobWriter]:
        location = new_location()
        incoming = self._folder / "incoming" / location
        opened = await self.run(self._open, incoming)
        writer = _DiskWriter(self, location, opened, Checksum(wants_md5=wants_md5))
        try:
            yield writer
        finally:
            if not writer.is_committed:
                # Shielded: a request that is cancelled once more must not leave its half behind.
                await asyncio.shield(self.run(_discard, opened, incoming))

    def path(self, location: str) -> Path:
        """Return where a blob is."""
        assert is_location(location)
        return self._folder / "blobs" / location[:2] / location

    def check_room(self) -> None:
        """Raise ``OSError`` like a full disk once less than ``min_free_bytes`` are free."""
        if self._min_free_bytes and shutil.disk_usage(self._folder).free < self._min_free_bytes:
            raise OSError(FULL_DISK[0], "less is free than [files] min_free_bytes")

    def place(self, opened: IO[bytes], location: str) -> None:
        """Flush a blob to the disk and rename it to its path."""
        opened.flush()
        os.fsync(opened.fileno())
        opened.close()
        target = self.path(location)
        _make_private(target.parent)
        (self._folder / "incoming" / location).replace(target)
        _sync_folder(target.parent)

    def _open(self, path: Path) -> IO[bytes]:
        _make_private(path.parent)
        self.check_room()
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        return os.fdopen(descriptor, "wb", buffering=0)

    async def read(self, location: str, start: int = 0) -> AsyncGenerator[bytes]:
        opened = await self.run(_open_at, self.path(location), start)
        try:
            while piece := await self.run(opened.read, PIECE_BYTES):
                yield piece
        finally:
            opened.close()

    async def remove(self, location: str) -> None:
        await self.run(_unlink, self.path(location))
        await self.run(_unlink, self._folder / "incoming" / location)

    async def listing(self) -> AsyncGenerator[BlobListing]:
        names = await self.run(lambda: list(self._list()))
        for name in names:
            yield name

    def _list(self) -> Iterator[BlobListing]:
        now = time.time()
        for folder in (self._folder / "incoming", *(self._folder / "blobs").glob("[0-9a-f][0-9a-f]")):
            if not folder.is_dir():
                continue
            for entry in os.scandir(folder):
                with suppress(FileNotFoundError):
                    if is_location(entry.name) and entry.is_file(follow_symlinks=False):
                        yield BlobListing(entry.name, now - entry.stat(follow_symlinks=False).st_mtime)

    async def aclose(self) -> None:
        self._threads.shutdown(wait=True)


class _DiskWriter(BlobWriter):
    def __init__(self, store: DiskBlobs, location: str, opened: IO[bytes], checksum: Checksum) -> None:
        self._store = store
        self._location = location
        self._opened = opened
        self._checksum = checksum
        self._num_unchecked = 0
        self.is_committed = False

    async def write(self, data: bytes) -> None:
        await self._store.run(self._write, data)

    def _write(self, data: bytes) -> None:
        self._checksum.update(data)
        self._num_unchecked += len(data)
        if self._num_unchecked >= _LOOK_AT_ROOM_EVERY:
            self._num_unchecked = 0
            self._store.check_room()
        left = memoryview(data)
        while left:
            left = left[self._opened.write(left) :]

    async def commit(self) -> WrittenBlob:
        await self._store.run(self._store.place, self._opened, self._location)
        self.is_committed = True
        return self._checksum.result(self._location)


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_at(path: Path, start: int) -> IO[bytes]:
    opened = path.open("rb", buffering=0)
    opened.seek(start)
    return opened


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)


def _discard(opened: IO[bytes], path: Path) -> None:
    opened.close()
    _unlink(path)
