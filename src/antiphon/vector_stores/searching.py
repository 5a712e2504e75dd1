"""Search in vector stores: by meaning and by words, in one or several of them, as one ranking."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from antiphon.protocol.vector_stores import Condition, compile_filters
from antiphon.search.fusion import RANK_CONSTANT, fuse
from antiphon.search.index_file import IndexFile, StoredChunk, Vector
from antiphon.search.prefixes import known_prefixes
from antiphon.vector_stores.embedding import StoreEmbedding
from antiphon.vector_stores.indexes import Indexes
from antiphon.vector_stores.ranking import PassageRanker, StoreRanking
from antiphon.vector_stores.records import VectorStore

Json = dict[str, Any]
Ranking = list[tuple[int, float]]
_CANDIDATES_PER_RESULT = 5
_MIN_CANDIDATES = 50


class SearchQuery(msgspec.Struct, frozen=True, kw_only=True):
    """``queries`` are searched together. ``condition`` is on the attributes of files.

    ``ranker`` as in the request. ``none``: by meaning alone, and the score is the cosine. Else the score is the reranker's, or
    without one the fused score as a part of the best possible one.
    """

    queries: tuple[str, ...]
    limit: int = 10
    condition: Condition | None = None
    score_threshold: float = 0.0
    ranker: str = "auto"
    vector_weight: float = 1.0
    word_weight: float = 1.0

    @property
    def uses_words(self) -> bool:
        """Whether the ranking by words counts."""
        return self.ranker != "none"

    @property
    def own_ranker(self) -> Literal["fusion", "cosine"]:
        """What orders the results without a reranker."""
        return "fusion" if self.uses_words else "cosine"


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk that was found; ``text`` is ``start`` to ``end`` of the file's text, in characters. ``score`` is from 0 to 1."""

    vector_store_id: str
    file_id: str
    filename: str
    text: str
    start: int
    end: int
    score: float
    attributes: Mapping[str, Any]


def search_query(body: Json) -> SearchQuery:
    """Return the query of a checked body, of a search or of the tool ``file_search``."""
    given = body["query"]
    ranking: Json = body.get("ranking_options") or {}
    weights: Json = ranking.get("hybrid_search") or {}
    filters = body.get("filters")
    return SearchQuery(
        queries=(given,) if isinstance(given, str) else tuple(given),
        limit=body.get("max_num_results") or 10,
        condition=None if filters is None else compile_filters(filters, "filters", "metadata"),
        score_threshold=ranking.get("score_threshold") or 0.0,
        ranker=ranking.get("ranker") or "auto",
        vector_weight=weights.get("embedding_weight", 1.0),
        word_weight=weights.get("text_weight", 1.0),
    )


class StoreSearch:
    """Searches index files; their vectors and the queries' come from one model for each store.

    ``num_candidates`` chunks are given to a reranker, or as many as the search shows, if these are more.
    """

    def __init__(self, indexes: Indexes, embedding: StoreEmbedding, ranking: StoreRanking, num_candidates: int) -> None:
        self._indexes = indexes
        self._embedding = embedding
        self._ranking = ranking
        self._num_candidates = num_candidates

    async def search(
        self,
        stores: Sequence[VectorStore],
        query: SearchQuery,
        account: str,
        path: str,
        reranker: str | None = None,
    ) -> list[Found]:
        """Return the chunks that answer best, best first. ``ApiError``: of a model, or 500 for an index that is missing."""
        vectors: dict[str, list[Vector]] = {}
        for model in {store.model for store in stores}:
            before = known_prefixes(model).query
            questions = [before + text for text in query.queries]
            vectors[model] = await self._embedding.embed(questions, model, account, path)
        candidates = max(query.limit * _CANDIDATES_PER_RESULT, _MIN_CANDIDATES)
        # A chunk's number here: which of the stores, and its id there.
        places: dict[tuple[int, int], int] = {}
        rankings: list[Ranking] = [[] for _ in range(2 * len(query.queries))]
        for number, store in enumerate(stores):
            own = vectors[store.model]

            def rank(index: IndexFile, own: list[Vector] = own) -> list[Ranking]:
                return _rank(index, query, own, candidates)

            for position, ranking in enumerate(await self._indexes.run(store.id, rank)):
                rankings[position].extend(
                    (places.setdefault((number, chunk), len(places)), score) for chunk, score in ranking
                )
        rankings = [sorted(ranking, key=lambda pair: -pair[1]) for ranking in rankings]
        ranked = _ranked(rankings, query)
        if reranker is not None:
            best = ranked[: max(query.limit, self._num_candidates)]
            found = await self._found(stores, list(places), best)
            found = await self._reranked(found, rankings, query, PassageRanker(self._ranking, reranker, account, path))
        else:
            best = [(place, score) for place, score in ranked[: query.limit] if score >= query.score_threshold]
            found = await self._found(stores, list(places), best)
        return list(found.values())

    async def _reranked(
        self, found: dict[int, Found], rankings: Sequence[Ranking], query: SearchQuery, ranker: PassageRanker
    ) -> dict[int, Found]:
        """Order what was found by the reranker's scores. Each passage is read with the question that ranked it highest."""
        asked: dict[str, list[int]] = {}
        for place, question in _best_questions(rankings, query).items():
            if place in found:
                asked.setdefault(question, []).append(place)
        passages = {
            question: [f"{found[place].filename}\n\n{found[place].text}" for place in group]
            for question, group in asked.items()
        }
        scores = await ranker.scores(passages)
        scored = {
            place: round(score, 6)
            for question, group in asked.items()
            for place, score in zip(group, scores[question], strict=True)
        }
        ordered = sorted(scored, key=lambda place: -scored[place])
        return {
            place: msgspec.structs.replace(found[place], score=scored[place])
            for place in ordered[: query.limit]
            if scored[place] >= query.score_threshold
        }

    async def _found(
        self, stores: Sequence[VectorStore], places: Sequence[tuple[int, int]], ranked: Ranking
    ) -> dict[int, Found]:
        chunks: dict[tuple[int, int], StoredChunk] = {}
        for number, store in enumerate(stores):
            ids = [places[place][1] for place, _ in ranked if places[place][0] == number]
            if ids:
                read = await self._indexes.run(store.id, lambda index, ids=ids: index.chunks(ids))
                chunks |= {(number, chunk): stored for chunk, stored in read.items()}
        return {
            place: _found(stores[places[place][0]], chunks[places[place]], score)
            for place, score in ranked
            if places[place] in chunks
        }


def _rank(index: IndexFile, query: SearchQuery, vectors: Sequence[Vector], candidates: int) -> list[Ranking]:
    """Return for each query the ranking by meaning and the one by words."""
    rankings: list[Ranking] = []
    for text, vector in zip(query.queries, vectors, strict=True):
        rankings.append(index.by_vector(vector, candidates, query.condition))
        rankings.append(index.by_words(text, candidates, query.condition) if query.uses_words else [])
    return rankings


def _ranked(rankings: Sequence[Ranking], query: SearchQuery) -> Ranking:
    """Return one ranking of those of all queries, each best first, with scores from 0 to 1."""
    if not query.uses_words:
        best: dict[int, float] = {}
        for ranking in rankings[::2]:
            for place, score in ranking:
                best[place] = max(best.get(place, 0.0), min(score, 1.0))
        return sorted(best.items(), key=lambda pair: -pair[1])
    weights = [query.vector_weight, query.word_weight] * len(query.queries)
    highest = sum(weights) / (RANK_CONSTANT + 1)
    fused = fuse(*([place for place, _ in ranking] for ranking in rankings), weights=weights)
    return [(place, score / highest if highest else 0.0) for place, score in fused]


def _best_questions(rankings: Sequence[Ranking], query: SearchQuery) -> dict[int, str]:
    """Return for each chunk the query in whose own ranking it stands highest."""
    best: dict[int, tuple[int, str]] = {}
    for number, question in enumerate(query.queries):
        own = msgspec.structs.replace(query, queries=(question,))
        for rank, (place, _) in enumerate(_ranked(rankings[2 * number : 2 * number + 2], own)):
            if place not in best or rank < best[place][0]:
                best[place] = (rank, question)
    return {place: question for place, (_, question) in best.items()}


def _found(store: VectorStore, chunk: StoredChunk, score: float) -> Found:
    return Found(
        vector_store_id=store.id,
        file_id=chunk.document,
        filename=chunk.title,
        text=chunk.text,
        start=chunk.start,
        end=chunk.end,
        score=round(score, 6),
        attributes=chunk.metadata,
    )
