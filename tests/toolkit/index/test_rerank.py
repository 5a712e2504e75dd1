"""Hits in the order of a model that reads question and passage together."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.toolkit.model_endpoints import ThinkingEndpoint

from antiphon import Budget, BudgetExceededError, Document, Index, IndexingError, Report, Rerank

DOCUMENTS = [Document(name, f"A text about {name}.") for name in ("apples", "books", "cats")]


class Server(ThinkingEndpoint):
    """Reranks by how often the text holds the last letter of the question."""

    body: Any = None

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path != "/v1/rerank":
            return super().handle(request)
        asked = json.loads(request.content)
        self.requests.append(("/rerank", asked))
        scores = [text.count(asked["query"][-1]) for text in asked["documents"]]
        results = [{"index": n, "relevance_score": score / 10} for n, score in enumerate(scores)]
        body = {"model": asked["model"], "results": results, "usage": {"total_tokens": 12}}
        return httpx2.Response(200, json=self.body or body)


@pytest.fixture
def server(endpoint: object) -> Server:
    """Of which nothing is remembered yet."""
    return Server()


def opened(server: Server, path: Path, **options: Any) -> Index:
    index = Index(path / "i.sqlite", model="m", client=server.client(), **options)
    index.update(DOCUMENTS)
    return index


def test_a_model_orders_what_the_search_found(server: Server, tmp_path: Path) -> None:
    """Its scores are those of the hits, and its call is in the report."""
    report = Report()
    with opened(server, tmp_path, report=report) as index:
        hits = index.search("text about cats or book", rerank=Rerank("bge-reranker"), limit=2, mode="bm25")
        made = index.answer("text about cats or book", model="m", rerank=Rerank("bge-reranker"))
    assert (len(hits), hits[0].document) == (2, "books")
    assert (hits[0].score, hits[1].score) == (0.1, 0.0)
    assert len(server.sent("/rerank")[0]["documents"]) == 3
    assert server.sent("/rerank")[0]["query"] == "text about cats or book"
    assert report.records[1].usage is not None
    assert (report.records[1].model, report.records[1].usage.total_tokens) == ("bge-reranker", 12)
    assert [hit.score for hit in made.sources] == sorted((hit.score for hit in made.sources), reverse=True)


def test_a_budget_bounds_it_as_well(server: Server, tmp_path: Path) -> None:
    """It is a call like any other."""
    with opened(server, tmp_path):
        pass
    budget = Budget(calls=0)
    with (
        Index(tmp_path / "i.sqlite", model="m", client=server.client(), budget=budget) as index,
        pytest.raises(BudgetExceededError),
    ):
        index.search("books", mode="bm25", rerank=Rerank("bge-reranker"))
    assert server.sent("/rerank") == []


@pytest.mark.parametrize("body", [{"results": []}, {"results": [{"index": 0}]}, {"data": 1}, ["no"]])
def test_an_answer_without_scores_is_refused(server: Server, tmp_path: Path, body: Any) -> None:
    """Nothing is ordered by guesswork."""
    server.body = body
    with opened(server, tmp_path) as index, pytest.raises(IndexingError, match="without a score"):
        index.search("text", mode="bm25", rerank=Rerank("bge-reranker"))


def test_nothing_found_is_not_sent(server: Server, tmp_path: Path) -> None:
    """There is nothing to order."""
    with opened(server, tmp_path) as index:
        assert index.search("zebra", mode="bm25", rerank=Rerank("bge-reranker")) == []
    assert server.sent("/rerank") == []
