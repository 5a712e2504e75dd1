"""Which embedded store suits an index? The candidates side by side, in one run.

python benchmarks/vector_stores.py [--vectors 100000] [--dimensions 384] [--queries 200]

For each store that is installed: seconds to write, megabytes on disk, seconds to open in a fresh handle and
answer once, query p50/p99 in milliseconds (top 10), recall@10 against exact search, and the p50 when a
metadata filter keeps one vector in fifty. Vectors are clustered, as real embeddings are.
"""

import argparse
import importlib
import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("LANCE_LOG", "error")

K = 10
SHARES = 50


Matrix = NDArray[np.float32]
Shelves = NDArray[np.int64]


def _optional(module: str) -> Any:
    """Import a candidate, which need not be installed and need not have types."""
    return importlib.import_module(module)


class Store(Protocol):
    def write(self, vectors: Matrix, shelf: Shelves) -> None: ...
    def open(self) -> None: ...
    def search(self, query: Matrix) -> list[int]: ...
    def search_shelf(self, query: Matrix, shelf: int) -> list[int]: ...


class SqliteNumpy:
    """Vectors as float16 or float32 blobs in SQLite; one matrix in memory; exact scan by BLAS."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "v.sqlite"

    def write(self, vectors: Matrix, shelf: Shelves) -> None:
        db = sqlite3.connect(self.path)
        db.execute("CREATE TABLE v (id INTEGER PRIMARY KEY, shelf INTEGER, vector BLOB)")
        db.execute("CREATE INDEX by_shelf ON v(shelf)")
        rows = ((i, int(s), v.tobytes()) for i, (v, s) in enumerate(zip(vectors, shelf, strict=True)))
        db.executemany("INSERT INTO v VALUES (?, ?, ?)", rows)
        db.commit()
        db.close()

    def open(self) -> None:
        self.db = sqlite3.connect(self.path)
        blob = b"".join(row[0] for row in self.db.execute("SELECT vector FROM v ORDER BY id"))
        n = self.db.execute("SELECT count(*) FROM v").fetchone()[0]
        self.matrix = np.frombuffer(blob, dtype=np.float32).reshape(n, -1)

    def search(self, query: Matrix) -> list[int]:
        scores = self.matrix @ query
        return np.argpartition(scores, -K)[-K:].tolist()

    def search_shelf(self, query: Matrix, shelf: int) -> list[int]:
        ids = np.array([r[0] for r in self.db.execute("SELECT id FROM v WHERE shelf = ?", (shelf,))])
        scores = self.matrix[ids] @ query
        return ids[np.argpartition(scores, -K)[-K:]].tolist()


class UsearchHnsw:
    """An HNSW graph in float16, saved to one file as a whole; filtering by asking for more and dropping."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "v.usearch"

    def write(self, vectors: Matrix, shelf: Shelves) -> None:
        index = _optional("usearch.index").Index(ndim=vectors.shape[1], metric="ip", dtype="f16")
        index.add(np.arange(len(vectors)), vectors)
        index.save(str(self.path))
        self.shelf = shelf

    def open(self) -> None:
        self.index = _optional("usearch.index").Index.restore(str(self.path), view=True)

    def search(self, query: Matrix) -> list[int]:
        return self.index.search(query, K).keys.tolist()

    def search_shelf(self, query: Matrix, shelf: int) -> list[int]:
        keys = self.index.search(query, K * SHARES * 2).keys
        return keys[self.shelf[keys] == shelf][:K].tolist()


class Lance:
    """LanceDB: a versioned columnar table, exact scan without an index, SQL prefilter."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lance"

    def write(self, vectors: Matrix, shelf: Shelves) -> None:
        pa = _optional("pyarrow")
        flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        table = pa.table({"id": pa.array(range(len(vectors))), "shelf": pa.array(shelf), "vector": flat})
        _optional("lancedb").connect(str(self.path)).create_table("v", table)

    def open(self) -> None:
        self.table = _optional("lancedb").connect(str(self.path)).open_table("v")

    def search(self, query: Matrix) -> list[int]:
        found = self.table.search(query).distance_type("dot").select(["id"]).limit(K).to_arrow()
        return found["id"].to_pylist()

    def search_shelf(self, query: Matrix, shelf: int) -> list[int]:
        asked = self.table.search(query).distance_type("dot").where(f"shelf = {shelf}", prefilter=True)
        return asked.select(["id"]).limit(K).to_arrow()["id"].to_pylist()


class LanceIvf(Lance):
    """LanceDB with its IVF-PQ index at its defaults."""

    def write(self, vectors: Matrix, shelf: Shelves) -> None:
        super().write(vectors, shelf)
        super().open()
        self.table.create_index(metric="dot", num_partitions=256, num_sub_vectors=vectors.shape[1] // 8)


class SqliteVec:
    """sqlite-vec's vec0 table: exact scan in C inside SQLite. Needs a Python that may load extensions (or apsw)."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "vec.sqlite"

    def _connect(self) -> Any:
        db = _optional("apsw").Connection(str(self.path))
        db.enable_load_extension(True)
        db.load_extension(_optional("sqlite_vec").loadable_path())
        return db

    def write(self, vectors: Matrix, shelf: Shelves) -> None:
        db = self._connect()
        db.execute(f"CREATE VIRTUAL TABLE v USING vec0(shelf integer partition key, vector float[{vectors.shape[1]}])")
        rows = ((i, int(s), v.tobytes()) for i, (v, s) in enumerate(zip(vectors, shelf, strict=True)))
        with db:
            db.executemany("INSERT INTO v(rowid, shelf, vector) VALUES (?, ?, ?)", rows)
        db.close()

    def open(self) -> None:
        self.db = self._connect()

    def search(self, query: Matrix) -> list[int]:
        sql = "SELECT rowid FROM v WHERE vector MATCH ? AND k = ?"
        return [row[0] for row in self.db.execute(sql, (query.tobytes(), K))]

    def search_shelf(self, query: Matrix, shelf: int) -> list[int]:
        sql = "SELECT rowid FROM v WHERE vector MATCH ? AND k = ? AND shelf = ?"
        return [row[0] for row in self.db.execute(sql, (query.tobytes(), K, shelf))]


def clustered(n: int, dimensions: int, rng: np.random.Generator) -> Matrix:
    """Return unit float32 vectors [n, dimensions] around 200 centres."""
    centres = rng.normal(size=(200, dimensions))
    vectors = centres[rng.integers(0, 200, n)] + 0.8 * rng.normal(size=(n, dimensions))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def milliseconds(call: Callable[[Matrix], object], queries: Matrix) -> list[float]:
    spans: list[float] = []
    for query in queries:
        start = time.perf_counter()
        call(query)
        spans.append((time.perf_counter() - start) * 1e3)
    return sorted(spans)


def disk_mb(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def measure(kind: type[Any], vectors: Matrix, queries: Matrix, shelf: Shelves) -> str:
    folder = Path(tempfile.mkdtemp())
    try:
        store: Store = kind(folder)
        start = time.perf_counter()
        store.write(vectors, shelf)
        written = time.perf_counter() - start
        start = time.perf_counter()
        store.open()
        store.search(queries[0])
        opened = time.perf_counter() - start
        spans = milliseconds(store.search, queries)
        filtered = milliseconds(lambda q: store.search_shelf(q, 7), queries)
        truth = np.argsort(-(queries @ vectors.T), axis=1)[:, :K]
        pairs = zip(queries, truth, strict=True)
        recall = statistics.mean(len(set(store.search(q)) & set(t.tolist())) / K for q, t in pairs)
        p50, p99 = statistics.median(spans), spans[int(len(spans) * 0.99)]
        return (
            f"| {kind.__name__} | {written:.1f} | {disk_mb(folder):.0f} | {opened:.2f} "
            f"| {p50:.2f} | {p99:.2f} | {recall:.3f} | {statistics.median(filtered):.2f} |"
        )
    except ImportError as error:
        return f"| {kind.__name__} | not installed: {error.name} |"
    finally:
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--queries", type=int, default=200)
    options = parser.parse_args()
    rng = np.random.default_rng(7)
    vectors = clustered(options.vectors + options.queries, options.dimensions, rng)
    vectors, queries = vectors[: options.vectors], vectors[options.vectors :]
    shelf = np.arange(options.vectors, dtype=np.int64) * 7919 % SHARES
    print(f"{options.vectors} x {options.dimensions}, {os.cpu_count()} cores")
    print("| store | write s | MB | open + first s | p50 ms | p99 ms | recall@10 | p50 ms filtered |")
    print("|---|---|---|---|---|---|---|---|")
    for kind in (SqliteNumpy, SqliteVec, UsearchHnsw, Lance, LanceIvf):
        print(measure(kind, vectors, queries, shelf), flush=True)


if __name__ == "__main__":
    main()
