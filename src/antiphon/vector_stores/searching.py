"""Search in vector stores: by meaning and by words, in one or several of them, as one ranking."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from antiphon.protocol.vector_stores import Condition, compile_filters
from antiphon.search.fusion import RANK_CONSTANT, fuse
from antiphon.search.index_file import IndexFile, StoredChunk, Vector
from antiphon.search.prefixes import known_prefixes
from antiphon.vector_stores.embedding import StoreEmbedding
from antiphon.vector_stores.indexes import Indexes
from antiphon.vector_stores.records import VectorStore

Json = dict[str, Any]
Ranking = list[tuple[int, float]]
_CANDIDATES_PER_RESULT = 5
_MIN_CANDIDATES = 50


class SearchQuery(msgspec.Struct, frozen=True, kw_only=True):
    """``queries`` are searched together. ``condition`` is on the attributes of files.

    ``uses_words`` False: by meaning alone, for ``ranker: none``; the score is then the cosine. Else it is the fused score as a
    part of the best possible one.
    """

    queries: tuple[str, ...]
    limit: int = 10
    condition: Condition | None = None
    score_threshold: float = 0.0
    uses_words: bool = True
    vector_weight: float = 1.0
    word_weight: float = 1.0


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
        uses_words=ranking.get("ranker") != "none",
        vector_weight=weights.get("embedding_weight", 1.0),
        word_weight=weights.get("text_weight", 1.0),
    )


class StoreSearch:
    """Searches index files; their vectors and the queries' come from one model for each store."""

    def __init__(self, indexes: Indexes, embedding: StoreEmbedding) -> None:
        self._indexes = indexes
        self._embedding = embedding

    async def search(self, stores: Sequence[VectorStore], query: SearchQuery, account: str, path: str) -> list[Found]:
        """Return the chunks that answer best, best first. ``ApiError``: of the model, or 500 for an index that is missing."""
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
        ranked = _ranked(rankings, query)[: query.limit]
        return await self._found(stores, list(places), ranked)

    async def _found(
        self, stores: Sequence[VectorStore], places: Sequence[tuple[int, int]], ranked: Ranking
    ) -> list[Found]:
        chunks: dict[tuple[int, int], StoredChunk] = {}
        for number, store in enumerate(stores):
            ids = [places[place][1] for place, _ in ranked if places[place][0] == number]
            if ids:
                read = await self._indexes.run(store.id, lambda index, ids=ids: index.chunks(ids))
                chunks |= {(number, chunk): stored for chunk, stored in read.items()}
        return [
            _found(stores[places[place][0]], chunks[places[place]], score)
            for place, score in ranked
            if places[place] in chunks
        ]


def _rank(index: IndexFile, query: SearchQuery, vectors: Sequence[Vector], candidates: int) -> list[Ranking]:
    """Return for each query the ranking by meaning and the one by words."""
    rankings: list[Ranking] = []
    for text, vector in zip(query.queries, vectors, strict=True):
        rankings.append(index.by_vector(vector, candidates, query.condition))
        rankings.append(index.by_words(text, candidates, query.condition) if query.uses_words else [])
    return rankings


def _ranked(rankings: Sequence[Ranking], query: SearchQuery) -> Ranking:
    """Return one ranking with scores from 0 to 1."""
    ordered = [sorted(ranking, key=lambda pair: -pair[1]) for ranking in rankings]
    if not query.uses_words:
        best: dict[int, float] = {}
        for ranking in ordered[::2]:
            for place, score in ranking:
                best[place] = max(best.get(place, 0.0), min(score, 1.0))
        merged = sorted(best.items(), key=lambda pair: -pair[1])
    else:
        weights = [query.vector_weight, query.word_weight] * len(query.queries)
        highest = sum(weights) / (RANK_CONSTANT + 1)
        fused = fuse(*([place for place, _ in ranking] for ranking in ordered), weights=weights)
        merged = [(place, score / highest if highest else 0.0) for place, score in fused]
    return [(place, score) for place, score in merged if score >= query.score_threshold]


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
