"""What a search needs of a reranker, which the server gives; and how the best candidates of a search are ranked with it."""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from antiphon.protocol.errors import ApiError
from antiphon.vector_stores.embedding import halves, is_too_long


class StoreRanking(Protocol):
    """Says how relevant passages are for a question, and counts it under the account that it is for."""

    async def reranker(self, ranker: str, account: str, param: str) -> str | None:
        """Return the model that ``ranker`` of a request means: ``auto`` and OpenAI's names mean the server's own reranker.

        None: ``ranker`` is ``none``, or there is no reranker that the account may use. ``ApiError`` 400 with ``param`` for a
        name that means nothing here.
        """
        ...

    async def relevance(
        self, question: str, passages: Sequence[str], model: str, account: str, path: str
    ) -> Sequence[float]:
        """Return a number for each passage, larger for a more relevant one. ``path`` is for the usage row. ``ApiError``."""
        ...


class PassageRanker:
    """Ranks the passages of one search. A passage that the model cannot hold counts as its most relevant part."""

    def __init__(self, ranking: StoreRanking, model: str, account: str, path: str) -> None:
        self._ranking = ranking
        self._model = model
        self._account = account
        self._path = path

    async def scores(self, passages: Mapping[str, Sequence[str]]) -> dict[str, list[float]]:
        """Return a score from 0 to 1 for each passage of each question."""
        found = {question: await self._relevance(question, texts) for question, texts in passages.items()}
        if all(0.0 <= score <= 1.0 for scores in found.values() for score in scores):
            return found
        # Some servers answer the model's bare output, of which the probability is the sigmoid.
        return {question: [_sigmoid(score) for score in scores] for question, scores in found.items()}

    async def _relevance(self, question: str, passages: Sequence[str]) -> list[float]:
        try:
            return list(await self._ranking.relevance(question, passages, self._model, self._account, self._path))
        except ApiError as error:
            if not is_too_long(error):
                raise
            if len(passages) > 1:
                middle = len(passages) // 2
                first = await self._relevance(question, passages[:middle])
                return first + await self._relevance(question, passages[middle:])
            parts = halves(passages[0])
            if not parts:
                raise  # not even a word fits with the question
        return [max(await self._relevance(question, parts))]


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
