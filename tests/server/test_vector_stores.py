"""Vector stores over HTTP with the official client: what goes in, what a search finds, what is refused, what survives."""

import asyncio
from collections.abc import Generator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.server.test_accounts_over_http import new_key
from tests.serving import Running, running
from tests.waiting import PATIENCE_S, wait_until

from antiphon.accounts import Principal
from antiphon.accounts.reports import UsageQuery
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.protocol.embeddings import EmbeddingRequest, EmbeddingResult
from antiphon.protocol.errors import ApiError
from antiphon.vector_stores import VectorStoreSettings

TEXTS = {
    "whales.txt": "The blue whale is the largest animal. It eats krill in cold seas.",
    "bread.md": "# Bread\n\nKnead the dough of rye flour, then bake it for an hour.",
    "engine.py": "def ignite(engine):\n    return engine.spark('zeppelin')\n",
}
YEARS = {"whales.txt": 2020, "bread.md": 2021, "engine.py": 2022}


def backend() -> ScriptedBackend:
    return ScriptedBackend(Script(models=("gpt-4o-mini",), embedding_models=("vectors",)))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    with running(
        backend(), tmp_path_factory.mktemp("home"), vector_stores=VectorStoreSettings(max_file_bytes=200_000)
    ) as up:
        yield up


@pytest.fixture(scope="module")
def client(server: Running) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="any", max_retries=0) as made:
        yield made


def upload(client: openai.OpenAI, name: str, content: bytes) -> str:
    return client.files.create(file=(name, content), purpose="assistants").id


def settled(client: openai.OpenAI, store_id: str) -> Any:
    wait_until(lambda: client.vector_stores.retrieve(store_id).status == "completed")
    return client.vector_stores.retrieve(store_id)


@pytest.fixture(scope="module")
def store(client: openai.OpenAI) -> Any:
    made = client.vector_stores.create(name="library", metadata={"team": "a"})
    for name, text in TEXTS.items():
        client.vector_stores.files.create(
            made.id, file_id=upload(client, name, text.encode()), attributes={"year": YEARS[name], "name": name}
        )
    return settled(client, made.id)


def names(page: Any) -> list[str]:
    return [one.filename for one in page.data]


def test_a_vector_store_counts_its_files_and_finds_them_by_their_words(client: openai.OpenAI, store: Any) -> None:
    """The file with the words comes first, with its attributes and its text."""
    assert (store.file_counts.completed, store.file_counts.total) == (3, 3)
    assert store.usage_bytes > sum(map(len, TEXTS.values()))
    for query, name in (("krill seas", "whales.txt"), ("knead rye dough", "bread.md"), ("zeppelin", "engine.py")):
        best = client.vector_stores.search(store.id, query=query).data[0]
        assert best.filename == name
        assert best.content[0].text == TEXTS[name].strip()
        assert best.attributes == {"year": YEARS[name], "name": name}
        assert 0 < best.score <= 1
    several = client.vector_stores.search(store.id, query=["krill", "zeppelin"], max_num_results=2)
    assert set(names(several)) == {"whales.txt", "engine.py"}
    assert names(client.vector_stores.search(store.id, query="krill", ranking_options={"score_threshold": 1.0})) in (
        ["whales.txt"],
        [],
    )
    by_meaning = client.vector_stores.search(store.id, query="krill", ranking_options={"ranker": "none"})
    assert len(by_meaning.data) == 3


FILTERS: tuple[tuple[Any, set[str]], ...] = (
    ({"type": "eq", "key": "year", "value": 2021}, {"bread.md"}),
    ({"type": "ne", "key": "year", "value": 2021}, {"whales.txt", "engine.py"}),
    ({"type": "ne", "key": "absent", "value": 1}, set(TEXTS)),
    ({"type": "eq", "key": "year", "value": "2021"}, set()),
    ({"type": "gt", "key": "year", "value": 2020}, {"bread.md", "engine.py"}),
    ({"type": "gte", "key": "year", "value": 2021}, {"bread.md", "engine.py"}),
    ({"type": "lt", "key": "year", "value": 2021.5}, {"whales.txt", "bread.md"}),
    ({"type": "lte", "key": "year", "value": 2020}, {"whales.txt"}),
    ({"type": "in", "key": "name", "value": ["bread.md", "none"]}, {"bread.md"}),
    ({"type": "nin", "key": "name", "value": ["bread.md"]}, {"whales.txt", "engine.py"}),
    (
        {
            "type": "or",
            "filters": [
                {"type": "eq", "key": "name", "value": "engine.py"},
                {
                    "type": "and",
                    "filters": [
                        {"type": "gt", "key": "year", "value": 2019},
                        {"type": "lt", "key": "year", "value": 2021},
                    ],
                },
            ],
        },
        {"whales.txt", "engine.py"},
    ),
    ({"type": "eq", "key": "x' OR 1=1 --", "value": "' OR 1=1 --"}, set()),
)


@pytest.mark.parametrize(("given", "expected"), FILTERS)
def test_a_filter_limits_what_is_found(client: openai.OpenAI, store: Any, given: Any, expected: set[str]) -> None:
    """Comparisons, lists and compounds, also of what a file lacks and of another type."""
    found = client.vector_stores.search(store.id, query="the engine, the whale and the bread", filters=given)
    assert set(names(found)) == expected


REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"query": ""}, "empty_string"),
    ({"query": "x", "rewrite_query": True}, "unsupported_value"),
    ({"query": "x", "max_num_results": 51}, "integer_above_max_value"),
    ({"query": "x", "filters": {"type": "like", "key": "a", "value": 1}}, "invalid_value"),
    ({"query": "x", "filters": {"type": "gt", "key": "a", "value": True}}, "invalid_type"),
    ({"query": "x", "filters": {"type": "in", "key": "a", "value": 1}}, "invalid_type"),
    ({"query": "x", "filters": {"type": "and", "filters": []}}, "empty_array"),
    ({"query": "x", "filters": {"type": "eq", "key": "a", "value": 2**64}}, "invalid_value"),
    ({"query": "x", "ranking_options": {"ranker": "best"}}, "invalid_value"),
    ({"query": "x", "limit": 3}, "unknown_parameter"),
)


@pytest.mark.parametrize(("body", "code"), REFUSED)
def test_a_search_that_cannot_be_done_is_refused(
    client: openai.OpenAI, store: Any, body: dict[str, Any], code: str
) -> None:
    """Each with OpenAI's code."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.post(f"/vector_stores/{store.id}/search", cast_to=object, body=body)
    assert caught.value.code == code


def test_filters_nested_without_end_are_refused(client: openai.OpenAI, store: Any) -> None:
    """Depth is bounded before anything is compiled."""
    deep: Any = {"type": "eq", "key": "a", "value": 1}
    for _ in range(50):
        deep = {"type": "and", "filters": [deep]}
    with pytest.raises(openai.BadRequestError, match="levels deep"):
        client.vector_stores.search(store.id, query="x", filters=deep)


def test_a_file_that_cannot_be_read_fails_with_its_reason(client: openai.OpenAI) -> None:
    """Others in the same batch are read; a batch counts both."""
    store = client.vector_stores.create(name="mixed")
    given = {
        "good.txt": b"fine",
        "empty.txt": b"   \n",
        "binary.txt": b"a\0b",
        "latin.txt": "caf\xe9".encode("latin-1"),
        "picture.png": b"\x89PNG",
        "big.txt": b"x" * 200_001,
        "bad.pdf": b"%PDF-1.7 nothing",
        "../../etc/passwd": b"a name is no path",
    }
    ids = {name: upload(client, name, content) for name, content in given.items()}
    batch = client.vector_stores.file_batches.create_and_poll(
        store.id, file_ids=list(ids.values()), poll_interval_ms=50
    )
    assert (batch.status, batch.file_counts.completed, batch.file_counts.failed) == ("completed", 2, 6)
    failed = client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id, filter="failed")
    codes = {file.id: file.last_error.code for file in failed.data if file.last_error}
    assert {name: codes.get(ids[name]) for name in given} == {
        "good.txt": None,
        "empty.txt": "invalid_file",
        "binary.txt": "unsupported_file",
        "latin.txt": "unsupported_file",
        "picture.png": "unsupported_file",
        "big.txt": "invalid_file",
        "bad.pdf": "invalid_file",
        "../../etc/passwd": None,
    }


def test_the_content_of_a_file_is_its_text_once(client: openai.OpenAI) -> None:
    """Chunks overlap, and the content says nothing twice."""
    words = " ".join(f"word{number}." for number in range(600))
    file_id = upload(client, "long.txt", words.encode())
    strategy: Any = {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 50}}
    store = client.vector_stores.create(file_ids=[file_id], chunking_strategy=strategy)
    settled(client, store.id)
    file = client.vector_stores.files.retrieve(file_id, vector_store_id=store.id)
    assert file.chunking_strategy is not None
    assert file.chunking_strategy.to_dict() == strategy
    texts = [part.text or "" for part in client.vector_stores.files.content(file_id, vector_store_id=store.id)]
    assert len(texts) > 5
    assert " ".join("".join(texts).split()).replace(" ", "") == words.replace(" ", "")


def test_attributes_change_what_a_filter_finds(client: openai.OpenAI) -> None:
    """At once, without reading the file anew."""
    file_id = upload(client, "a.txt", b"some words")
    store = client.vector_stores.create(file_ids=[file_id])
    settled(client, store.id)
    wanted: Any = {"type": "eq", "key": "colour", "value": "red"}
    assert names(client.vector_stores.search(store.id, query="words", filters=wanted)) == []
    changed = client.vector_stores.files.update(file_id, vector_store_id=store.id, attributes={"colour": "red"})
    assert changed.attributes == {"colour": "red"}
    assert names(client.vector_stores.search(store.id, query="words", filters=wanted)) == ["a.txt"]


def test_a_deleted_file_is_found_no_more(client: openai.OpenAI) -> None:
    """Whether it is taken out of the store, or deleted altogether."""
    ids = [upload(client, f"{name}.txt", b"the same words") for name in ("kept", "removed", "deleted")]
    store = client.vector_stores.create(file_ids=ids)
    settled(client, store.id)
    assert client.vector_stores.files.delete(ids[1], vector_store_id=store.id).deleted
    assert client.files.delete(ids[2]).deleted
    assert names(client.vector_stores.search(store.id, query="words")) == ["kept.txt"]
    assert client.vector_stores.retrieve(store.id).file_counts.total == 1
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.files.retrieve(ids[1], vector_store_id=store.id)


def test_a_store_is_changed_and_deleted_and_then_gone(client: openai.OpenAI, server: Running) -> None:
    """Its index file goes with it; its files stay."""
    file_id = upload(client, "a.txt", b"words")
    expiry: Any = {"anchor": "last_active_at", "days": 7}
    store = client.vector_stores.create(name="old", file_ids=[file_id], expires_after=expiry)
    settled(client, store.id)
    changed = client.vector_stores.update(store.id, name="new", metadata={"a": "b"})
    assert (changed.name, changed.metadata, changed.status) == ("new", {"a": "b"}, "completed")
    assert changed.last_active_at is not None
    assert changed.expires_at == changed.last_active_at + 7 * 86_400
    assert store.id in [one.id for one in client.vector_stores.list(limit=1)]
    assert client.vector_stores.delete(store.id).deleted
    for gone in (client.vector_stores.retrieve, client.vector_stores.delete):
        with pytest.raises(openai.NotFoundError):
            gone(store.id)
    assert client.files.retrieve(file_id).id == file_id


def test_lists_come_in_pages_in_both_directions(client: openai.OpenAI, store: Any) -> None:
    """Every file once; a cursor that names none is refused."""
    every = [file.id for file in client.vector_stores.files.list(store.id, limit=1)]
    assert len(every) == 3
    assert [file.id for file in client.vector_stores.files.list(store.id, order="asc", limit=2)] == every[::-1]
    assert [file.id for file in client.vector_stores.files.list(store.id, before=every[2]).data] == every[:2]
    with pytest.raises(openai.BadRequestError):
        client.vector_stores.files.list(store.id, after="file-none")


def test_the_vectors_are_in_the_ledger(client: openai.OpenAI, server: Running) -> None:
    """Tokens of the file and of the query, as embeddings."""

    def tokens() -> int:
        query = UsageQuery(kinds=("embedding",))
        report = asyncio.run_coroutine_threadsafe(server.service.accounts.report(query), server.loop).result(PATIENCE_S)
        return sum(total.prompt_tokens for total in report)

    before = tokens()
    store = client.vector_stores.create(file_ids=[upload(client, "a.txt", b"one two three four five")])
    settled(client, store.id)
    between = tokens()
    client.vector_stores.search(store.id, query="three")
    assert before < between < tokens()


def test_a_store_of_another_key_does_not_exist(tmp_path: Path) -> None:
    """Neither for reading nor for a search, nor does another's file."""
    keys = [new_key(tmp_path, Principal(name=name)) for name in ("mine", "other")]
    with (
        running(backend(), tmp_path) as up,
        openai.OpenAI(base_url=up.url, api_key=keys[0], max_retries=0) as mine,
        openai.OpenAI(base_url=up.url, api_key=keys[1], max_retries=0) as other,
    ):
        store = mine.vector_stores.create(name="private")
        file_id = upload(mine, "a.txt", b"x")
        for ask in (
            lambda: other.vector_stores.retrieve(store.id),
            lambda: other.vector_stores.search(store.id, query="x"),
            lambda: other.vector_stores.files.create(store.id, file_id=file_id),
            lambda: other.vector_stores.delete(store.id),
        ):
            with pytest.raises(openai.NotFoundError):
                ask()
        with pytest.raises(openai.BadRequestError, match="No such File"):
            other.vector_stores.create(file_ids=[file_id])
        assert other.vector_stores.list().data == []


def test_a_server_without_an_embedding_model_says_so(tmp_path: Path) -> None:
    """Before anything is kept."""
    with (
        running(ScriptedBackend(Script(models=("m",), embedding_models=())), tmp_path) as up,
        openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as client,
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.vector_stores.create()
        assert caught.value.code == "no_embedding_model"
        assert client.vector_stores.list().data == []


def test_files_are_read_after_a_restart(tmp_path: Path) -> None:
    """What was in progress when the server ended is taken up again, and what was there is found."""
    with (
        running(backend(), tmp_path) as up,
        openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as client,
    ):
        up.loop.call_soon_threadsafe(up.service.storage.vector_stores.ingestion._tasks[0].cancel)
        store = client.vector_stores.create(file_ids=[upload(client, "a.txt", b"words of the first run")])
        assert client.vector_stores.retrieve(store.id).status == "in_progress"
    with (
        running(backend(), tmp_path) as up,
        openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as client,
    ):
        settled(client, store.id)
        assert names(client.vector_stores.search(store.id, query="words")) == ["a.txt"]


@pytest.mark.parametrize(
    "fault",
    [
        ApiError(429, "Slow down.", code="rate_limit_exceeded"),
        ApiError(503, "The model is loading."),
        ApiError(502, "The upstream is away."),
    ],
    ids=lambda fault: str(fault.status),
)
def test_a_file_waits_while_the_model_has_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: ApiError
) -> None:
    """It is read once the model answers; a passing failure is not the file's."""
    for name in ("_RETRY_S", "LOOK_EVERY_S"):
        monkeypatch.setattr(f"antiphon.vector_stores.ingestion.{name}", 0.01)
    faults = [fault, fault]
    made = backend()
    embed = made.embed

    async def fails_first(request: EmbeddingRequest) -> EmbeddingResult:
        if faults:
            raise faults.pop()
        return await embed(request)

    made.embed = fails_first  # type: ignore[method-assign]
    with running(made, tmp_path) as up, openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as client:
        store_id = client.vector_stores.create(name="library").id
        client.vector_stores.files.create(store_id, file_id=upload(client, "a.txt", b"The blue whale."))
        counts = settled(client, store_id).file_counts
        assert (counts.completed, counts.failed) == (1, 0)
        assert not faults


def test_a_file_that_waits_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one behind it is read, although the first is older."""
    for name in ("_RETRY_S", "LOOK_EVERY_S"):
        monkeypatch.setattr(f"antiphon.vector_stores.ingestion.{name}", 0.2)
    made = backend()
    embed = made.embed

    async def fails_for_whales(request: EmbeddingRequest) -> EmbeddingResult:
        if any("whale" in str(text) for text in request.inputs):
            raise ApiError(503, "The model is loading.")
        return await embed(request)

    made.embed = fails_for_whales  # type: ignore[method-assign]
    with running(made, tmp_path) as up, openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as client:
        store_id = client.vector_stores.create(name="library").id
        for name, text in (("a.txt", b"The blue whale."), ("b.txt", b"Rye bread.")):
            client.vector_stores.files.create(store_id, file_id=upload(client, name, text))
        wait_until(lambda: client.vector_stores.retrieve(store_id).file_counts.completed == 1)
        assert client.vector_stores.retrieve(store_id).file_counts.in_progress == 1
