"""The numbers of rows that steps have. Pure.

For every new number of rows the library makes kernels, and keeps them: for the default chat model 1.5 MB and 2 ms each
(docs/engine/measurements.md). So steps have one of a few numbers of rows, and are filled up to the next.
"""

from typing import Final

from antiphon.engine.model.openvino.pages import PAGE

_PER_DOUBLING: Final = 8


def rounded_up(number: int, step: int) -> int:
    """Return the least multiple of ``step`` that is not smaller."""
    return -(-number // step) * step


def filled_up(num_rows: int) -> int:
    """Return the number of rows that so many are computed as: at most an eighth more, and less than a page more."""
    step = (1 << (num_rows - 1).bit_length()) // (2 * _PER_DOUBLING)
    return rounded_up(num_rows, min(max(step, 1), PAGE))
