"""The contract of a blob store: bytes under a location that the store chooses and never uses again.

Locations are random, so nothing a client says becomes a path, and a request that removes a blob cannot meet another that takes
its place. Which blobs have the same content, and who refers to them, is in the database (``references.py``).
"""

import hashlib
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager

import msgspec

PIECE_BYTES = 256 * 1024
"""How much is read, hashed and written at once."""

_LOCATION = re.compile(r"[0-9a-f]{32}")


class WrittenBlob(msgspec.Struct, frozen=True):
    """What a finished writer stored. ``digest`` is SHA-256 in hex digits, ``md5`` too."""

    location: str
    digest: str
    num_bytes: int
    md5: str = ""


class BlobListing(msgspec.Struct, frozen=True):
    """A blob that the store holds, or that is being written; ``age_s`` since its last change."""

    location: str
    age_s: float


class Checksum:
    """Hashes what a writer is given. ``wants_md5``: only where a client asks for it."""

    def __init__(self, *, wants_md5: bool = False) -> None:
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False) if wants_md5 else None
        self.num_bytes = 0

    def update(self, data: bytes) -> None:
        self._sha256.update(data)
        if self._md5 is not None:
            self._md5.update(data)
        self.num_bytes += len(data)

    def result(self, location: str) -> WrittenBlob:
        md5 = "" if self._md5 is None else self._md5.hexdigest()
        return WrittenBlob(location, self._sha256.hexdigest(), self.num_bytes, md5)


class BlobWriter(ABC):
    """Writes one blob. Until ``commit`` nobody can read it; without ``commit`` nothing of it is left."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Add bytes. ``ApiError``: 507 on a full disk, 503 without the bucket."""

    @abstractmethod
    async def commit(self) -> WrittenBlob:
        """Make it durable and readable. Raises as ``write`` does."""


class BlobStore(ABC):
    """Belongs to one event loop. No method blocks it."""

    @abstractmethod
    def writer(self, *, wants_md5: bool = False) -> AbstractAsyncContextManager[BlobWriter]:
        """Open a writer. Leaving the block without ``commit`` removes what was written. ``ApiError`` 507 without room."""

    @abstractmethod
    def read(self, location: str, start: int = 0) -> AsyncGenerator[bytes]:
        """Yield the bytes from ``start`` on, in pieces. Raises ``FileNotFoundError`` before the first; ``ApiError`` 503."""

    @abstractmethod
    async def remove(self, location: str) -> None:
        """Remove a blob; one that is not there is gone already."""

    @abstractmethod
    def listing(self) -> AsyncGenerator[BlobListing]:
        """Yield every blob, also those that were never committed."""

    @abstractmethod
    async def aclose(self) -> None:
        """Release what the store holds open."""


def new_location() -> str:
    return secrets.token_hex(16)


def is_location(name: str) -> bool:
    """Whether a name in the storage is one that a store chose; a sweep leaves everything else alone."""
    return _LOCATION.fullmatch(name) is not None
