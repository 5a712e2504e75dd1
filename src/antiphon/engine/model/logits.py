"""One row of a model's output, and its log-probabilities."""

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
"""The unnormalised scores of every token of the vocabulary, shape ``[vocabulary]``."""


def log_probabilities(logits: Logits) -> NDArray[np.float64]:
    """Return the natural log-softmax of one row, in double precision."""
    row = logits.astype(np.float64)
    row -= row.max()
    return row - np.log(np.exp(row).sum())
