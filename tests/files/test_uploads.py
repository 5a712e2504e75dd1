"""Uploads in parts."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import update
from tests.files.content import blobs_on_disk, content_of, new

from antiphon.accounts.schema import uploads as table
from antiphon.files import FileStore, FileSweeper, StoredUpload, UploadStore
from antiphon.files.uploads import StoredPart
from antiphon.protocol.errors import ApiError
from antiphon.protocol.paging import PageQuery

pytestmark = pytest.mark.anyio


async def add(store: FileStore, uploads: UploadStore, upload: StoredUpload, content: bytes) -> StoredPart:
    async with store.arriving(upload.account) as incoming:
        await incoming.write(content)
        written = await incoming.commit()
    return await uploads.add_part(upload, written)


async def begin(uploads: UploadStore, num_bytes: int) -> StoredUpload:
    return await uploads.create(new(), "text/plain", num_bytes)


async def test_parts_become_a_file_in_the_order_asked_for(
    store: FileStore, uploads: UploadStore, tmp_path: Path
) -> None:
    """Whatever the order in which they came; the parts are removed, and the upload takes no more."""
    upload = await begin(uploads, 10)
    second, first = await asyncio.gather(*(add(store, uploads, upload, c) for c in (b"world", b"hello")))
    md5 = hashlib.md5(b"helloworld", usedforsecurity=False).hexdigest().upper()
    done, file = await uploads.complete(upload, [first.id, second.id], md5)
    assert (done.status, done.value(file)["file"]["id"]) == ("completed", file.id)
    assert await content_of(store, file) == b"helloworld"
    assert len(blobs_on_disk(tmp_path)) == 1
    found = await uploads.find(upload.id, "a")
    assert found is not None
    assert (found.status, found.file_id) == ("completed", file.id)
    for late in (add(store, uploads, upload, b"x"), uploads.end(upload, "cancelled")):
        with pytest.raises(ApiError) as raised:
            await late
        assert raised.value.code == "upload_not_pending"
    assert len(blobs_on_disk(tmp_path)) == 1


@pytest.mark.parametrize(
    ("parts", "md5", "param"),
    [
        (["{0}"], None, "part_ids"),
        (["{0}", "{1}", "{1}"], None, "part_ids"),
        (["{0}", "part_of_another"], None, "part_ids[1]"),
        (["{0}", "{1}"], "0" * 32, "md5"),
    ],
)
async def test_what_is_wrong_with_a_completion_is_named(
    store: FileStore, uploads: UploadStore, parts: list[str], md5: str | None, param: str
) -> None:
    """Another size, an unknown part, another checksum: the upload stays pending, and no file is made."""
    upload = await begin(uploads, 10)
    made = [(await add(store, uploads, upload, c)).id for c in (b"hello", b"world")]
    with pytest.raises(ApiError) as raised:
        await uploads.complete(upload, [part.format(*made) for part in parts], md5)
    assert raised.value.param == param
    found = await uploads.find(upload.id, "a")
    assert found is not None
    assert (found.status, found.num_parts, found.file_id) == ("pending", 2, None)


async def test_an_upload_is_completed_once(store: FileStore, uploads: UploadStore, tmp_path: Path) -> None:
    """Of requests that complete or cancel it at once, one has its way and the others are told."""
    upload = await begin(uploads, 5)
    part = await add(store, uploads, upload, b"hello")
    attempts: list[Any] = [uploads.complete(upload, [part.id], None) for _ in range(3)]
    results = await asyncio.gather(*attempts, uploads.end(upload, "cancelled"), return_exceptions=True)
    assert sum(not isinstance(result, BaseException) for result in results) == 1
    assert {getattr(result, "code", "") for result in results if isinstance(result, BaseException)} == {
        "upload_not_pending"
    }
    assert len(blobs_on_disk(tmp_path)) <= 1
    room = await store.page("a", PageQuery(limit=9), None)
    assert len(room[0]) <= 1
    # One that read the upload before it ended, and its parts after that.
    with pytest.raises(ApiError) as late:
        await uploads.complete(upload, [part.id], None)
    assert late.value.code == "upload_not_pending"


async def test_parts_count_against_the_quota_until_they_end(
    store: FileStore, uploads: UploadStore, tmp_path: Path
) -> None:
    """Past the size of an upload, or the key's quota, a part is refused; a cancelled upload gives its room back."""
    with pytest.raises(ApiError) as raised:
        await begin(uploads, 1501)
    assert raised.value.code == "file_too_large"
    upload = await begin(uploads, 1500)
    await add(store, uploads, upload, b"x" * 1000)
    with pytest.raises(ApiError) as raised:
        await add(store, uploads, upload, b"x" * 501)
    assert raised.value.code == "upload_not_pending"
    other = await begin(uploads, 1500)
    await add(store, uploads, other, b"x" * 1000)
    with pytest.raises(ApiError) as raised:
        await add(store, uploads, other, b"x" * 1)
    assert raised.value.code == "storage_quota_exceeded"
    assert len(blobs_on_disk(tmp_path)) == 2
    await uploads.end(upload, "cancelled")
    await add(store, uploads, other, b"x")


async def test_an_upload_ends_after_its_hour(store: FileStore, uploads: UploadStore, tmp_path: Path) -> None:
    """Whoever looks first ends it: its owner or the sweeper."""
    made = [await begin(uploads, 5) for _ in range(2)]
    for upload in made:
        await add(store, uploads, upload, b"hello")
    async with store.engine.begin() as connection:
        await connection.execute(update(table).values(expires_at_ms=1))
    looked = await uploads.find(made[0].id, "a")
    assert looked is not None
    assert looked.status == "expired"
    sweeper = FileSweeper(store, uploads)
    await sweeper.sweep()
    assert sweeper.statistics().uploads_total == 1
    assert not blobs_on_disk(tmp_path)
    with pytest.raises(ApiError):
        await uploads.complete(msgspec.structs.replace(made[1], status="pending"), [], None)
    await uploads.forget(1 << 60)
    assert await uploads.find(made[0].id, "a") is None
