"""How far a file is embedded, in memory and on disk: what its key has paid for is not paid again after a pause or a restart.

A file that takes more than one step has a record file in ``ANTIPHON_HOME`` until it is in its index: first the text and its chunks,
then what each step added. Everything here that reads or writes runs in a thread. A record that a kill cut off is left out.
"""

import asyncio
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from antiphon.search.chunking import Chunk
from antiphon.search.index_file import Vector
from antiphon.vector_stores.reading import ReadText
from antiphon.vector_stores.records import StoreFile

_LENGTH_BYTES = 4
_CHECKSUM_BYTES = 4
_SUFFIX = ".progress"
Span = tuple[int, int]


class _Begun(msgspec.Struct, frozen=True, tag="begun"):
    read: ReadText
    spans: tuple[Span, ...]


class _Cut(msgspec.Struct, frozen=True, tag="cut"):
    """The chunk at ``position`` was too long and is these now."""

    position: int
    spans: tuple[Span, ...]


class _Embedded(msgspec.Struct, frozen=True, tag="embedded"):
    """Vectors of the ``count`` chunks from ``position`` on, as float32."""

    position: int
    count: int
    vectors: bytes


_Record = _Begun | _Cut | _Embedded
_records: msgspec.msgpack.Decoder[_Record] = msgspec.msgpack.Decoder(_Record)


class FileProgress:
    """One file: its text, all its chunks, and the vectors of the first of them."""

    def __init__(self, read: ReadText, chunks: Sequence[Chunk]) -> None:
        self.read = read
        self.chunks = list(chunks)
        self.vectors: list[Vector] = []
        self._unsaved: list[_Record] = [_Begun(read, _spans(chunks))]

    def next_chunks(self, most: int) -> list[Chunk]:
        """Return up to ``most`` chunks that have no vector yet; none when the file is embedded."""
        return self.chunks[len(self.vectors) : len(self.vectors) + most]

    def cut(self, parts: Sequence[Chunk]) -> None:
        """Put ``parts`` in the place of the next chunk."""
        self._take(_Cut(len(self.vectors), _spans(parts)))

    def add(self, vectors: Sequence[Vector]) -> None:
        """Take the vectors of the next chunks."""
        joined = np.asarray(vectors, np.float32).tobytes()
        self._take(_Embedded(len(self.vectors), len(vectors), joined))

    @property
    def has_news(self) -> bool:
        """Whether there is anything that is not on disk."""
        return bool(self._unsaved)

    def unsaved(self) -> bytes:
        """Return the records that are not on disk, and count them as saved."""
        records = b"".join(map(_framed, self._unsaved))
        self._unsaved.clear()
        return records

    def replay(self, records: Sequence[_Record]) -> None:
        """Do again what was saved."""
        self._unsaved.clear()
        for record in records:
            # Another position: a process whose lease had ended wrote the same step.
            if not isinstance(record, _Begun) and record.position == len(self.vectors):
                self._apply(record)

    def _take(self, record: _Cut | _Embedded) -> None:
        self._apply(record)
        self._unsaved.append(record)

    def _apply(self, record: _Cut | _Embedded) -> None:
        if isinstance(record, _Cut):
            self.chunks[record.position : record.position + 1] = _chunks(self.read.text, record.spans)
        elif record.count:
            self.vectors += list(np.frombuffer(record.vectors, np.float32).reshape(record.count, -1))


class ProgressFiles:
    """The record files, in ``folder``, which is made with the first one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def load(self, file: StoreFile) -> FileProgress | None:
        """Return how far a file is; None if nothing of it is kept. Raises ``OSError``."""
        path = self._path(file)

        def read() -> FileProgress | None:
            try:
                saved = path.read_bytes()
            except FileNotFoundError:
                return None
            records, num_bytes = _unframed(saved)
            if num_bytes < len(saved):
                os.truncate(path, num_bytes)  # so that what is appended can be read
            return _restored(records)

        return await asyncio.to_thread(read)

    async def save(self, file: StoreFile, progress: FileProgress) -> None:
        """Append what is new. Raises ``OSError``."""
        path = self._path(file)

        def append() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as out:
                out.write(progress.unsaved())

        if progress.has_news:
            await asyncio.to_thread(append)

    async def pairs(self) -> list[tuple[str, str]]:
        """Return the store and the file of everything that is kept."""

        def read() -> list[tuple[str, str]]:
            names = (path.name.split(".") for path in self._folder.glob(f"*{_SUFFIX}"))
            return list(dict.fromkeys((store_id, file_id) for store_id, file_id, *_ in names))

        return await asyncio.to_thread(read)

    async def forget(self, store_id: str, file_id: str) -> None:
        """Remove what is kept of a file, however often it was added."""

        def remove() -> None:
            for path in self._folder.glob(f"{store_id}.{file_id}.*{_SUFFIX}"):
                path.unlink(missing_ok=True)

        await asyncio.to_thread(remove)

    def _path(self, file: StoreFile) -> Path:
        # A file that is added anew gets another time, and may be cut otherwise.
        return self._folder / f"{file.vector_store_id}.{file.file_id}.{file.created_at_ms}{_SUFFIX}"


def _restored(records: Sequence[_Record]) -> FileProgress | None:
    """Return what was saved; None if not even the text was."""
    begun = next((record for record in records if isinstance(record, _Begun)), None)
    if begun is None:
        return None
    progress = FileProgress(begun.read, _chunks(begun.read.text, begun.spans))
    progress.replay(records[records.index(begun) :])
    return progress


def _spans(chunks: Sequence[Chunk]) -> tuple[Span, ...]:
    return tuple((chunk.start, chunk.end) for chunk in chunks)


def _chunks(text: str, spans: Sequence[Span]) -> list[Chunk]:
    return [Chunk(text[start:end], start, end) for start, end in spans]


def _framed(record: _Record) -> bytes:
    content = msgspec.msgpack.encode(record)
    checksum = zlib.crc32(content).to_bytes(_CHECKSUM_BYTES)
    return len(content).to_bytes(_LENGTH_BYTES) + checksum + content


def _unframed(saved: bytes) -> tuple[list[_Record], int]:
    """Return the records up to the first that is damaged, and how many bytes they are."""
    found: list[_Record] = []
    start = 0
    while start + _LENGTH_BYTES + _CHECKSUM_BYTES <= len(saved):
        at = start + _LENGTH_BYTES + _CHECKSUM_BYTES
        content = saved[at : at + int.from_bytes(saved[start : start + _LENGTH_BYTES])]
        if zlib.crc32(content) != int.from_bytes(saved[start + _LENGTH_BYTES : at]):
            break
        found.append(_records.decode(content))
        start = at + len(content)
    return found, start
