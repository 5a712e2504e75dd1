"""The texts of one step of an encoder, as the inputs of its graph. Pure but for numpy.

A text's rows come out bit by bit the same whatever is computed with it, if the grid's lines are a multiple of ``LINE`` long:
what pads a line adds exact zeros, but a shorter rest of a line would be summed in another order.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from antiphon.engine.model.openvino.row_counts import rounded_up

LINE: Final = 16
"""Numbers that the kernels sum side by side."""
_ROWS: Final = 8
"""Steps have a multiple of so many rows: for each new number kernels have to be made, which takes milliseconds."""


class EncoderBatch:
    """Up to ``capacity`` tokens, of texts 0, 1, ... in this order."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size = 0
        self.texts: list[list[int]] = []

    @property
    def num_outputs(self) -> int:
        """Tokens whose rows the step yields: all."""
        return self.size

    def clear(self) -> None:
        """Forget all texts."""
        self.size = 0
        self.texts = []

    def add(
        self, slot: int, start: int, tokens: list[int], num_outputs: int, padding: int = 0, *, is_prompt: bool = True
    ) -> None:
        """Append a text; see the contract. An encoder computes whole texts, so ``num_outputs`` and ``is_prompt`` change nothing."""
        del num_outputs, is_prompt
        assert (slot, start, padding) == (len(self.texts), 0, 0)
        assert self.size + len(tokens) <= self.capacity
        self.texts.append(tokens)
        self.size += len(tokens)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each text."""
        return np.array([len(text) for text in self.texts], np.int64)

    @property
    def starts(self) -> NDArray[np.int64]:
        """The first row of each text."""
        lengths = self.lengths
        return np.cumsum(lengths) - lengths

    def inputs(self) -> dict[str, NDArray[Any]]:
        """Return the inputs of the graph by name; ``build_encoder`` describes them."""
        lengths, starts = self.lengths[:, None], self.starts[:, None]
        num_rows = rounded_up(self.size, _ROWS)
        columns = np.arange(rounded_up(int(lengths.max()), LINE))[None]
        is_used = columns < lengths
        ids, positions, back = (np.zeros(num_rows, np.int64) for _ in range(3))
        ids[: self.size] = np.concatenate(self.texts)
        positions[: self.size] = np.broadcast_to(columns, is_used.shape)[is_used]
        back[: self.size] = np.flatnonzero(is_used)
        mask = np.where(is_used, 0, -np.inf).astype(np.float32)
        return {
            "ids": ids,
            "positions": positions,
            "grid": np.where(is_used, starts + columns, 0),
            "mask": mask[:, None, None, :],
            "back": back,
        }
