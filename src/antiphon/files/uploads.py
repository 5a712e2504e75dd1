"""Uploads: a file that comes in parts, in any order, within an hour."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Literal, cast

import msgspec
from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from antiphon.accounts.schema import upload_parts, uploads
from antiphon.files import quota
from antiphon.files.blobs import WrittenBlob
from antiphon.files.errors import file_too_large
from antiphon.files.files import FileStore, NewFile, StoredFile, insert_file, made_file, now_ms
from antiphon.protocol import problems
from antiphon.protocol.errors import ApiError
from antiphon.protocol.ids import new_id

Json = dict[str, Any]
UploadStatus = Literal["pending", "completed", "cancelled", "expired"]
LIFETIME_MS = 3_600_000
MAX_PARTS = 10_000


class StoredUpload(msgspec.Struct, frozen=True, kw_only=True):
    """An upload. ``num_bytes`` is what its client announced, ``num_held_bytes`` what its parts hold."""

    id: str
    account: str
    filename: str
    purpose: str
    mime_type: str
    num_bytes: int
    status: UploadStatus
    created_at_ms: int
    expires_at_ms: int
    num_parts: int = 0
    num_held_bytes: int = 0
    file_id: str | None = None
    file_expires_after_s: int | None = None

    def value(self, file: StoredFile | None = None) -> Json:
        """Return it as the API shows it."""
        return {
            "id": self.id,
            "object": "upload",
            "bytes": self.num_bytes,
            "created_at": self.created_at_ms // 1000,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": self.status,
            "expires_at": self.expires_at_ms // 1000,
            "file": None if file is None else file.value(),
        }


class StoredPart(msgspec.Struct, frozen=True, kw_only=True):
    """One part; its bytes are a blob of its own."""

    id: str
    upload_id: str
    location: str
    num_bytes: int
    created_at_ms: int

    def value(self) -> Json:
        """Return it as the API shows it."""
        return {
            "id": self.id,
            "object": "upload.part",
            "created_at": self.created_at_ms // 1000,
            "upload_id": self.upload_id,
        }


class UploadStore:
    """Belongs to one event loop; its files are those of ``files``. Every method may raise ``ApiError`` 503."""

    def __init__(self, files: FileStore) -> None:
        self._files = files
        self._database = files.database

    async def create(self, new: NewFile, mime_type: str, num_bytes: int) -> StoredUpload:
        """Begin an upload of ``num_bytes``. ``ApiError`` 413 if a file may not have so many."""
        if num_bytes > self._files.settings.max_upload_bytes:
            raise file_too_large(self._files.settings.max_upload_bytes, what="An upload")
        made = StoredUpload(
            id=new_id("upload", "_"),
            account=new.account,
            filename=new.filename,
            purpose=new.purpose,
            mime_type=mime_type,
            num_bytes=num_bytes,
            status="pending",
            created_at_ms=now_ms(),
            expires_at_ms=now_ms() + LIFETIME_MS,
            file_expires_after_s=new.expires_after_s,
        )
        async with self._database.writing() as connection:
            await connection.execute(insert(uploads).values(msgspec.structs.asdict(made)))
        return made

    async def find(self, upload_id: str, account: str) -> StoredUpload | None:
        """Return an upload of ``account``; None for one that is unknown or another's. One past its hour is ``expired``."""
        wanted = (uploads.c.id == upload_id) & (uploads.c.account == account)
        async with self._database.reading() as connection:
            row = (await connection.execute(select(uploads).where(wanted))).mappings().one_or_none()
        if row is None:
            return None
        found = StoredUpload(**cast("Json", row))
        if found.status == "pending" and found.expires_at_ms <= now_ms():
            return await self.end(found, "expired")
        return found

    async def add_part(self, upload: StoredUpload, written: WrittenBlob) -> StoredPart:
        """Keep a part that was committed. ``ApiError`` 400 if the upload has ended or is full: then the part is removed."""
        part = StoredPart(
            id=new_id("part", "_"),
            upload_id=upload.id,
            location=written.location,
            num_bytes=written.num_bytes,
            created_at_ms=now_ms(),
        )
        settings = self._files.settings
        try:
            async with self._database.writing() as connection:
                await _count_part(connection, part, settings.max_upload_bytes)
                await quota.take(connection, upload.account, settings, num_bytes=part.num_bytes)
                await connection.execute(insert(upload_parts).values(msgspec.structs.asdict(part)))
        except ApiError as error:
            await self._files.discard(error, written.location)
            raise
        return part

    async def complete(
        self, upload: StoredUpload, part_ids: Sequence[str], md5: str | None
    ) -> tuple[StoredUpload, StoredFile]:
        """Make a file of the parts, in this order. ``ApiError`` 400: an unknown part, another size, another checksum."""
        parts = await self._ordered(upload, part_ids)
        num_bytes = sum(part.num_bytes for part in parts)
        if num_bytes != upload.num_bytes:
            raise problems.bad_request(
                f"The parts have {num_bytes:,} bytes together, but the upload was created for {upload.num_bytes:,} bytes.",
                "part_ids",
                "invalid_value",
            )
        new = NewFile(
            account=upload.account,
            filename=upload.filename,
            purpose=upload.purpose,
            expires_after_s=upload.file_expires_after_s,
        )
        async with self._files.blobs.writer(wants_md5=md5 is not None) as writer:
            async with aclosing(self._joined(parts)) as pieces:
                async for piece in pieces:
                    await writer.write(piece)
            written = await writer.commit()
        try:
            _check_md5(written, md5)
            return await self._make_file(upload, new, written)
        except ApiError as error:
            await self._files.discard(error, written.location)
            raise

    async def _make_file(
        self, upload: StoredUpload, new: NewFile, written: WrittenBlob
    ) -> tuple[StoredUpload, StoredFile]:
        made = made_file(new, written)
        done = msgspec.structs.replace(upload, status="completed", file_id=made.id)
        async with self._database.writing() as connection:
            unused = await _end(connection, done)
            location = await insert_file(connection, made, written, self._files.settings)
        if location != written.location:
            unused = [*unused, written.location]
        for each in unused:
            await self._files.blobs.remove(each)
        return done, made

    async def _ordered(self, upload: StoredUpload, part_ids: Sequence[str]) -> list[StoredPart]:
        async with self._database.reading() as connection:
            rows = await connection.execute(select(upload_parts).where(upload_parts.c.upload_id == upload.id))
            known = {row["id"]: StoredPart(**cast("Json", row)) for row in rows.mappings()}
            # After the parts, which are gone with the end.
            status = (await connection.execute(select(uploads.c.status).where(uploads.c.id == upload.id))).scalar()
        if status != "pending":
            raise _ended(upload.id)
        for index, part_id in enumerate(part_ids):
            if part_id not in known:
                raise problems.bad_request(
                    f"Invalid 'part_ids[{index}]': upload '{upload.id}' has no part '{part_id}'.",
                    f"part_ids[{index}]",
                    "invalid_value",
                )
        return [known[part_id] for part_id in part_ids]

    async def _joined(self, parts: Sequence[StoredPart]) -> AsyncGenerator[bytes]:
        for part in parts:
            try:
                async with aclosing(self._files.blobs.read(part.location)) as pieces:
                    async for piece in pieces:
                        yield piece
            except FileNotFoundError as error:
                # Another request has completed or cancelled the upload meanwhile.
                raise _ended(part.upload_id) from error

    async def end(self, upload: StoredUpload, status: Literal["cancelled", "expired"]) -> StoredUpload:
        """Remove the parts of a pending upload. ``ApiError`` 400 if it ended meanwhile."""
        ended = msgspec.structs.replace(upload, status=status)
        async with self._database.writing() as connection:
            unused = await _end(connection, ended)
        for location in unused:
            await self._files.blobs.remove(location)
        return ended

    async def expired(self, most: int) -> list[StoredUpload]:
        """Return up to ``most`` pending uploads whose hour has passed."""
        past = (uploads.c.status == "pending") & (uploads.c.expires_at_ms <= now_ms())
        async with self._database.reading() as connection:
            rows = await connection.execute(select(uploads).where(past).limit(most))
            return [StoredUpload(**cast("Json", row)) for row in rows.mappings()]

    async def forget(self, before_ms: int) -> None:
        """Remove the rows of uploads that ended and were created before ``before_ms``."""
        old = (uploads.c.status != "pending") & (uploads.c.created_at_ms < before_ms)
        async with self._database.writing() as connection:
            await connection.execute(delete(uploads).where(old))


async def _end(connection: AsyncConnection, ended: StoredUpload) -> list[str]:
    """End a pending upload in the caller's transaction; return the locations of its parts, to be removed after it."""
    is_pending = (uploads.c.id == ended.id) & (uploads.c.status == "pending")
    changed = update(uploads).where(is_pending).values(status=ended.status, file_id=ended.file_id)
    if not (await connection.execute(changed)).rowcount:
        raise _ended(ended.id)
    rows = await connection.execute(
        select(upload_parts.c.location, upload_parts.c.num_bytes).where(upload_parts.c.upload_id == ended.id)
    )
    parts = [(row.location, row.num_bytes) for row in rows]
    await connection.execute(delete(upload_parts).where(upload_parts.c.upload_id == ended.id))
    await quota.give_back(connection, ended.account, num_bytes=sum(size for _, size in parts))
    return [location for location, _ in parts]


async def _count_part(connection: AsyncConnection, part: StoredPart, max_bytes: int) -> None:
    """Count a part in its upload's row, which the caller's transaction then locks. ``ApiError`` 400 if it takes none."""
    takes = (
        (uploads.c.id == part.upload_id)
        & (uploads.c.status == "pending")
        & (uploads.c.num_parts < MAX_PARTS)
        & (uploads.c.num_held_bytes + part.num_bytes <= max_bytes)
    )
    counted = update(uploads).where(takes)
    counted = counted.values(
        num_parts=uploads.c.num_parts + 1, num_held_bytes=uploads.c.num_held_bytes + part.num_bytes
    )
    if not (await connection.execute(counted)).rowcount:
        raise _takes_no_part(part.upload_id, max_bytes)


def _check_md5(written: WrittenBlob, md5: str | None) -> None:
    if md5 is not None and written.md5 != md5.lower():
        raise problems.bad_request(
            f"The uploaded bytes have the MD5 checksum {written.md5}, not {md5!r}.", "md5", "invalid_value"
        )


def _ended(upload_id: str) -> ApiError:
    return problems.bad_request(f"Upload '{upload_id}' is no longer pending.", "upload_id", "upload_not_pending")


def _takes_no_part(upload_id: str, max_bytes: int) -> ApiError:
    return problems.bad_request(
        f"Upload '{upload_id}' takes no further part: it is no longer pending, or its parts would have more than "
        f"{max_bytes:,} bytes together or be more than {MAX_PARTS:,}.",
        "upload_id",
        "upload_not_pending",
    )
