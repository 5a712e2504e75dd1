"""A search whose best candidates a reranker reads: what it reads, in which order results come, and with which scores."""

import pytest
from tests.vector_stores.world import ACCOUNT, GatedEmbedding, WordRanking, World, query, read_all

from antiphon.vector_stores import Found, SearchQuery, VectorStore, VectorStores

pytestmark = pytest.mark.anyio
TEXTS = {
    "near.txt": "a lamp",
    "far.txt": "a long text that says at its end what the lamp of the keeper cost",
    "off.txt": "the tide comes in",
}


async def filled(world: World, texts: dict[str, str] = TEXTS, **settings: int) -> tuple[VectorStores, VectorStore]:
    ranking = WordRanking()
    server = world.server(GatedEmbedding(), ranking, **settings)
    store = await server.create(ACCOUNT, {})
    files = [await world.file(text.encode(), name=name) for name, text in texts.items()]
    await server.table.add_files(store, files)
    await read_all(server)
    return server, store


async def search(server: VectorStores, store: VectorStore, asked: SearchQuery) -> list[Found]:
    reranker = await server.ranking.reranker(asked.ranker, ACCOUNT, "ranker")
    return await server.search([store], asked, ACCOUNT, "/v1/test", reranker)


def ranking_of(server: VectorStores) -> WordRanking:
    assert isinstance(server.ranking, WordRanking)
    return server.ranking


async def test_results_come_in_the_rerankers_order_with_its_scores(world: World) -> None:
    """Logits become probabilities; the threshold is on these, and a search without reranker keeps its own order and scores."""
    server, store = await filled(world)
    found = await search(server, store, query("lamp keeper cost"))
    assert [one.filename for one in found] == ["far.txt", "near.txt", "off.txt"]
    assert found[0].score == pytest.approx(0.982, abs=1e-3)
    assert found[2].score == pytest.approx(0.018, abs=1e-3)
    best = await search(server, store, query("lamp keeper cost", ranking_options={"score_threshold": 0.9}))
    assert [one.filename for one in best] == ["far.txt"]
    asked = len(ranking_of(server).asked)
    plain = await search(server, store, query("lamp keeper cost", ranking_options={"ranker": "none"}))
    assert len(plain) == 3
    assert len(ranking_of(server).asked) == asked


async def test_scores_that_are_probabilities_stay_as_they_are(world: World) -> None:
    """They are what the model says, and what a threshold was chosen by."""
    server, store = await filled(world)
    ranking_of(server).are_logits = False
    found = await search(server, store, query("lamp keeper cost price"))
    assert [one.score for one in found] == [0.75, 0.25, 0.0]


async def test_only_the_best_candidates_are_read(world: World) -> None:
    """As many as the setting says, or as many as are shown, if these are more."""
    texts = {f"{number}.txt": f"lamp number {number}" for number in range(12)}
    server, store = await filled(world, texts, rerank_candidates=5)
    for limit, num_read in ((2, 5), (8, 8), (50, 12)):
        ranking_of(server).asked.clear()
        found = await search(server, store, query("lamp", max_num_results=limit))
        [(question, passages)] = ranking_of(server).asked
        assert (question, len(passages), len(found)) == ("lamp", num_read, min(limit, num_read))


async def test_each_passage_is_read_with_the_query_that_found_it_best(world: World) -> None:
    """Several queries cost no more than one: no passage is read twice."""
    server, store = await filled(world)
    found = await search(server, store, query("ignored", query=["keeper cost", "tide comes"]))
    asked = dict(ranking_of(server).asked)
    assert sum(map(len, asked.values())) == 3
    assert any("tide" in passage for passage in asked["tide comes"])
    assert any("keeper" in passage for passage in asked["keeper cost"])
    assert {one.filename for one in found[:2]} == {"far.txt", "off.txt"}


async def test_a_passage_that_is_too_long_counts_as_its_best_part(world: World) -> None:
    """It is cut where it pauses; its end, where the words are, decides."""
    server, store = await filled(world)
    ranking_of(server).most_chars = 40
    found = await search(server, store, query("keeper cost"))
    assert found[0].filename == "far.txt"
    assert found[0].score == pytest.approx(0.982, abs=1e-3)
    assert max(len(passage) for _, passages in ranking_of(server).asked for passage in passages) <= 40
