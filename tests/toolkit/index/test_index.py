"""The index against the real server: what an update touches, what a search finds, what an answer cites."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from pathlib import Path

import numpy as np
import openai
import pytest
from tests.serving import running
from tests.toolkit.short_backend import CHAT, ShortBackend

from antiphon.search.chunking import Chunking
from antiphon.toolkit.errors import FilterError, IndexingError, OutputError
from antiphon.toolkit.index import Document, Index, read_folder
from antiphon.toolkit.index.store import EmbeddedDocument, IndexStore

SMALL = Chunking(tokens=24, overlap=4)


@pytest.fixture(scope="module")
def backend() -> ShortBackend:
    return ShortBackend(limit=400)


@pytest.fixture(scope="module")
def client(backend: ShortBackend, tmp_path_factory: pytest.TempPathFactory) -> Generator[openai.OpenAI]:
    home = tmp_path_factory.mktemp("home")
    with running(backend, home) as up, openai.OpenAI(base_url=up.url, api_key="any") as made:
        yield made


@pytest.fixture
def index(client: openai.OpenAI, tmp_path: Path) -> Generator[Index]:
    with Index(tmp_path / "i.sqlite", client=client, chunking=SMALL) as made:
        yield made


def document(name: str, topic: str, **metadata: object) -> Document:
    text = "\n\n".join(f"Paragraph {n} of {name} tells of {topic} and of many other things besides." for n in range(4))
    return Document(name, text, title=name.title(), metadata=metadata)


FRUIT = [
    document("apples", "orchards", color="red", year=2019),
    document("bananas", "plantations", color="yellow", year=2021),
    document("cherries", "blossoms", color="red", year=2023),
]


def test_only_what_changed_is_embedded_again(index: Index, backend: ShortBackend) -> None:
    """An unchanged collection costs no call; a changed document only its new chunks; metadata none."""
    first = index.update(FRUIT)
    held = index.statistics()
    assert (first.num_added, first.num_embedded) == (3, held.num_chunks)
    assert held.dimensions is not None
    assert held.file_bytes > 4 * held.dimensions * held.num_chunks
    num_inputs = len(backend.inputs)
    assert index.update(FRUIT).num_unchanged == 3
    assert len(backend.inputs) == num_inputs
    longer = Document(
        "apples", FRUIT[0].text + "\n\nA last word on cider.", title="Apples", metadata={"color": "green"}
    )
    report = index.update([longer, *FRUIT[1:]])
    assert (report.num_changed, report.num_unchanged) == (1, 2)
    assert report.num_embedded == len(backend.inputs) - num_inputs <= 2
    assert report.num_reused > 0
    retagged = Document("apples", longer.text, title="Apples", metadata={"color": "blue"})
    assert index.update([retagged]).num_embedded == 0
    assert index.search("cider", mode="bm25", where={"color": "blue"})[0].document == "apples"


def test_deletions_follow(index: Index) -> None:
    """A document that left the collection is neither found by words nor by meaning."""
    index.update(FRUIT)
    assert index.update(FRUIT[:2], delete_missing=True).num_deleted == 1
    assert index.search("blossoms", mode="bm25") == []
    assert "cherries" not in {hit.document for hit in index.search("blossoms", limit=50)}
    assert index.delete(["apples", "apples", "nobody"]) == 1
    assert index.statistics().num_documents == 1


def test_a_hit_is_a_place_in_its_document(index: Index) -> None:
    """The span of a hit cuts its text out of the document."""
    index.update(FRUIT)
    for hit in index.search("plantations", limit=20):
        original = next(d for d in FRUIT if d.id == hit.document)
        assert original.text[hit.start : hit.end] == hit.text


def test_the_nearest_by_meaning_is_found(index: Index) -> None:
    """A chunk's own text is its nearest neighbour, and hybrid search tells both ranks."""
    index.update(FRUIT)
    some = index.search("orchards", mode="bm25")[0]
    question = f"{some.title}\n\n{some.text}"
    best = index.search(question, mode="vector")[0]
    assert (best.text, best.vector_rank) == (some.text, 1)
    assert best.score == pytest.approx(1.0, abs=1e-3)
    both = index.search(question)[0]
    assert (both.vector_rank, both.bm25_rank) == (1, 1)


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ({"color": "red"}, {"apples", "cherries"}),
        ({"year": {"$gte": 2021}}, {"bananas", "cherries"}),
        ({"year": {"$gt": 2019, "$lt": 2023}}, {"bananas"}),
        ({"color": {"$in": ["yellow", "blue"]}}, {"bananas"}),
        ({"color": {"$ne": "red"}}, {"bananas"}),
        ({"$or": [{"color": "yellow"}, {"year": 2019}]}, {"apples", "bananas"}),
        ({"color": "red", "year": {"$lte": 2020}}, {"apples"}),
        ({"size": {"$exists": False}}, {"apples", "bananas", "cherries"}),
        ({"size": 3}, set()),
    ],
)
@pytest.mark.parametrize("mode", ["hybrid", "vector", "bm25"])
def test_filters_hold_in_every_mode(index: Index, where: dict[str, object], found: set[str], mode: str) -> None:
    """Only documents that satisfy the filter are candidates, whichever ranking brings them."""
    index.update(FRUIT)
    assert {hit.document for hit in index.search("paragraph things", limit=50, where=where, mode=mode)} == found  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("where", "wrong"),
    [
        ({"year": {"$near": 1}}, "where\\['year'\\]\\['\\$near'\\]: Unknown operator"),
        ({"$and": []}, "Unknown operator"),
        ({"color": ["red"]}, "can be compared with"),
        ({"color": {"$in": "red"}}, "wants a list"),
        ({'a"b': 1}, "quotation mark"),
        ({"a\\b": 1}, "backslash"),
        ({"a\nb": 1}, "control character"),
        ({"a\0b": 1}, "control character"),
    ],
)
def test_a_filter_that_is_not_understood_is_refused(index: Index, where: dict[str, object], wrong: str) -> None:
    """A mistyped filter never means "everything" or "nothing"."""
    index.update(FRUIT[:1])
    with pytest.raises(FilterError, match=wrong):
        index.search("x", where=where)


def test_a_question_of_odd_signs_is_harmless(index: Index) -> None:
    """What has a meaning in the full-text language is only text here."""
    index.update(FRUIT[:1])
    for question in ('orchards" OR "x', "NEAR(a b)", "title:apples*", "-", "'; DROP TABLE chunks; --", "日本語"):
        index.search(question)
    assert index.search('"orchards" -zzz', mode="bm25")


def test_another_model_is_refused(index: Index, client: openai.OpenAI, tmp_path: Path) -> None:
    """Vectors of two models are never mixed in one index."""
    with pytest.raises(IndexingError, match="made with model 'text-embedding-3-small'"):
        Index(tmp_path / "i.sqlite", client=client, chunking=SMALL, model="other")


def test_a_file_that_is_no_index_is_refused(client: openai.OpenAI, tmp_path: Path) -> None:
    """The message says so, and the file stays."""
    (tmp_path / "note.txt").write_text("not a database, but long enough to be read as one " * 40)
    with pytest.raises(IndexingError, match="is not an index"):
        Index(tmp_path / "note.txt", client=client)


def test_a_chunk_too_long_for_the_model_is_cut_again(tmp_path: Path) -> None:
    """Where the model's tokenizer counts more than ours, the chunk is halved until it fits, and nothing is lost."""
    text = " ".join(f"word{n}" for n in range(300))
    with (
        running(ShortBackend(limit=20), tmp_path) as up,
        openai.OpenAI(base_url=up.url, api_key="any") as client,
        Index(tmp_path / "i.sqlite", client=client, chunking=Chunking(tokens=256, overlap=0)) as index,
    ):
        index.update([Document("d", text)])
        hits = index.search("word0", limit=500, mode="vector")
    found = {word for hit in hits for word in hit.text.split()}
    assert found == set(text.split())
    assert all(text[hit.start : hit.end] == hit.text for hit in hits)


def test_an_answer_names_its_places(index: Index) -> None:
    """The echoing model repeats the prompt, so it cites every source and one that is not there is told apart."""
    index.update(FRUIT)
    made = index.answer("What of orchards? [99]", model=CHAT, num_sources=3)
    assert [c.number for c in made.citations] == [1, 2, 3]
    assert made.citations[0].hit == made.sources[0]
    assert made.unknown_marks == (99,)
    assert made.saving is not None
    assert made.saving.prompt_tokens > 0
    assert made.cost is None


def test_an_answer_without_sources_is_refused(index: Index) -> None:
    """With nothing to rest on, no model is asked."""
    with pytest.raises(OutputError, match="Nothing in the index"):
        index.answer("anything", model=CHAT)


def test_a_kill_leaves_documents_whole(tmp_path: Path) -> None:
    """A connection that dies inside a write leaves the file as it was before, words and vectors alike."""
    path = tmp_path / "i.sqlite"
    store = IndexStore(path)
    chunks = SMALL.chunks("one two three")
    vectors = [np.ones(4, dtype=np.float32) / 2 for _ in chunks]
    store.write([EmbeddedDocument(Document("a", "one two three"), "f", chunks, vectors)])
    with pytest.raises(ValueError, match="zip"):
        store.write(
            [
                EmbeddedDocument(Document("a", "changed"), "g", chunks, []),
                EmbeddedDocument(Document("b", "x"), "h", [], []),
            ]
        )
    assert list(store.fingerprints()) == ["a"]
    assert store.fingerprints()["a"][0] == "f"
    assert len(store.by_words("two", 5)) == 1
    store.close()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_another_process_s_changes_are_seen(tmp_path: Path) -> None:
    """A second connection to the file writes; the first finds it by meaning at once."""
    first, second = IndexStore(tmp_path / "i.sqlite"), IndexStore(tmp_path / "i.sqlite")
    vector = np.array([1.0, 0.0], dtype=np.float32)
    assert first.by_vector(vector, 5) == []
    second.write([EmbeddedDocument(Document("a", "text"), "f", SMALL.chunks("text"), [vector])])
    assert len(first.by_vector(vector, 5)) == 1
    first.close()
    second.close()


def test_a_folder_becomes_documents(tmp_path: Path) -> None:
    """Text files are read with a title and metadata; hidden and foreign ones are left out."""
    (tmp_path / "guide").mkdir()
    (tmp_path / "guide" / "start.md").write_text("# Getting started\n\nHello.")
    (tmp_path / "notes.txt").write_text("Just notes")
    (tmp_path / ".hidden.md").write_text("no")
    (tmp_path / "picture.png").write_bytes(b"\x89")
    found = {d.id: d for d in read_folder(tmp_path)}
    assert list(found) == ["guide/start.md", "notes.txt"]
    assert found["guide/start.md"].title == "Getting started"
    assert found["guide/start.md"].metadata == {"folder": "guide", "suffix": ".md"}
    assert found["guide/start.md"].syntax == "markdown"


def test_common_words_are_passed_over_in_large_collections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a question's words would have most of a collection scored, the rarest decide."""
    store = IndexStore(tmp_path / "i.sqlite")
    vector = np.array([1.0], dtype=np.float32)
    texts = ["common"] * 20 + ["common rare"]
    store.write(
        [EmbeddedDocument(Document(f"d{n}", text), "f", SMALL.chunks(text), [vector]) for n, text in enumerate(texts)]
    )
    assert len(store.by_words("common rare", 50)) == 21
    monkeypatch.setattr("antiphon.search.index_file.MAX_SCORED", 5)
    assert len(store.by_words("common rare", 50)) == 1
    assert len(store.by_words("common", 50)) == 21
    assert store.by_words("absent", 50) == []
    store.close()
