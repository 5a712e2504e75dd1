"""Means with intervals, and whether a difference is more than noise.

Intervals hold with 95 %. For scores that are only 0 and 1 they are Wilson's (1927), which stay inside 0 and 1 and have a
width even if every score is the same; for others Student's. A difference is tested case by case with random flips of its
sign (a permutation test), which assumes nothing of how scores are distributed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

_CONFIDENCE = 0.95
_Z = NormalDist().inv_cdf(0.5 + _CONFIDENCE / 2)
_FLIPS = 10_000
_SEED = 20261128


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over ``n`` cases, and the interval that has the true one with 95 %."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_of(values: Sequence[float]) -> Mean:
    """Return the mean of scores from 0 to 1; without any, the interval is all there is."""
    n = len(values)
    if n == 0:
        return Mean(math.nan, 0.0, 1.0, 0)
    mean = sum(values) / n
    if all(value in {0.0, 1.0} for value in values):
        return Mean(mean, *_wilson(mean, n), n)
    if n == 1:
        return Mean(mean, 0.0, 1.0, 1)
    variance = sum((value - mean) ** 2 for value in values) / (n - 1)
    half = _student(n - 1) * math.sqrt(variance / n)
    return Mean(mean, max(0.0, mean - half), min(1.0, mean + half), n)


def chance_of_drop(before: Sequence[float], after: Sequence[float]) -> float:
    """Return how probable a drop of the mean as large as this is by chance; the scores are of the same cases, in order."""
    differences = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    moved = differences[differences != 0]
    if moved.size == 0 or moved.sum() >= 0:
        return 1.0
    signs = np.random.default_rng(_SEED).choice((-1.0, 1.0), size=(_FLIPS, moved.size))
    as_low = int(np.count_nonzero(signs @ np.abs(moved) <= moved.sum() + 1e-12))
    return (as_low + 1) / (_FLIPS + 1)


def _wilson(mean: float, n: int) -> tuple[float, float]:
    spread = _Z**2 / n
    centre = (mean + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(mean * (1 - mean) / n + spread / (4 * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def _student(degrees: int) -> float:
    """Return Student's quantile by the expansion of Cornish and Fisher in the normal one; exact enough above 2 degrees."""
    z, v = _Z, degrees
    if v <= 2:  # noqa: PLR2004 - the expansion is poor there, and these have closed forms
        return 12.7062 if v == 1 else 4.3027
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / v + second / v**2 + third / v**3
