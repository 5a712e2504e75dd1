"""Blobs in a bucket of an object store (S3 and what is compatible with it), through ``obstore``.

Credentials and the address of a compatible service come from the environment, as for every client of S3
(``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, ...). An object appears in the bucket when it is whole. Parts of an object above
8 MiB that was broken off stay in the bucket, invisible, because the library cannot remove them: they are for the bucket's own
lifecycle rule.
"""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any

import structlog

from antiphon.errors import AntiphonError
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
from antiphon.files.errors import storage_unreachable

_BUFFER_BYTES = 8 * 1024 * 1024
"""S3 takes parts of at least 5 MiB; ten thousand of these hold the largest upload."""
_PARTS_AT_ONCE = 2
_NO_BUCKET = "NoSuchBucket"
"""S3's code for a bucket that does not exist."""
_DETAILS = "\n\nDebug source"
_MOST_LOGGED = 500
_log = structlog.get_logger("antiphon.files")


def open_bucket(url: str) -> "BucketBlobs":
    """Return the blobs in the bucket of ``url``. Raises ``AntiphonError`` for a URL that ``obstore`` does not accept."""
    import obstore  # noqa: PLC0415 - there only with the extra [bucket]

    try:
        return BucketBlobs(obstore.store.from_url(url))
    except (ValueError, obstore.exceptions.BaseError) as error:
        raise AntiphonError(f"[files] url {url!r} cannot be used: {error}", hint="write s3://bucket/folder") from error


class BucketBlobs(BlobStore):
    """``bucket`` is one of obstore's stores."""

    def __init__(self, bucket: Any) -> None:
        self._bucket = bucket

    @asynccontextmanager
    async def writer(self, *, wants_md5: bool = False) -> AsyncGenerator[BlobWriter]:
        import obstore  # noqa: PLC0415

        location = new_location()
        opened = obstore.open_writer_async(
            self._bucket, location, buffer_size=_BUFFER_BYTES, max_concurrency=_PARTS_AT_ONCE
        )
        yield _BucketWriter(location, opened, Checksum(wants_md5=wants_md5))

    async def read(self, location: str, start: int = 0) -> AsyncGenerator[bytes]:
        import obstore  # noqa: PLC0415

        with _storage_errors():
            if start:
                found = await obstore.get_async(self._bucket, location, options={"range": {"offset": start}})
            else:
                found = await obstore.get_async(self._bucket, location)
        pieces = aiter(found.stream(min_chunk_size=PIECE_BYTES))
        while True:
            with _storage_errors():
                try:
                    piece = await anext(pieces)
                except StopAsyncIteration:
                    return
            yield bytes(piece)

    async def remove(self, location: str) -> None:
        import obstore  # noqa: PLC0415

        try:
            with _storage_errors():
                await obstore.delete_async(self._bucket, location)
        except FileNotFoundError:
            return

    async def listing(self) -> AsyncGenerator[BlobListing]:
        import obstore  # noqa: PLC0415

        pages: Any = aiter(obstore.list(self._bucket))  # pyright: ignore[reportUnknownMemberType] - of overloads with pyarrow
        while True:
            with _storage_errors():
                try:
                    page = await anext(pages)
                except StopAsyncIteration:
                    return
            now = datetime.now(UTC)
            for found in page:
                if is_location(found["path"]):
                    yield BlobListing(found["path"], (now - found["last_modified"]).total_seconds())

    async def aclose(self) -> None:
        """Nothing is held open."""


class _BucketWriter(BlobWriter):
    def __init__(self, location: str, opened: Any, checksum: Checksum) -> None:
        self._location = location
        self._opened = opened
        self._checksum = checksum

    async def write(self, data: bytes) -> None:
        await asyncio.to_thread(self._checksum.update, data)
        with _storage_errors(is_writing=True):
            await self._opened.write(data)

    async def commit(self) -> WrittenBlob:
        with _storage_errors(is_writing=True):
            await self._opened.close()
        return self._checksum.result(self._location)


@contextmanager
def _storage_errors(*, is_writing: bool = False) -> Generator[None]:
    """Turn what obstore raises into 503, with its reason in the log; an object that is not there stays ``FileNotFoundError``.

    Nothing can be missing for a writer but the bucket, which obstore reports in the same way.
    """
    import obstore  # noqa: PLC0415

    try:
        yield
    except (obstore.exceptions.BaseError, OSError) as error:
        if isinstance(error, FileNotFoundError) and not is_writing and _NO_BUCKET not in str(error):
            raise
        _log.warning("file_storage_failed", error=str(error).partition(_DETAILS)[0][:_MOST_LOGGED])
        raise storage_unreachable() from error
