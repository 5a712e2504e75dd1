"""One row of a model's output, and its log-probabilities."""

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
"""The unnormalised scores of every token of the vocabulary, shape ``[vocabulary]``."""


class BrokenLogits(ArithmeticError):  # noqa: N818 - named after what happened
    """The model's output is not a distribution."""


def log_probabilities(logits: Logits) -> NDArray[np.float64]:
    """Return the natural log-softmax of one row, in double precision.

    Raises:
        BrokenLogits: the largest logit is not a finite number.
    """
    row = logits.astype(np.float64)
    check_finite(top := row.max(), len(row))
    row -= top
    return row - np.log(np.exp(row).sum())


def check_finite(top: np.floating, size: int) -> None:
    """Check the largest of ``size`` logits.

    Raises:
        BrokenLogits: it is not a finite number.
    """
    if not np.isfinite(top):
        raise BrokenLogits(f"the most likely of {size} tokens has the logit {float(top)!r}")
