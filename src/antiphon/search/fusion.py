"""Two rankings into one: reciprocal rank fusion (Cormack, Clarke, Buettcher, 2009)."""

from __future__ import annotations

from collections.abc import Sequence

# The paper's constant: how slowly a lower rank counts less.
RANK_CONSTANT = 60


def fuse(*rankings: Sequence[int], weights: Sequence[float] | None = None) -> list[tuple[int, float]]:
    """Return ids with their fused scores, best first: the sum of ``weight / (60 + rank)`` over the rankings.

    Needs no scores, so cosines and BM25 values need no common scale. Ties keep the order of the first ranking.
    """
    scores: dict[int, float] = {}
    for ranking, weight in zip(rankings, weights or [1.0] * len(rankings), strict=True):
        for rank, item in enumerate(ranking, 1):
            scores[item] = scores.get(item, 0.0) + weight / (RANK_CONSTANT + rank)
    return sorted(scores.items(), key=lambda pair: -pair[1])
