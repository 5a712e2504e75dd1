"""The file of an index: documents, chunks, vectors and words in one SQLite database.

One transaction writes a document whole, so a killed process leaves each document old or new, never in between; the
full-text index is kept by triggers in the same transaction. Vectors are searched exactly, as one matrix in memory,
which is read anew when the file has changed. Why this and no vector database: docs/decisions/0032.
"""

from __future__ import annotations

import functools
import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from antiphon.errors import AntiphonError
from antiphon.search.chunking import Chunk
from antiphon.search.document import Document
from antiphon.search.errors import SearchError
from antiphon.search.fts_query import match_expression, query_words
from antiphon.sqlite_file import open_sqlite, sqlite_hint

FORMAT = 1
# Scoring a chunk takes microseconds, and a common word occurs in every tenth.
MAX_SCORED = 20_000
_SCRIPT = """
PRAGMA foreign_keys = ON;
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS documents (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, fingerprint TEXT NOT NULL, title TEXT NOT NULL,
    metadata TEXT NOT NULL, num_characters INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS chunks (
    id INTEGER PRIMARY KEY, document INTEGER NOT NULL REFERENCES documents(id) ON DELETE CASCADE,
    title TEXT NOT NULL, text TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, vector BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS chunks_of_document ON chunks(document);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(
    title, text, content='chunks', content_rowid='id', tokenize='porter unicode61 remove_diacritics 2'
);
CREATE TRIGGER IF NOT EXISTS chunk_added AFTER INSERT ON chunks BEGIN
    INSERT INTO words(rowid, title, text) VALUES (new.id, new.title, new.text);
END;
CREATE TRIGGER IF NOT EXISTS chunk_removed AFTER DELETE ON chunks BEGIN
    INSERT INTO words(words, rowid, title, text) VALUES ('delete', old.id, old.title, old.text);
END;
"""

Vector = NDArray[np.float32]
Condition = tuple[str, Sequence[Any]]
"""An SQL condition on the JSON in the column ``metadata``, and its parameters. Nothing that a client wrote is in the SQL."""
P = ParamSpec("P")
R = TypeVar("R")


def _explained(method: Callable[Concatenate[IndexFile, P], R]) -> Callable[Concatenate[IndexFile, P], R]:
    """Raise the file's ``error``, with the step to take, where the file is damaged, full or locked."""

    @functools.wraps(method)
    def run(store: IndexFile, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(store, *args, **kwargs)
        except sqlite3.Error as error:
            raise store.error(f"{str(store.path)!r} cannot be used: {error}", hint=sqlite_hint(error)) from error

    return run


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk as it is found: of which document, and where in it (characters)."""

    document: str
    title: str
    text: str
    start: int
    end: int
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EmbeddedDocument:
    """A document to write: its chunks and their unit vectors, in the same order."""

    document: Document
    fingerprint: str
    chunks: Sequence[Chunk]
    vectors: Sequence[Vector]


@dataclass(frozen=True, slots=True)
class IndexStatistics:
    """What an index holds. ``dimensions`` is None while it is empty."""

    num_documents: int
    num_chunks: int
    num_characters: int
    dimensions: int | None
    file_bytes: int


class IndexFile:
    """One index file. Threads may share it; processes may open it at the same time.

    Every method raises ``error``, as does the constructor for a file that is not an index, of another format, or cannot be opened.
    """

    error: ClassVar[type[AntiphonError]] = SearchError

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        try:
            self._db = open_sqlite(path, _SCRIPT)
        except sqlite3.OperationalError as error:
            raise self.error(
                f"{str(path)!r} cannot be opened: {error}", hint=f"{sqlite_hint(error)} Or name another file."
            ) from error
        except sqlite3.DatabaseError as error:
            raise self.error(f"{str(path)!r} is not an index: {error}", hint="name another file") from error
        self._ids: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._matrix: Vector = np.empty((0, 0), dtype=np.float32)
        self._read_at: tuple[int, int] | None = None
        if self.setting("format") is None:
            self.set_settings({"format": FORMAT})
        elif self.setting("format") != FORMAT:
            raise self.error(
                f"{str(path)!r} has the format {self.setting('format')!r}, not {FORMAT}", hint="index anew"
            )

    @_explained
    def setting(self, name: str) -> Any:
        """Return a stored setting, or None."""
        row = self._one("SELECT value FROM settings WHERE name = ?", name)
        return None if row is None else json.loads(row[0])

    @_explained
    def set_settings(self, values: Mapping[str, Any]) -> None:
        """Store settings, in one transaction."""
        rows = [(name, json.dumps(value)) for name, value in values.items()]
        with self._lock, self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", rows)

    @_explained
    def fingerprints(self) -> dict[str, tuple[str, str]]:
        """Return ``{document: (fingerprint, metadata as JSON)}``."""
        with self._lock:
            rows = self._db.execute("SELECT name, fingerprint, metadata FROM documents")
            return {name: (fingerprint, metadata) for name, fingerprint, metadata in rows}

    @_explained
    def vectors_of(self, document: str) -> dict[tuple[str, str], Vector]:
        """Return the vectors of a document's chunks, by title and text."""
        sql = "SELECT c.title, c.text, vector FROM chunks c JOIN documents d ON d.id = document WHERE name = ?"
        with self._lock:
            rows = self._db.execute(sql, (document,))
            return {(title, text): np.frombuffer(blob, dtype="<f4") for title, text, blob in rows}

    @_explained
    def write(self, items: Iterable[EmbeddedDocument]) -> None:
        """Put documents in place of those with the same id, in one transaction."""
        with self._lock, self._transaction():
            for item in items:
                self._db.execute("DELETE FROM documents WHERE name = ?", (item.document.id,))
                self._insert(item)

    @_explained
    def set_metadata(self, documents: Iterable[Document]) -> None:
        """Replace the metadata alone."""
        rows = [(metadata_json(document), document.id) for document in documents]
        with self._lock, self._transaction():
            self._db.executemany("UPDATE documents SET metadata = ? WHERE name = ?", rows)

    @_explained
    def delete(self, names: Iterable[str]) -> int:
        """Remove documents with their chunks; return how many there were."""
        with self._lock, self._transaction():
            return sum(self._db.execute("DELETE FROM documents WHERE name = ?", (name,)).rowcount for name in names)

    @_explained
    def by_vector(self, query: Vector, limit: int, where: Condition | None = None) -> list[tuple[int, float]]:
        """Return ``(chunk id, cosine)`` of the nearest chunks, best first; exact."""
        with self._lock:
            self._refresh()
            ids, matrix = self._ids, self._matrix
            if where is not None:
                rows = np.searchsorted(ids, np.array(self._allowed(where), dtype=np.int64))
                ids, matrix = ids[rows], matrix[rows]
        if not len(ids):
            return []
        if matrix.shape[1] != len(query):
            raise self.error(f"The index holds vectors of {matrix.shape[1]} dimensions, the query has {len(query)}")
        scores = matrix @ query
        best = np.argpartition(-scores, min(limit, len(scores)) - 1)[:limit]
        best = best[np.argsort(-scores[best], kind="stable")]
        return [(int(ids[i]), float(scores[i])) for i in best]

    @_explained
    def by_words(self, question: str, limit: int, where: Condition | None = None) -> list[tuple[int, float]]:
        """Return ``(chunk id, BM25 score)``, best first; higher is better.

        Where the words occur in more than ``MAX_SCORED`` chunks together, the commonest of them, which carry the least information, are
        passed over.
        """
        condition, values = where or ("1", ())
        words = self._rarest(query_words(question))
        if not words:
            return []
        expression = match_expression(words)
        sql = "SELECT rowid, -bm25(words) FROM words WHERE words MATCH ? ORDER BY bm25(words) LIMIT ?"
        if where:
            # Only the fixed column name and question marks come into the statement.
            sql = sql.replace("ORDER", f"AND rowid IN ({_CHUNKS_WHERE.format(condition=condition)}) ORDER")
        with self._lock:
            return [(int(i), float(score)) for i, score in self._db.execute(sql, (expression, *values, limit))]

    @_explained
    def chunks(self, ids: Iterable[int]) -> dict[int, StoredChunk]:
        """Return chunks by id; one that was removed meanwhile is not among them."""
        sql = "SELECT name, c.title, text, first, last, metadata FROM chunks c JOIN documents d ON d.id = document WHERE c.id = ?"
        found = {chunk: self._one(sql, chunk) for chunk in ids}
        return {chunk: _stored_chunk(row) for chunk, row in found.items() if row is not None}

    @_explained
    def texts_of(self, document: str) -> list[str]:
        """Return a document's text in pieces, in order; what two chunks share is in the first of them alone."""
        sql = "SELECT text, first, last FROM chunks c JOIN documents d ON d.id = document WHERE name = ? ORDER BY first, last"
        with self._lock:
            rows = self._db.execute(sql, (document,)).fetchall()
        pieces: list[str] = []
        end = 0
        for text, first, last in rows:
            pieces.append(text[max(0, end - first) :])
            end = max(end, last)
        return [piece for piece in pieces if piece]

    @_explained
    def num_characters(self, names: Iterable[str]) -> int:
        """Return the length of documents together."""
        rows = [self._one("SELECT num_characters FROM documents WHERE name = ?", name) for name in names]
        return sum(int(row[0]) for row in rows if row is not None)

    @_explained
    def statistics(self) -> IndexStatistics:
        """Return an immutable picture of the index."""
        documents = cast(
            "tuple[int, int]", self._one("SELECT count(*), coalesce(sum(num_characters), 0) FROM documents")
        )
        chunks = cast("tuple[int]", self._one("SELECT count(*) FROM chunks"))
        vector = self._one("SELECT length(vector) / 4 FROM chunks LIMIT 1")
        return IndexStatistics(
            num_documents=documents[0],
            num_chunks=chunks[0],
            num_characters=documents[1],
            dimensions=None if vector is None else int(vector[0]),
            file_bytes=self._num_bytes(),
        )

    def _num_bytes(self) -> int:
        """Return the bytes of all pages; those that were written last may be in the log next to the file."""
        count, size = (cast("tuple[int]", self._one(f"PRAGMA {name}")) for name in ("page_count", "page_size"))
        return count[0] * size[0]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def _insert(self, item: EmbeddedDocument) -> None:
        document = item.document
        made = self._db.execute(
            "INSERT INTO documents(name, fingerprint, title, metadata, num_characters) VALUES (?, ?, ?, ?, ?)",
            (document.id, item.fingerprint, document.title, metadata_json(document), len(document.text)),
        )
        rows = (
            (made.lastrowid, document.title, chunk.text, chunk.start, chunk.end, vector.astype("<f4").tobytes())
            for chunk, vector in zip(item.chunks, item.vectors, strict=True)
        )
        self._db.executemany(
            "INSERT INTO chunks(document, title, text, first, last, vector) VALUES (?, ?, ?, ?, ?, ?)", rows
        )

    def _refresh(self) -> None:
        """Read the matrix if this or another connection changed the file."""
        version = cast("tuple[int]", self._one("PRAGMA data_version"))[0]
        if self._read_at == (version, self._db.total_changes):
            return
        ids: list[int] = []
        blobs: list[bytes] = []
        for chunk, blob in self._db.execute("SELECT id, vector FROM chunks ORDER BY id"):
            ids.append(chunk)
            blobs.append(blob)
        self._ids = np.array(ids, dtype=np.int64)
        try:
            rows = np.frombuffer(b"".join(blobs), dtype="<f4")
            self._matrix = rows.reshape(len(ids), -1) if ids else np.empty((0, 0), np.float32)
        except ValueError as error:
            raise self.error(
                f"{str(self.path)!r} cannot be used: a stored vector is not whole ({error})",
                hint="The file is damaged: remove it and index anew.",
            ) from error
        self._read_at = (version, self._db.total_changes)

    def _rarest(self, words: Sequence[str]) -> list[str]:
        """Return the rarest of ``words``, as many as occur in ``MAX_SCORED`` chunks together; at least one."""
        sql = "SELECT count(*) FROM words WHERE words MATCH ?"
        counted = sorted((cast("tuple[int]", self._one(sql, match_expression([word])))[0], word) for word in words)
        kept: list[str] = []
        total = 0
        for count, word in counted:
            total += count
            if kept and total > MAX_SCORED:
                break
            if count:
                kept.append(word)
        return kept

    def _allowed(self, where: Condition) -> list[int]:
        condition, values = where
        sql = _CHUNKS_WHERE.format(condition=condition) + " ORDER BY c.id"
        return [row[0] for row in self._db.execute(sql, values)]

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)

    def _one(self, sql: str, *values: Any) -> tuple[Any, ...] | None:
        with self._lock:
            return self._db.execute(sql, values).fetchone()


_CHUNKS_WHERE = "SELECT c.id FROM chunks c JOIN documents d ON d.id = c.document WHERE {condition}"


class _Transaction:
    """All or nothing; takes the write lock at once, so that it cannot fail half way for being late."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._db.execute("COMMIT")
        elif self._db.in_transaction:
            # A full disk has rolled back by itself.
            self._db.execute("ROLLBACK")


def _stored_chunk(row: tuple[Any, ...]) -> StoredChunk:
    document, title, text, start, end, metadata = row
    return StoredChunk(document, title, text, start, end, json.loads(metadata))


def metadata_json(document: Document) -> str:
    """Return the metadata as stored. Raises SearchError for what is not JSON."""
    try:
        text = json.dumps(dict(document.metadata), sort_keys=True, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError) as error:
        raise SearchError(f"The metadata of {document.id!r} is not a JSON object in UTF-8: {error}") from error
    return text
