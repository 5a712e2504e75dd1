"""Vectors on disk, by what they are the vectors of: endpoint, model, dimensions, text.

One SQLite file for all processes of a user: readers and a writer do not block each other (write-ahead log), and two
writers take turns. Each row says which model answered: behind one name a server may put another model.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from antiphon.config import home_directory
from antiphon.toolkit.cache_file import open_cache, reading, writing

Vector = NDArray[np.float32]
_KEYS_PER_QUERY = 500
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
    """The file of vectors; usable from several threads and processes at once."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_cache_path()
        self._lock = threading.Lock()
        self._db = open_cache(self.path, _SCRIPT)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, CachedVector]:
        """Return the vectors that are there."""
        found: dict[bytes, CachedVector] = {}
        with self._lock, reading(self.path):
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                some = keys[start : start + _KEYS_PER_QUERY]
                marks = ",".join("?" * len(some))
                # Only question marks are put into the statement.
                rows = self._db.execute(f"SELECT key, answered_by, vector FROM vectors WHERE key IN ({marks})", some)  # noqa: S608
                for key, answered_by, blob in rows:
                    found[key] = CachedVector(np.frombuffer(blob, dtype="<f4"), answered_by)
        return found

    def put(self, vectors: Mapping[bytes, CachedVector]) -> None:
        """Store vectors, in one transaction; one that is there already is replaced."""
        rows: Iterable[tuple[bytes, str, bytes]] = (
            (key, cached.answered_by, cached.vector.astype("<f4").tobytes()) for key, cached in vectors.items()
        )
        with self._lock, writing(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def __len__(self) -> int:
        with self._lock, reading(self.path):
            return int(self._db.execute("SELECT count(*) FROM vectors").fetchone()[0])

    def close(self) -> None:
        """Close the file; what was put stays."""
        with self._lock:
            self._db.close()
