"""A store in a SQLite file, for answers that outlive the server."""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from antiphon.backends.caching.base import StoreStatistics
from antiphon.sqlite_file import open_sqlite

T = TypeVar("T")

# Answers lost in a crash are computed again.
_SCRIPT = """
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS answer (key BLOB PRIMARY KEY, value BLOB NOT NULL, stored_at REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS answer_by_age ON answer (stored_at);
"""
_BUSY_TIMEOUT_S = 5.0
_TRIM_EVERY = 64
"""Puts between two looks at the file's size."""


class DiskStore:
    """Stores about ``max_bytes`` of values in ``path``; the oldest are evicted first. ``now`` is in Unix seconds.

    One thread does the work, so that the event loop never waits for the disk.
    """

    def __init__(self, path: Path, max_bytes: int, ttl_s: float, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._now = now
        self._num_errors = 0
        self._num_puts = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="response-cache")
        self._connection: sqlite3.Connection | None = None
        self._is_closed = False

    async def get(self, key: bytes) -> bytes | None:
        return await self._do(lambda db: self._get(db, key), None)

    async def put(self, key: bytes, value: bytes) -> None:
        await self._do(lambda db: self._put(db, key, value), None)

    def statistics(self) -> StoreStatistics:
        return StoreStatistics(None, None, self._num_errors)

    async def aclose(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    async def _do(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        if self._is_closed:
            return otherwise
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(self._open()))
        except sqlite3.Error:
            self._num_errors += 1
            return otherwise

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = open_sqlite(self._path, _SCRIPT, busy_timeout_s=_BUSY_TIMEOUT_S, is_private=True)
        return self._connection

    def _get(self, db: sqlite3.Connection, key: bytes) -> bytes | None:
        oldest = self._now() - self._ttl_s
        row = db.execute("SELECT value FROM answer WHERE key = ? AND stored_at > ?", (key, oldest)).fetchone()
        return row[0] if row else None

    def _put(self, db: sqlite3.Connection, key: bytes, value: bytes) -> None:
        db.execute("INSERT OR REPLACE INTO answer VALUES (?, ?, ?)", (key, value, self._now()))
        self._num_puts += 1
        if self._num_puts % _TRIM_EVERY == 0 or len(value) > self._max_bytes // _TRIM_EVERY:
            self._trim(db)

    def _trim(self, db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM answer WHERE stored_at <= ?", (self._now() - self._ttl_s,))
        (total,) = db.execute("SELECT coalesce(sum(length(value)), 0) FROM answer").fetchone()
        for key, size in db.execute("SELECT key, length(value) FROM answer ORDER BY stored_at").fetchall():
            if total <= self._max_bytes:
                return
            db.execute("DELETE FROM answer WHERE key = ?", (key,))
            total -= size

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
