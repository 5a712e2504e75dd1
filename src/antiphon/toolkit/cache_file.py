"""The SQLite file of a cache: how large and how old it may become, and what goes wrong with it as one error with the next step.

Reading raises, since nothing has been paid yet. Writing warns: an answer that was paid for is worth more than its copy.
"""

from __future__ import annotations

import sqlite3
import threading
import time
import warnings
from collections.abc import Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from antiphon.sqlite_file import open_sqlite, sqlite_hint
from antiphon.toolkit.errors import CacheError

# How many entries one write removes at most, besides as many as it adds: a write is short, and the file shrinks all the same.
_REMOVED_PER_WRITE = 20
# When an entry was used is written once an hour, so that reading seldom writes.
_USED_EVERY_S = 3600.0


class CacheWriteWarning(UserWarning):
    """Something could not be written to a cache; the call itself succeeded."""


def open_cache(path: Path, script: str) -> sqlite3.Connection:
    """Open the file, made if it is missing. Raises CacheError if it cannot be opened or is not a database."""
    with reading(path):
        return open_sqlite(path, script)


@contextmanager
def reading(path: Path) -> Generator[None]:
    """Raise CacheError for what SQLite raises in the block."""
    try:
        yield
    except sqlite3.Error as error:
        raise CacheError(f"The cache {str(path)!r} cannot be used: {error}", hint=sqlite_hint(error)) from error


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Warn of what SQLite raises in the block."""
    try:
        yield
    except sqlite3.Error as error:
        text = f"The cache {str(path)!r} could not be written: {error}. {sqlite_hint(error)}"
        warnings.warn(text, CacheWriteWarning, stacklevel=4)


@dataclass(frozen=True, slots=True)
class CacheSize:
    """How many entries a cache has, their bytes on disk, and the age of the oldest in seconds (None: there is none)."""

    num_entries: int
    num_bytes: int
    oldest_s: float | None


class CacheFile:
    """The open file of a cache: one ``table`` with a column ``key``, made by ``script``; use it under ``lock``.

    Entries older than ``max_age_s`` count as absent and are removed. When the file holds more than ``max_bytes``, those that
    were used least recently are removed, some with each write.
    """

    def __init__(self, path: Path, table: str, script: str, *, max_bytes: int, max_age_s: float | None) -> None:
        if max_bytes < 1 or (max_age_s is not None and not max_age_s > 0):
            raise ValueError(f"max_bytes and max_age_s must be > 0, got {max_bytes!r} and {max_age_s!r}")
        self.path = path
        self.lock = threading.Lock()
        self.max_bytes = max_bytes
        self.max_age_s = max_age_s
        self._table = table
        self.database = open_cache(path, script)
        with reading(path):
            self._add_times()

    @property
    def kept_since(self) -> float:
        """The time (Unix seconds) since which an entry must have been kept to be returned."""
        return 0.0 if self.max_age_s is None else time.time() - self.max_age_s

    def touch(self, keys: Collection[str | bytes], used_at: float) -> None:
        """Note that entries are used; ``used_at`` is when the one that waits longest was used before."""
        now = time.time()
        if not keys or used_at > now - _USED_EVERY_S:
            return
        marks = ",".join("?" * len(keys))
        with writing(self.path):
            self.database.execute(f"UPDATE {self._table} SET used_at = ? WHERE key IN ({marks})", (now, *keys))  # noqa: S608 - a constant

    def shrink(self, num_added: int) -> None:
        """Remove entries that are too old, and some of those used least recently if the file holds too much."""
        most = _REMOVED_PER_WRITE + num_added
        chosen = f"DELETE FROM {self._table} WHERE key IN (SELECT key FROM {self._table} {{}} LIMIT ?)"  # noqa: S608 - a constant
        if self.max_age_s is not None:
            self.database.execute(chosen.format("WHERE kept_at < ?"), (self.kept_since, most))
        if self._num_bytes() > self.max_bytes:
            self.database.execute(chosen.format("ORDER BY used_at"), (most,))

    def clear(self, older_than_s: float = 0.0) -> int:
        """Remove the entries that were kept longer ago than ``older_than_s``; return how many. Their disk space is freed."""
        with self.lock, reading(self.path):
            before = f"DELETE FROM {self._table} WHERE kept_at <= ?"  # noqa: S608 - a constant
            removed = self.database.execute(before, (time.time() - older_than_s,)).rowcount
            self.database.execute("VACUUM")
            self.database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return removed

    def size(self) -> CacheSize:
        with self.lock, reading(self.path):
            found = f"SELECT count(*), min(kept_at) FROM {self._table}"  # noqa: S608 - a constant
            num_entries, oldest = self.database.execute(found).fetchone()
            oldest_s = None if oldest is None else max(0.0, time.time() - oldest)
            return CacheSize(num_entries, self._num_bytes(), oldest_s)

    def close(self) -> None:
        with self.lock:
            self.database.close()

    def _num_bytes(self) -> int:
        used, free, size = (
            int(self.database.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (used - free) * size

    def _add_times(self) -> None:
        """Add what a file of an earlier version lacks; the age of its entries counts from now."""
        for column in ("kept_at", "used_at"):
            names = {row[1] for row in self.database.execute(f"PRAGMA table_info({self._table})")}
            try:
                if column not in names:
                    self.database.execute(f"ALTER TABLE {self._table} ADD COLUMN {column} REAL NOT NULL DEFAULT 0")
                    self.database.execute(f"UPDATE {self._table} SET {column} = ?", (time.time(),))  # noqa: S608 - a constant
            except sqlite3.OperationalError as error:
                if "duplicate column" not in str(error):
                    raise
                # Another process opened the file at the same time and was first.
            self.database.execute(f"CREATE INDEX IF NOT EXISTS {self._table}_{column} ON {self._table} ({column})")
