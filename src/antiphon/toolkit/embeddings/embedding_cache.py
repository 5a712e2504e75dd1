"""Vectors on disk, by what they are the vectors of: endpoint, model, dimensions, text.

One SQLite file for all processes of a user: readers and a writer do not block each other (write-ahead log), and two
writers take turns. Each row says which model answered: behind one name a server may put another model.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from antiphon.config import home_directory
from antiphon.toolkit.cache_file import CacheFile, CacheSize, reading, writing

Vector = NDArray[np.float32]
_KEYS_PER_QUERY = 500
_MAX_BYTES = 2 * 1024 * 1024 * 1024
# A row that a power cut takes is only embedded again.
_SCRIPT = """
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, answered_by TEXT NOT NULL, vector BLOB NOT NULL) WITHOUT ROWID;
"""


def default_cache_path() -> Path:
    """Return ``ANTIPHON_HOME/embeddings.sqlite``, or the same file in the platform's user data folder."""
    return home_directory() / "embeddings.sqlite"


@dataclass(frozen=True, slots=True)
class CacheSpace:
    """What vectors must share to be comparable: where they came from, of which model, of how many dimensions."""

    endpoint: str
    model: str
    dimensions: int | None

    def key(self, text: str) -> bytes:
        """Return the name of a text's vector in the cache."""
        parts = json.dumps([self.endpoint, self.model, self.dimensions, text], ensure_ascii=False)
        return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True, slots=True)
class CachedVector:
    """A unit vector [d] and the name of the model that made it."""

    vector: Vector
    answered_by: str


class EmbeddingCache:
    """The file of vectors; usable from several threads and processes at once.

    Vectors older than ``max_age_s`` are made again (None: never). Of a file above ``max_bytes`` (2 GiB) the vectors that were
    used least recently are removed.
    """

    def __init__(
        self, path: Path | None = None, *, max_bytes: int = _MAX_BYTES, max_age_s: float | None = None
    ) -> None:
        self.path = path or default_cache_path()
        self._file = CacheFile(self.path, "vectors", _SCRIPT, max_bytes=max_bytes, max_age_s=max_age_s)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, CachedVector]:
        """Return the vectors that are there."""
        found: dict[bytes, CachedVector] = {}
        with self._file.lock, reading(self.path):
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                some = keys[start : start + _KEYS_PER_QUERY]
                marks = ",".join("?" * len(some))
                # Only question marks are put into the statement.
                query = f"SELECT key, answered_by, vector, used_at FROM vectors WHERE key IN ({marks}) AND kept_at >= ?"  # noqa: S608
                rows = self._file.database.execute(query, (*some, self._file.kept_since)).fetchall()
                for key, answered_by, blob, _ in rows:
                    found[key] = CachedVector(np.frombuffer(blob, dtype="<f4"), answered_by)
                self._file.touch([row[0] for row in rows], min((row[3] for row in rows), default=0.0))
        return found

    def put(self, vectors: Mapping[bytes, CachedVector]) -> None:
        """Store vectors, in one transaction; one that is there already is replaced."""
        now = time.time()
        rows: Iterable[tuple[bytes, str, bytes, float, float]] = (
            (key, cached.answered_by, cached.vector.astype("<f4").tobytes(), now, now)
            for key, cached in vectors.items()
        )
        insert = "INSERT OR REPLACE INTO vectors (key, answered_by, vector, kept_at, used_at) VALUES (?, ?, ?, ?, ?)"
        database = self._file.database
        with self._file.lock, writing(self.path):
            database.execute("BEGIN IMMEDIATE")
            try:
                database.executemany(insert, rows)
                self._file.shrink(len(vectors))
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")

    def clear(self, *, older_than_s: float = 0.0) -> int:
        """Remove all vectors, or those kept longer ago than ``older_than_s``; return how many."""
        return self._file.clear(older_than_s)

    def statistics(self) -> CacheSize:
        """Return how many vectors there are, their bytes on disk and their age."""
        return self._file.size()

    def __len__(self) -> int:
        return self._file.size().num_entries

    def close(self) -> None:
        """Close the file; what was put stays."""
        self._file.close()
