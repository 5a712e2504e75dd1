"""How good is the index's retrieval? The collection is Python's documentation, with queries taken out of it.

    python benchmarks/search_quality.py [--sources FOLDER] [--folders faq tutorial ...] [--queries 200]

The sources are those of Debian's ``python3-doc`` (``_sources/*.rst.txt``). Three sets of queries, none of whose texts
is in the index: it holds the pages without their headings and without the sentences that serve as queries.

* ``questions``: the questions of the FAQ (headings); to be found: the answer.
* ``headings``: headings of sections; to be found: the section.
* ``sentences``: first sentences of sections; the rest of the section must be found.

A chunk is right when most of it lies in the section, or most of the section in it. Prints recall@10 and MRR@10 for
hybrid, vector and BM25, what an incremental update touches, and p50/p99 of a query over 100,000 chunks (synthetic
vectors and words; the time of the index alone). Uses the endpoint of the environment (``OPENAI_BASE_URL``).
"""

import argparse
import random
import re
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from antiphon.search.chunking import Chunk
from antiphon.search.fusion import fuse
from antiphon.toolkit.embeddings.embedding_cache import EmbeddingCache
from antiphon.toolkit.index import Document, Hit, Index
from antiphon.toolkit.index.store import EmbeddedDocument, IndexStore

SOURCES = Path("/usr/share/doc/python3.11/html/_sources")
FOLDERS = ("faq", "tutorial", "howto", "reference")
UNDERLINE = re.compile(r"^([=\-~^\"'*+#.])\1{2,}\s*$")
SENTENCE = re.compile(r"[A-Z`][^\n]*(?:\n[^\n.:]+)*?[^.:]\.(?=\s)")
MIN_WORDS = 4
K = 10


@dataclass(frozen=True)
class Query:
    kind: str
    text: str
    document: str
    start: int
    end: int


@dataclass(frozen=True)
class Section:
    title: str
    body: str


def sections(text: str) -> Iterator[Section]:
    """Cut reStructuredText at its underlined headings; the part before the first has no title."""
    lines = text.splitlines(keepends=True)
    title, body = "", list[str]()
    number = 0
    while number < len(lines):
        is_heading = (
            number + 1 < len(lines)
            and lines[number].strip()
            and not UNDERLINE.match(lines[number])
            and UNDERLINE.match(lines[number + 1])
            and len(lines[number + 1].strip()) >= len(lines[number].strip())
        )
        if is_heading:
            yield Section(title, "".join(body))
            title, body = lines[number].strip(), []
            number += 2
        elif UNDERLINE.match(lines[number]):
            number += 1
        else:
            body.append(lines[number])
            number += 1
    yield Section(title, "".join(body))


def read(path: Path, root: Path) -> tuple[Document, list[Query]]:
    """Return a page without its headings and query sentences, and the queries that were taken out of it."""
    name = path.relative_to(root).as_posix().removesuffix(".rst.txt")
    found = list(sections(path.read_text(encoding="utf-8")))
    page = next((section.title for section in found if section.title), name)
    parts: list[str] = []
    queries: list[Query] = []
    start = 0
    for section in found:
        body, sentence = section.body, None
        if section.title != page and (match := SENTENCE.search(body)) and len(body) > len(match[0]) * 2:
            sentence = " ".join(match[0].split())
            body = body[: match.start()] + body[match.end() :]
        parts.append(body)
        end = start + len(body)
        if section.title and section.title != page and len(body.split()) > MIN_WORDS * 5:
            kind = "questions" if section.title.endswith("?") else "headings"
            if len(section.title.split()) >= MIN_WORDS - 1:
                queries.append(Query(kind, section.title, name, start, end))
            if sentence and len(sentence.split()) >= MIN_WORDS:
                queries.append(Query("sentences", sentence, name, start, end))
        start = end
    return Document(name, "".join(parts), title=page, metadata={"folder": name.split("/")[0]}), queries


def is_right(hit: Hit, query: Query) -> bool:
    shared = min(hit.end, query.end) - max(hit.start, query.start)
    smaller = min(hit.end - hit.start, query.end - query.start)
    return hit.document == query.document and shared * 2 > smaller


def first_right(hits: Sequence[Hit], query: Query) -> int | None:
    return next((rank for rank, hit in enumerate(hits, 1) if is_right(hit, query)), None)


def quality(index: Index, queries: Sequence[Query]) -> None:
    print("| queries | n | mode | recall@10 | MRR@10 |")
    print("|---|---|---|---|---|")
    for kind in ("questions", "headings", "sentences"):
        some = [query for query in queries if query.kind == kind]
        for mode in ("hybrid", "vector", "bm25"):
            ranks = [first_right(index.search(query.text, limit=K, mode=mode), query) for query in some]
            recall = sum(rank is not None for rank in ranks) / len(some)
            mrr = statistics.mean(1 / rank if rank else 0.0 for rank in ranks)
            print(f"| {kind} | {len(some)} | {mode} | {recall:.3f} | {mrr:.3f} |", flush=True)


def weights(index: Index, queries: Sequence[Query]) -> None:
    """Compare reciprocal rank fusion at other weights, over the same candidates."""
    rankings = [
        (query, index.search(query.text, limit=50, mode="vector"), index.search(query.text, limit=50, mode="bm25"))
        for query in queries
    ]
    for vector_weight in (0.3, 0.5, 0.6, 0.7, 0.8):
        found = 0
        for query, by_vector, by_words in rankings:
            hits = {(h.document, h.start): h for h in [*by_vector, *by_words]}
            number = {key: place for place, key in enumerate(hits)}
            fused = fuse(
                [number[h.document, h.start] for h in by_vector],
                [number[h.document, h.start] for h in by_words],
                weights=[vector_weight, 1 - vector_weight],
            )
            keys = list(hits)
            found += first_right([hits[keys[i]] for i, _ in fused[:K]], query) is not None
        print(
            f"RRF with vector weight {vector_weight}: recall@10 {found / len(rankings):.3f} over all queries",
            flush=True,
        )


def incremental(index: Index, documents: list[Document]) -> None:
    same = index.update(documents)
    print(f"unchanged: {same.num_embedded} chunks embedded, {same.usage.num_calls} calls, {same.seconds:.2f} s")
    first = documents[0]
    middle = len(first.text) // 2
    changed = Document(
        first.id, first.text[:middle] + "\n\nOne new paragraph.\n\n" + first.text[middle:], first.title, first.metadata
    )
    report = index.update([changed, *documents[1:]])
    print(
        f"one paragraph added: {report.num_changed} document, {report.num_embedded} of its chunks embedded, {report.num_reused} kept"
    )
    report = index.update(documents[1:], delete_missing=True)
    print(f"one document removed: {report.num_deleted} deleted, {report.num_embedded} embedded")


def scale(num_chunks: int, dimensions: int, num_queries: int) -> None:
    rng = np.random.default_rng(7)
    words = np.array([f"word{n}" for n in range(20_000)])
    # Words are as frequent as in a natural text without its hundred commonest: one over the rank.
    shares = 1 / np.arange(100, 100 + len(words))
    shares /= shares.sum()

    def text(num_words: int) -> str:
        return " ".join(words[rng.choice(len(words), size=num_words, p=shares)].tolist())

    vectors = rng.normal(size=(num_chunks, dimensions)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with tempfile.TemporaryDirectory() as folder:
        store = IndexStore(Path(folder) / "i.sqlite")
        begun = time.perf_counter()
        for first in range(0, num_chunks, 1_000):
            rows = range(first, min(first + 1_000, num_chunks))
            chunks = [Chunk(text(100), 0, 1) for _ in rows]
            document = Document(f"d{first}", "x", metadata={"shelf": first // 1_000 % 50})
            store.write([EmbeddedDocument(document, "f", chunks, [vectors[row] for row in rows])])
        print(
            f"{num_chunks} chunks x {dimensions}: written in {time.perf_counter() - begun:.1f} s, {store.statistics().file_bytes / 1e6:.0f} MB"
        )
        begun = time.perf_counter()
        store.by_vector(vectors[0], K)
        print(f"first vector query, which reads the matrix: {time.perf_counter() - begun:.2f} s")
        store.close()
        store = IndexStore(Path(folder) / "i.sqlite")
        store.by_vector(vectors[0], K)
        for name, where in (("", None), (" where shelf = 7 (2 %)", {"shelf": 7})):
            spans: dict[str, list[float]] = {"vector": [], "bm25": [], "both": []}
            for _ in range(num_queries):
                query = vectors[rng.integers(num_chunks)]
                question = text(6)
                begun = time.perf_counter()
                store.nearest(query, 50, where)
                middle = time.perf_counter()
                store.matching(question, 50, where)
                end = time.perf_counter()
                spans["vector"].append(middle - begun)
                spans["bm25"].append(end - middle)
                spans["both"].append(end - begun)
            for kind, times in spans.items():
                times.sort()
                p99 = times[int(len(times) * 0.99)]
                print(f"{kind}{name}: p50 {statistics.median(times) * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms", flush=True)
        store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=Path, default=SOURCES)
    parser.add_argument("--folders", nargs="*", default=FOLDERS)
    parser.add_argument("--queries", type=int, default=200, help="at most so many of each kind")
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--skip-quality", action="store_true")
    options = parser.parse_args()
    if not options.skip_quality:
        measure_quality(options.sources, options.folders, options.queries)
    scale(options.chunks, 384, 200)


def measure_quality(sources: Path, folders: Sequence[str], most: int) -> None:
    pages = [read(path, sources) for folder in folders for path in sorted((sources / folder).rglob("*.rst.txt"))]
    documents = [document for document, _ in pages]
    everything = [query for _, queries in pages for query in queries]
    drawn: list[Query] = []
    for kind in ("questions", "headings", "sentences"):
        some = [query for query in everything if query.kind == kind]
        drawn += random.Random(7).sample(some, min(most, len(some)))
    cache = EmbeddingCache()
    with tempfile.TemporaryDirectory() as folder, Index(Path(folder) / "i.sqlite", cache=cache) as index:
        report = index.update(documents, on_progress=lambda done, total: print(f"{done}/{total}", end="\r"))
        held = index.statistics()
        print(
            f"{held.num_documents} pages, {held.num_chunks} chunks, {report.num_embedded} embedded in {report.seconds:.0f} s"
        )
        quality(index, drawn)
        weights(index, drawn)
        incremental(index, documents)
    cache.close()


if __name__ == "__main__":
    main()
