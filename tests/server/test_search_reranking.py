"""``ranking_options.ranker`` in searches and in ``file_search``, over HTTP: which reranker it means, and what it costs."""

import asyncio
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from tests.engine.tiny_models import bert, reranker
from tests.installed import needs_llama
from tests.processes import serving
from tests.server.test_accounts_over_http import new_key
from tests.server.test_file_search import MODEL, says
from tests.server.test_file_search import search as calls_search
from tests.server.test_vector_stores import settled, upload
from tests.serving import Running, running
from tests.waiting import PATIENCE_S

from antiphon.accounts import Limits, Principal
from antiphon.accounts.reports import UsageQuery
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.vector_stores import VectorStoreSettings

QUERY = "how long bread bakes"
TEXTS = {"bread.txt": "bread bakes an hour", "tide.txt": "how long the tide stays", "keeper.txt": "the keeper sleeps"}


def backend(*rerankers: str) -> ScriptedBackend:
    replies = (says("hello", calls_search(QUERY)), says("bakes an hour", text="An hour [1]."))
    return ScriptedBackend(Script(models=(MODEL,), embedding_models=("vectors",), rerankers=rerankers, replies=replies))


def filled(client: openai.OpenAI) -> str:
    store = client.vector_stores.create(name="library")
    for name, text in TEXTS.items():
        client.vector_stores.files.create(store.id, file_id=upload(client, name, text.encode()))
    return settled(client, store.id).id


def found(client: openai.OpenAI, store_id: str, **ranking: Any) -> tuple[str, list[tuple[str, float]]]:
    """Return by what a search says that its results are ordered, and their names and scores."""
    answer = client.vector_stores.with_raw_response.search(
        store_id, query=QUERY, ranking_options=ranking or openai.omit
    )  # type: ignore[arg-type]
    return answer.headers["x-antiphon-ranker"], [(one.filename, one.score) for one in answer.parse().data]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    with running(backend("ranks", "others"), tmp_path_factory.mktemp("home")) as up:
        yield up


@pytest.fixture(scope="module")
def client(server: Running) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="any", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def store_id(client: openai.OpenAI) -> str:
    return filled(client)


RANKED = [("bread.txt", 0.5), ("tide.txt", 0.5), ("keeper.txt", 0.0)]


@pytest.mark.parametrize(
    ("ranking", "ranker"),
    [({}, "ranks"), ({"ranker": "auto"}, "ranks"), ({"ranker": "default-2024-11-15"}, "ranks"), ({"ranker": "others"}, "others")],
)  # fmt: skip
def test_a_search_is_reranked(client: openai.OpenAI, store_id: str, ranking: dict[str, Any], ranker: str) -> None:
    """By the server's reranker unless the request names another; the header says by which."""
    by, results = found(client, store_id, **ranking)
    assert by == ranker
    assert sorted(results) == sorted(RANKED)
    assert [score for _, score in results] == [0.5, 0.5, 0.0]
    assert len(found(client, store_id, **ranking, score_threshold=0.4)[1]) == 2


def test_a_search_without_ranker_keeps_the_cosine(client: openai.OpenAI, store_id: str) -> None:
    """``none`` asks no reranker."""
    by, results = found(client, store_id, ranker="none")
    assert by == "cosine"
    assert len(results) == 3
    assert [score for _, score in results] != [0.5, 0.5, 0.0]


def test_a_ranker_that_is_none_is_refused(client: openai.OpenAI, store_id: str) -> None:
    """With the names that there are; in a search, and for the tool before anything is generated."""
    for wrong in ("best", "vectors", MODEL):
        with pytest.raises(openai.BadRequestError) as caught:
            found(client, store_id, ranker=wrong)
        assert (caught.value.code, caught.value.param) == ("invalid_value", "ranking_options.ranker")
        assert "'ranks'" in caught.value.message
        tool: Any = {"type": "file_search", "vector_store_ids": [store_id], "ranking_options": {"ranker": wrong}}
        with pytest.raises(openai.BadRequestError, match="'ranks'"):
            client.responses.create(model=MODEL, input="hello", tools=[tool])


def test_the_tool_reranks_too(client: openai.OpenAI, store_id: str) -> None:
    """Its threshold is on the reranker's scores."""
    for ranking, names in (({"score_threshold": 0.4}, 2), ({"ranker": "none"}, 3)):
        tool: Any = {"type": "file_search", "vector_store_ids": [store_id], "ranking_options": ranking}
        answer = client.responses.create(model=MODEL, input="hello", tools=[tool], include=["file_search_call.results"])
        results: Any = answer.output[0]
        assert len(results.results) == names


@pytest.mark.parametrize(("rerankers", "setting"), [((), ""), (("ranks",), "none")])
def test_without_a_reranker_the_fused_score_stays(tmp_path: Path, rerankers: tuple[str, ...], setting: str) -> None:
    """As the header says; a reranker that the settings leave out can still be named."""
    with (
        running(backend(*rerankers), tmp_path, vector_stores=VectorStoreSettings(reranker=setting)) as up,
        openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as client,
    ):
        store_id = filled(client)
        by, results = found(client, store_id)
        assert by == "fusion"
        assert [score for _, score in results] != [0.5, 0.5, 0.0]
        if rerankers:
            assert found(client, store_id, ranker="ranks")[0] == "ranks"


def test_reranking_counts_under_the_limits_and_in_the_ledger(tmp_path: Path) -> None:
    """As a request to rank; a key that may not use the reranker gets the server's own order."""
    ours = new_key(tmp_path, Principal(name="ours", limits=Limits(rpm=20)))
    without = new_key(tmp_path, Principal(name="without", models=("vectors",)))
    with (
        running(backend("ranks"), tmp_path) as up,
        openai.OpenAI(base_url=up.url, api_key=ours, max_retries=0) as client,
        openai.OpenAI(base_url=up.url, api_key=without, max_retries=0) as other,
    ):
        assert found(other, filled(other))[0] == "fusion"
        with pytest.raises(openai.BadRequestError):
            found(other, filled(other), ranker="ranks")
        store_id = filled(client)
        assert found(client, store_id)[0] == "ranks"
        query = UsageQuery(kinds=("rerank",), by=("model",))
        report = asyncio.run_coroutine_threadsafe(up.service.accounts.report(query), up.loop).result(PATIENCE_S)
        assert [(total.model, total.num_requests, total.num_failed) for total in report] == [("ranks", 1, 0)]
        assert report[0].prompt_tokens > 0
        for _ in range(19):
            client.post("/rerank", cast_to=object, body={"model": "ranks", "query": "q", "documents": ["d"]})
        with pytest.raises(openai.RateLimitError, match="Rate limit reached for ranks"):
            found(client, store_id)


@needs_llama
def test_a_served_reranker_orders_a_search(tmp_path: Path) -> None:
    """Embedding model and reranker on the real engine: the scores are those of ``/v1/rerank`` for the same texts."""
    reranker(tmp_path / "tiny.gguf")
    bert(tmp_path / "vectors.gguf")
    environment = {
        "ANTIPHON_MODELS_RERANKER": str(tmp_path / "tiny.gguf"),
        "ANTIPHON_MODELS_EMBEDDING": str(tmp_path / "vectors.gguf"),
    }
    with (
        serving(tmp_path, "--model", "none", **environment) as up,
        openai.OpenAI(base_url=up.url, api_key="any", max_retries=0, timeout=PATIENCE_S) as client,
    ):
        store_id = filled(client)
        by, results = found(client, store_id)
        assert by == "tiny"
        body = {
            "model": "tiny",
            "query": QUERY,
            "documents": [f"{name}\n\n{text}" for name, text in TEXTS.items()],
        }
        ranked = httpx.post(f"{up.url}/rerank", json=body, timeout=PATIENCE_S).json()["results"]
        names = list(TEXTS)
        expected = [(names[one["index"]], one["relevance_score"]) for one in ranked]
        assert [name for name, _ in results] == [name for name, _ in expected]
        assert [score for _, score in results] == pytest.approx([score for _, score in expected], abs=1e-4)
