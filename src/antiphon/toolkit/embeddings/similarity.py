"""Cosine similarity of vectors and of matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def cosine_similarity(a: ArrayLike, b: ArrayLike) -> float | NDArray[np.float32]:
    """Return the cosine of the angle between vectors, from -1 to 1.

    Two vectors [d] give a float; a vector [d] and a matrix [n, d] give [n]; two matrices [n, d] and [m, d]
    give [n, m]. Raises ValueError for unequal dimensions and for a vector of zeros, which has no direction.
    """
    left, right = _unit(a), _unit(b)
    if left.shape[-1] != right.shape[-1]:
        raise ValueError(f"vectors of {left.shape[-1]} and {right.shape[-1]} dimensions cannot be compared")
    cosines = np.clip(left @ right.T, -1.0, 1.0)
    return float(cosines) if cosines.ndim == 0 else cosines.astype(np.float32)


def _unit(value: ArrayLike) -> NDArray[np.float64]:
    vectors = np.asarray(value, dtype=np.float64)
    if vectors.ndim not in (1, 2):
        raise ValueError(f"expected a vector [d] or a matrix [n, d], not the shape {vectors.shape}")
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not np.all(lengths > 0):
        raise ValueError("a vector of zeros has no direction, so no cosine")
    return vectors / lengths
