"""Files: a row for each, its content in a blob that files with the same content share; read by their owner alone."""

import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

import msgspec
from sqlalchemy import delete, insert, select
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from antiphon.accounts.listing import Listing
from antiphon.accounts.schema import files
from antiphon.accounts.store_database import StoreDatabase
from antiphon.files import quota, references
from antiphon.files.blobs import BlobStore, BlobWriter, WrittenBlob
from antiphon.files.errors import content_missing, file_too_large, storage_quota_exceeded
from antiphon.files.settings import FileSettings
from antiphon.protocol.errors import ApiError
from antiphon.protocol.ids import new_id
from antiphon.protocol.paging import PageQuery

Json = dict[str, Any]
_ATTEMPTS = 5
_FIRST_FAULT = 500


class NewFile(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a file before its content. ``expires_after_s`` None: kept until it is deleted."""

    account: str
    filename: str
    purpose: str
    expires_after_s: int | None = None


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file. ``digest`` is SHA-256 of its content, in hex digits."""

    id: str
    account: str
    filename: str
    purpose: str
    num_bytes: int
    digest: str
    created_at_ms: int
    expires_at_ms: int | None

    def value(self) -> Json:
        """Return it as the API shows it."""
        return {
            "object": "file",
            "id": self.id,
            "purpose": self.purpose,
            "filename": self.filename,
            "bytes": self.num_bytes,
            "created_at": self.created_at_ms // 1000,
            "expires_at": None if self.expires_at_ms is None else self.expires_at_ms // 1000,
            "status": "processed",
            "status_details": None,
        }


class Content:
    """The content of a file on its way into the storage; the bounds of its account hold while it arrives."""

    def __init__(self, writer: BlobWriter, arriving: Counter[str], account: str, room: int, max_bytes: int) -> None:
        self._writer = writer
        self._arriving = arriving
        self._account = account
        self._room = room
        self._max_bytes = max_bytes
        self.num_bytes = 0

    async def write(self, data: bytes) -> None:
        """Add bytes. ``ApiError``: 413 for a file that is too large, 400 past the account's quota, 507 on a full disk."""
        self.num_bytes += len(data)
        self._arriving[self._account] += len(data)
        if self.num_bytes > self._max_bytes:
            raise file_too_large(self._max_bytes)
        if self._arriving[self._account] > self._room:
            raise storage_quota_exceeded(max(0, self._room), "more bytes", "this key")
        await self._writer.write(data)

    async def commit(self) -> WrittenBlob:
        """Make what was written durable."""
        return await self._writer.commit()


class FileStore:
    """Belongs to one event loop. ``engine`` and ``blobs`` are owned by its creator. Every method may raise ``ApiError`` 503."""

    def __init__(self, engine: AsyncEngine, blobs: BlobStore, settings: FileSettings) -> None:
        self.engine = engine
        self.database = StoreDatabase(engine, "database of files")
        self.blobs = blobs
        self.settings = settings
        self._arriving: Counter[str] = Counter()

    @asynccontextmanager
    async def arriving(
        self, account: str, *, max_bytes: int | None = None, wants_md5: bool = False
    ) -> AsyncGenerator[Content]:
        """Open the storage for content of ``account``; what is not committed in the block is removed.

        ``max_bytes`` None: as ``max_file_bytes``. The bytes of requests that arrive together count together.
        """
        async with self.database.reading() as connection:
            room = await quota.room(connection, account, self.settings)
        async with self.blobs.writer(wants_md5=wants_md5) as writer:
            most = self.settings.max_file_bytes if max_bytes is None else max_bytes
            content = Content(writer, self._arriving, account, room, most)
            try:
                yield content
            finally:
                self._arriving[account] -= content.num_bytes
                if not self._arriving[account]:
                    del self._arriving[account]

    async def add(self, new: NewFile, written: WrittenBlob) -> StoredFile:
        """Make a file of content that was committed. ``ApiError`` 400 past the quota: then the content is removed."""
        made = made_file(new, written)
        try:
            with self.database.errors():
                location = await self._insert(made, written)
        except ApiError as error:
            await self.discard(error, written.location)
            raise
        if location != written.location:
            await self.blobs.remove(written.location)
        return made

    async def discard(self, error: ApiError, location: str) -> None:
        """Remove content that ``error`` kept out of the database.

        Only a refusal says that nothing was committed. After a lost connection, or a cancellation, a row may name the content;
        if none does, the sweeper removes it.
        """
        if error.status < _FIRST_FAULT:
            await self.blobs.remove(location)

    async def _insert(self, made: StoredFile, written: WrittenBlob) -> str:
        for _ in range(_ATTEMPTS - 1):
            try:
                async with self.engine.begin() as connection:
                    return await insert_file(connection, made, written, self.settings)
            except IntegrityError:
                continue  # the same content came in another request at the same moment
        async with self.engine.begin() as connection:
            return await insert_file(connection, made, written, self.settings)

    async def add_whole(
        self, new: NewFile, pieces: AsyncIterable[bytes], *, max_bytes: int | None = None
    ) -> StoredFile:
        """Make a file of what the server itself produces. Raises as ``arriving`` and ``add`` do."""
        async with self.arriving(new.account, max_bytes=max_bytes) as content:
            async for piece in pieces:
                await content.write(piece)
            written = await content.commit()
        return await self.add(new, written)

    async def find(self, file_id: str, account: str) -> StoredFile | None:
        """Return a file of ``account``; None for one that is not kept, expired, or another's."""
        wanted = (files.c.id == file_id) & (files.c.account == account) & _is_live()
        async with self.database.reading() as connection:
            row = (await connection.execute(select(files).where(wanted))).mappings().one_or_none()
        return None if row is None else _stored(row)

    async def find_all(self, file_ids: Iterable[str], account: str) -> dict[str, StoredFile]:
        """Return those of the files that ``find`` would return, by their ids, with one query."""
        wanted = files.c.id.in_(list(file_ids)) & (files.c.account == account) & _is_live()
        async with self.database.reading() as connection:
            rows = (await connection.execute(select(files).where(wanted))).mappings().all()
        return {made.id: made for made in map(_stored, rows)}

    async def page(self, account: str, query: PageQuery, purpose: str | None) -> tuple[list[StoredFile], bool]:
        """Return the files of ``account`` that ``query`` names, and whether there are more. ``ApiError`` 400 for a bad cursor."""
        whole = select(files).where(files.c.account == account, _is_live())
        narrowed = () if purpose is None else (files.c.purpose == purpose,)
        listing = Listing(whole, [files.c.created_at_ms, files.c.id], files.c.id, query, narrowed)
        async with self.database.reading() as connection:
            rows, has_more = await listing.page(connection)
        return [_stored(row) for row in rows], has_more

    async def read(self, file: StoredFile, start: int = 0) -> AsyncGenerator[bytes]:
        """Yield the content from byte ``start`` on. ``ApiError`` 500 before the first piece if somebody removed it."""
        async with self.database.reading() as connection:
            location = await references.location_of(connection, file.digest)
        if location is None:
            raise content_missing(file.id)
        async with aclosing(self.blobs.read(location, start)) as pieces:
            try:
                async for piece in pieces:
                    yield piece
            except FileNotFoundError as error:
                raise content_missing(file.id) from error

    async def delete(self, file: StoredFile) -> bool:
        """Remove a file; False if another request has removed it meanwhile."""
        async with self.database.writing() as connection:
            is_removed, unused = await remove_file(connection, file)
        if unused is not None:
            await self.blobs.remove(unused)
        return is_removed

    async def expired(self, most: int) -> list[StoredFile]:
        """Return up to ``most`` files whose time has passed."""
        past = files.c.expires_at_ms <= now_ms()
        async with self.engine.connect() as connection:
            rows = (await connection.execute(select(files).where(past).limit(most))).mappings()
            return [_stored(row) for row in rows]


def made_file(new: NewFile, written: WrittenBlob) -> StoredFile:
    """Return the file of ``written``, with an id of its own; no row is written yet."""
    created_at_ms = now_ms()
    return StoredFile(
        id=new_id("file"),
        account=new.account,
        filename=new.filename,
        purpose=new.purpose,
        num_bytes=written.num_bytes,
        digest=written.digest,
        created_at_ms=created_at_ms,
        expires_at_ms=None if new.expires_after_s is None else created_at_ms + 1000 * new.expires_after_s,
    )


async def insert_file(
    connection: AsyncConnection, made: StoredFile, written: WrittenBlob, settings: FileSettings | None
) -> str:
    """Write a file's row in the caller's transaction; return the location that holds the content from now on.

    ``settings`` None: the file is the server's own answer, which is kept whatever its account has.
    """
    await quota.take(connection, made.account, settings, num_bytes=made.num_bytes, num_files=1)
    location = await references.refer(connection, written)
    await connection.execute(insert(files).values(msgspec.structs.asdict(made)))
    return location


async def remove_file(connection: AsyncConnection, file: StoredFile) -> tuple[bool, str | None]:
    """Remove a file's row in the caller's transaction: whether it was there, and the location of a blob to remove after it."""
    if not (await connection.execute(delete(files).where(files.c.id == file.id))).rowcount:
        return False, None
    await quota.give_back(connection, file.account, num_bytes=file.num_bytes, num_files=1)
    return True, await references.release(connection, file.digest)


def now_ms() -> int:
    return int(time.time() * 1000)


def _is_live() -> Any:
    return files.c.expires_at_ms.is_(None) | (files.c.expires_at_ms > now_ms())


def _stored(row: RowMapping) -> StoredFile:
    return StoredFile(**cast("Json", row))
