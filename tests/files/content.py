"""What the tests of files say often."""

from collections.abc import AsyncGenerator
from pathlib import Path

from antiphon.files import FileStore, NewFile, StoredFile


def new(account: str = "a", name: str = "x.txt", expires_after_s: int | None = None) -> NewFile:
    return NewFile(account=account, filename=name, purpose="user_data", expires_after_s=expires_after_s)


async def pieces(*parts: bytes) -> AsyncGenerator[bytes]:
    for part in parts:
        yield part


async def keep(store: FileStore, content: bytes, account: str = "a", expires_after_s: int | None = None) -> StoredFile:
    return await store.add_whole(new(account, expires_after_s=expires_after_s), pieces(content))


async def content_of(store: FileStore, file: StoredFile, start: int = 0) -> bytes:
    return b"".join([piece async for piece in store.read(file, start)])


def blobs_on_disk(folder: Path) -> list[Path]:
    """Return the files of a disk store, those that are still incoming included."""
    return [path for path in (folder / "files").rglob("*") if path.is_file()]
