"""What every blob store does, on a disk and in a bucket."""

import contextlib
import hashlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import antiphon
from antiphon.errors import AntiphonError, ConfigError
from antiphon.files import FileSettings
from antiphon.files.blobs import BlobStore, DiskBlobs, make_blob_store
from antiphon.files.blobs.base import PIECE_BYTES
from antiphon.protocol.errors import ApiError

pytestmark = pytest.mark.anyio
LONG = os.urandom(PIECE_BYTES) * 3 + b"end"


@pytest.fixture(params=["disk", "bucket"])
async def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BlobStore]:
    if request.param == "disk":
        store: BlobStore = DiskBlobs(tmp_path / "files")
    else:
        obstore = pytest.importorskip("obstore", reason="the extra [bucket] is not installed")
        from antiphon.files.blobs.bucket import BucketBlobs  # noqa: PLC0415 - needs the extra

        store = BucketBlobs(obstore.store.MemoryStore())
    yield store
    await store.aclose()


async def test_what_is_committed_can_be_read(blobs: BlobStore) -> None:
    """Whole or from a byte on; the digests are those of the content."""
    async with blobs.writer(wants_md5=True) as writer:
        for start in range(0, len(LONG), 100_000):
            await writer.write(LONG[start : start + 100_000])
        written = await writer.commit()
    assert b"".join([piece async for piece in blobs.read(written.location)]) == LONG
    assert b"".join([piece async for piece in blobs.read(written.location, len(LONG) - 5)]) == LONG[-5:]
    assert written.digest == hashlib.sha256(LONG).hexdigest()
    assert written.md5 == hashlib.md5(LONG, usedforsecurity=False).hexdigest()
    assert [found.location async for found in blobs.listing()] == [written.location]


async def test_what_is_not_committed_is_not_there(blobs: BlobStore) -> None:
    """Whether the block ends by itself or by an exception."""
    async with blobs.writer() as writer:
        await writer.write(b"half")
    with contextlib.suppress(KeyError):
        async with blobs.writer() as writer:
            await writer.write(b"half")
            raise KeyError
    assert not [found async for found in blobs.listing()]


async def test_a_blob_that_was_removed_is_missing(blobs: BlobStore) -> None:
    """Removing it again does no harm."""
    async with blobs.writer() as writer:
        await writer.write(b"x")
        written = await writer.commit()
    await blobs.remove(written.location)
    await blobs.remove(written.location)
    with pytest.raises(FileNotFoundError):
        await anext(blobs.read(written.location))


async def test_a_reader_keeps_what_is_removed_meanwhile(tmp_path: Path) -> None:
    """On a disk a download goes on to its end."""
    blobs = DiskBlobs(tmp_path / "files")
    async with blobs.writer() as writer:
        await writer.write(LONG)
        written = await writer.commit()
    reading = blobs.read(written.location)
    first = await anext(reading)
    await blobs.remove(written.location)
    assert b"".join([first, *[piece async for piece in reading]]) == LONG
    await blobs.aclose()


async def test_a_disk_keeps_a_reserve(tmp_path: Path) -> None:
    """Where less than min_free_bytes are free, nothing is written, and the error is 507."""
    blobs = DiskBlobs(tmp_path / "files", min_free_bytes=1 << 62)
    with pytest.raises(ApiError) as raised:
        async with blobs.writer():
            pass
    assert (raised.value.status, raised.value.code) == (507, "insufficient_storage")
    await blobs.aclose()


FILL = """
import asyncio, pathlib, sys
from antiphon.files.blobs import DiskBlobs
from antiphon.protocol.errors import ApiError

async def main(folder):
    blobs = DiskBlobs(folder / "files")
    try:
        async with blobs.writer() as writer:
            for _ in range(64):
                await writer.write(b"x" * 65536)
            await writer.commit()
    except ApiError as error:
        print(error.status, error.code)
    await blobs.aclose()
    print([path.name for path in (folder / "files").rglob("*") if path.is_file()])

asyncio.run(main(pathlib.Path(sys.argv[1])))
"""


def test_a_full_disk_leaves_nothing_half_there(tmp_path: Path) -> None:
    """On a disk of one megabyte a file of four is refused with 507, and its beginning is removed."""
    command = f'mount -t tmpfs -o size=1m none "{tmp_path}" && exec "$0" -c "$1" "{tmp_path}"'
    run = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command, sys.executable, FILL],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(Path(antiphon.__file__).parents[1])},
    )  # fmt: skip
    if "unshare" in run.stderr or "mount" in run.stderr:
        pytest.skip(f"no file system of the test's own here: {run.stderr.strip()[:200]}")
    assert run.stdout.splitlines() == ["507 insufficient_storage", "[]"], run.stderr


@pytest.mark.parametrize("url", ["ftp://x/y", "/a/folder", "file:///tmp"])
def test_only_buckets_are_named_by_url(url: str) -> None:
    """A folder is ANTIPHON_HOME's."""
    with pytest.raises(ConfigError, match=r"\[files\] url"):
        FileSettings(url=url)


def test_a_bucket_is_made_of_its_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked of it yet."""
    pytest.importorskip("obstore", reason="the extra [bucket] is not installed")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert type(make_blob_store(FileSettings(url="s3://bucket/folder"), tmp_path)).__name__ == "BucketBlobs"
    with pytest.raises(AntiphonError, match="cannot be used"):
        make_blob_store(FileSettings(url="s3://"), tmp_path)
