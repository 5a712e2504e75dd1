"""A file that several open at once, for the first time."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from antiphon.backends.caching import disk
from antiphon.backends.caching.disk import DiskStore
from antiphon.errors import AntiphonError
from antiphon.sqlite_file import open_sqlite
from antiphon.toolkit.calls.response_cache import ResponseCache
from antiphon.toolkit.embeddings.embedding_cache import EmbeddingCache
from antiphon.toolkit.errors import IndexingError
from antiphon.toolkit.index.store import IndexStore

_NUM_OPENERS = 8


def _open_at_once(open_file: Callable[[], object]) -> list[BaseException]:
    barrier = threading.Barrier(_NUM_OPENERS)
    errors: list[BaseException] = []

    def run() -> None:
        barrier.wait()
        try:
            open_file()
        except (sqlite3.Error, AntiphonError) as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(_NUM_OPENERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def _plain(path: Path) -> None:
    open_sqlite(path, "").close()


def _embeddings(path: Path) -> None:
    EmbeddingCache(path).close()


def _answers(path: Path) -> None:
    ResponseCache(path).close()


def _index(path: Path) -> None:
    IndexStore(path).close()


def _server_cache(path: Path) -> None:
    async def read() -> None:
        store = DiskStore(path, 1_000, 60.0)
        await store.get(b"key")
        await store.aclose()
        assert store.statistics().errors_total == 0

    asyncio.run(read())


@pytest.mark.parametrize("open_and_close", [_plain, _embeddings, _answers, _index, _server_cache])
def test_a_new_file_may_be_opened_by_many_at_once(open_and_close: Callable[[Path], None], tmp_path: Path) -> None:
    """SQLite itself fails one of two connections that switch a new file to the write-ahead log at once."""
    for n in range(10):
        path = tmp_path / str(n) / "file.sqlite"
        assert _open_at_once(lambda path=path: open_and_close(path)) == []


def test_a_file_that_stays_locked_is_an_error_after_the_timeout(tmp_path: Path) -> None:
    """Whoever holds the file for longer is reported, not waited for."""
    path = tmp_path / "file.sqlite"
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        open_sqlite(path, "", busy_timeout_s=0.05)
    holder.close()


def test_a_folder_that_cannot_be_made_is_an_error_of_the_database(tmp_path: Path) -> None:
    """Who counts errors of its store, or explains them, meets one kind."""
    (tmp_path / "file").touch()
    with pytest.raises(sqlite3.OperationalError, match="folder"):
        open_sqlite(tmp_path / "file" / "below" / "c.sqlite", "")
    with pytest.raises(IndexingError, match="cannot be opened"):
        IndexStore(tmp_path / "file" / "below" / "i.sqlite")


def test_the_servers_cache_outlives_a_lock_at_its_first_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be opened is opened at the next request, tables and all."""
    monkeypatch.setattr(disk, "_BUSY_TIMEOUT_S", 0.05)
    path = tmp_path / "file.sqlite"
    holder = open_sqlite(path, "BEGIN IMMEDIATE")

    async def use() -> bytes | None:
        store = DiskStore(path, 1_000, 60.0)
        assert await store.get(b"key") is None
        assert store.statistics().errors_total == 1
        holder.execute("ROLLBACK")
        await store.put(b"key", b"value")
        found = await store.get(b"key")
        await store.aclose()
        return found

    assert asyncio.run(use()) == b"value"
    holder.close()


def test_a_file_that_is_no_database_is_an_error_at_once(tmp_path: Path) -> None:
    """Nothing is retried that will not change."""
    path = tmp_path / "file.sqlite"
    path.write_bytes(b"not a database, and long enough to be read as one" * 100)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        open_sqlite(path, "")


def test_kept_answers_are_their_owners_alone_to_read(tmp_path: Path) -> None:
    """A cache of the server holds what others asked; whoever shares the machine cannot read it."""
    connection = open_sqlite(tmp_path / "c.sqlite", "CREATE TABLE t (x)", is_private=True)
    modes = {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()}
    connection.close()
    assert modes == {0}
