"""Files in their store: ownership, pages, shared content, quotas, what is swept."""

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.files.content import blobs_on_disk, content_of, keep, new, pieces

from antiphon.accounts.schema import blobs, file_usage, files
from antiphon.files import FileSettings, FileStore, FileSweeper, UploadStore
from antiphon.files.blobs import DiskBlobs
from antiphon.files.files import now_ms
from antiphon.files.sweeper import ORPHAN_AGE_S
from antiphon.protocol.errors import ApiError
from antiphon.protocol.paging import PageQuery

pytestmark = pytest.mark.anyio


async def test_a_file_is_its_owners_alone(store: FileStore) -> None:
    """Another key finds nothing, and its list is empty."""
    file = await keep(store, b"content", "a")
    assert await store.find(file.id, "a") == file
    assert await content_of(store, file, 3) == b"tent"
    assert await store.find(file.id, "b") is None
    assert await store.page("b", PageQuery(limit=10), None) == ([], False)


async def test_the_same_content_is_kept_once(store: FileStore, tmp_path: Path) -> None:
    """It goes with the last file that has it."""
    files = [await keep(store, b"same", account) for account in ("a", "b", "a")]
    assert len(blobs_on_disk(tmp_path)) == 1
    for file in files:
        assert await content_of(store, file) == b"same"
        assert await store.delete(file)
        assert not await store.delete(file)
    assert not blobs_on_disk(tmp_path)


async def test_files_that_come_and_go_together_lose_nothing(store: FileStore, tmp_path: Path) -> None:
    """Requests add and remove files of one content at once: what is left can be read, and nothing else is on the disk."""

    async def come_and_go(account: str) -> None:
        for _ in range(6):
            file = await keep(store, b"shared", account)
            assert await content_of(store, file) == b"shared"
            removed = await asyncio.gather(store.delete(file), store.delete(file), store.delete(file))
            assert sorted(removed) == [False, False, True]

    last = await keep(store, b"shared", "last")
    await asyncio.gather(*(come_and_go(account) for account in "abcd"))
    assert await content_of(store, last) == b"shared"
    assert len(blobs_on_disk(tmp_path)) == 1
    async with store.engine.connect() as connection:
        assert (await connection.execute(select(blobs.c.num_references))).scalars().all() == [1]
        usage = {row.account: (row.num_bytes, row.num_files) for row in await connection.execute(select(file_usage))}
    assert usage == {"": (6, 1), "last": (6, 1), **dict.fromkeys("abcd", (0, 0))}


async def test_a_key_may_keep_so_much_and_no_more(store: FileStore, tmp_path: Path) -> None:
    """Of one file, of its own files, and of everybody's; what is refused leaves nothing behind."""
    for account, sizes in {"a": (1000, 1000), "b": (600,)}.items():
        for size in sizes:
            await keep(store, os.urandom(size), account)
    for account, size, status, code in (
        ("c", 1001, 413, "file_too_large"),
        ("a", 1, 400, "storage_quota_exceeded"),
        ("c", 401, 400, "storage_quota_exceeded"),
    ):
        with pytest.raises(ApiError) as raised:
            await keep(store, os.urandom(size), account)
        assert (raised.value.status, raised.value.code) == (status, code)
    await store.blobs.aclose()
    assert len(blobs_on_disk(tmp_path)) == 3


async def test_requests_that_arrive_together_share_the_quota(store: FileStore) -> None:
    """Each would fit alone; the quota is counted in the transaction that keeps a file."""
    results = await asyncio.gather(*(keep(store, os.urandom(900), "a") for _ in range(6)), return_exceptions=True)
    assert sum(not isinstance(result, BaseException) for result in results) == 2
    assert {result.code for result in results if isinstance(result, ApiError)} == {"storage_quota_exceeded"}


async def test_the_number_of_a_keys_files_is_bounded(engine: AsyncEngine, tmp_path: Path) -> None:
    """Another key has its own count."""
    kept = FileStore(engine, DiskBlobs(tmp_path / "files"), FileSettings(max_key_files=2))
    for account in "aab":
        await keep(kept, b"x", account)
    with pytest.raises(ApiError, match="may keep 2 files"):
        await keep(kept, b"x", "a")
    await kept.blobs.aclose()


@pytest.mark.parametrize("descending", [True, False])
async def test_pages_join_without_gap(store: FileStore, descending: bool) -> None:
    """Also where many files were made in one millisecond; a purpose narrows the list."""
    made = [await keep(store, bytes([n])) for n in range(7)]
    rows = [msgspec.structs.replace(file, created_at_ms=1000 + n // 3) for n, file in enumerate(made)]
    async with store.engine.begin() as connection:
        await connection.execute(files.delete())
        await connection.execute(insert(files), [msgspec.structs.asdict(row) for row in rows])
    seen: list[str] = []
    after, has_more = None, True
    while has_more:
        page, has_more = await store.page("a", PageQuery(limit=2, descending=descending, after=after), "user_data")
        after = page[-1].id
        seen += [file.id for file in page]
    assert seen == [file.id for file in sorted(rows, key=lambda f: (f.created_at_ms, f.id), reverse=descending)]
    assert await store.page("a", PageQuery(limit=2), "batch") == ([], False)


async def test_ten_thousand_files_are_listed(store: FileStore) -> None:
    """In one page, or the last one alone."""
    file = await keep(store, b"x")
    rows = [
        msgspec.structs.asdict(file) | {"id": f"file-{n:05}", "created_at_ms": file.created_at_ms + n}
        for n in range(1, 10_000)
    ]
    async with store.engine.begin() as connection:
        await connection.execute(insert(files), rows)
    whole, has_more = await store.page("a", PageQuery(limit=10_000, descending=False), None)
    assert (len(whole), has_more) == (10_000, False)
    last, _ = await store.page("a", PageQuery(limit=100, descending=False, after=whole[-2].id), None)
    assert last == whole[-1:]


async def test_expired_files_are_gone_before_they_are_swept(store: FileStore, tmp_path: Path) -> None:
    """Nobody finds them; the sweeper removes row and content."""
    file = await keep(store, b"short-lived", expires_after_s=-1)
    lasting = await keep(store, b"lasting", expires_after_s=1000)
    assert await store.find(file.id, "a") is None
    sweeper = FileSweeper(store, UploadStore(store))
    await sweeper.sweep()
    assert sweeper.statistics().files_total == 1
    assert [await content_of(store, lasting)] == [b"lasting"]
    assert len(blobs_on_disk(tmp_path)) == 1


async def test_only_old_blobs_without_a_row_are_orphans(store: FileStore, tmp_path: Path) -> None:
    """What a killed process left is removed after an hour; what is kept, arriving, or not the store's own stays."""
    kept = await keep(store, b"kept")
    async with store.blobs.writer() as writer:
        await writer.write(b"committed, and no row follows")
        await writer.commit()
    foreign = tmp_path / "files" / "blobs" / "ab" / "notes.txt"
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("the operator's")
    left = tmp_path / "files" / "incoming" / ("0" * 32)
    left.write_bytes(b"half a file")
    async with store.blobs.writer() as writer:
        await writer.write(b"arriving")
        sweeper = FileSweeper(store, UploadStore(store))
        await sweeper.sweep_orphans()
        assert sweeper.statistics().orphans_total == 0
        long_ago = now_ms() / 1000 - ORPHAN_AGE_S - 60
        arriving = {path for path in (tmp_path / "files" / "incoming").iterdir() if path != left}
        for path in set(blobs_on_disk(tmp_path)) - arriving:
            os.utime(path, (long_ago, long_ago))
        await sweeper.sweep_orphans()
        assert sweeper.statistics().orphans_total == 2
        await writer.commit()
    assert await content_of(store, kept) == b"kept"
    assert foreign.exists()
    assert not left.exists()


async def test_content_that_somebody_removed_is_named(store: FileStore, tmp_path: Path) -> None:
    """The row is there, the bytes are not: 500 with a code, before the first byte."""
    file = await keep(store, b"x")
    for path in blobs_on_disk(tmp_path):
        path.unlink()
    with pytest.raises(ApiError) as raised:
        await content_of(store, file)
    assert (raised.value.status, raised.value.code) == (500, "file_content_missing")


@pytest.mark.parametrize("failure", [asyncio.CancelledError(), OSError("connection lost")])
async def test_a_commit_whose_confirmation_is_lost_keeps_the_content(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    """The row may be there, so the content stays; without a row it is an orphan."""
    insert = store._insert  # pyright: ignore[reportPrivateUsage]

    async def lose(*args: Any) -> str:
        await insert(*args)
        raise failure

    monkeypatch.setattr(store, "_insert", lose)
    with pytest.raises((asyncio.CancelledError, ApiError)):
        await keep(store, b"kept")
    ((file,), _) = await store.page("a", PageQuery(limit=2), None)
    assert await content_of(store, file) == b"kept"


async def test_what_breaks_off_is_not_kept(store: FileStore, tmp_path: Path) -> None:
    """A client that leaves, or a cancelled request, leaves no bytes and no count."""

    async def broken() -> None:
        async with store.arriving("a") as content:
            await content.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        await broken()
    file = await store.add_whole(new(), pieces(b"a" * 500, b"b" * 500))
    assert await content_of(store, file) == b"a" * 500 + b"b" * 500
    await store.blobs.aclose()
    assert len(blobs_on_disk(tmp_path)) == 1


async def test_ten_thousand_files_are_listed_page_by_page(store: FileStore) -> None:
    """Every one once; the database reads a page and not the list, which an index of the account's files in order gives."""
    rows = [
        {
            "id": f"file-{number:05}",
            "account": "a",
            "filename": "x.txt",
            "purpose": "user_data" if number % 2 else "batch",
            "num_bytes": 1,
            "digest": "0" * 64,
            "created_at_ms": 1_000_000 + number // 3,
            "expires_at_ms": None,
        }
        for number in range(10_000)
    ]
    async with store.engine.begin() as connection:
        await connection.execute(insert(files), rows)
    listed: list[str] = []
    after, has_more = None, True
    while has_more:
        page, has_more = await store.page("a", PageQuery(limit=1000, after=after), None)
        listed += [file.id for file in page]
        after = page[-1].id
    assert listed == sorted((str(row["id"]) for row in rows), reverse=True)
    if store.engine.dialect.name == "sqlite":
        async with store.engine.connect() as connection:
            query = "EXPLAIN QUERY PLAN SELECT * FROM files WHERE account = 'a' ORDER BY created_at_ms DESC, id DESC LIMIT 20"
            plan = " ".join(str(row[-1]) for row in await connection.execute(text(query)))
        assert "USING INDEX" in plan
        assert "TEMP B-TREE" not in plan, plan
