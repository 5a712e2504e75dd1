"""The tokens of one step, as the inputs that OpenVINO's paged attention wants. Pure but for numpy.

The kernels compute a sequence's tokens in one of two ways: several new tokens at once, or a single one. Both round
differently, and within each way nothing else of the batch matters, except that a row alone in its batch is computed by a
third. So the tokens of a prompt go in as one sequence, and each generated or drafted token as a sequence of its own over
the same pages: a layer stores the keys and values of the whole batch before it attends to them.

Batches have one of a few numbers of rows (``row_counts``). Sequences of one token, all alike and on a page that no slot
names, fill them up; they also keep a row from being alone.
"""

from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from antiphon.engine.model.openvino.pages import PAGE, PageTables
from antiphon.engine.model.openvino.row_counts import filled_up

_LEAST_ROWS: Final = 2


class Piece(msgspec.Struct, frozen=True):
    """Tokens of one slot at consecutive positions. The last ``num_outputs``, but for ``padding`` more, yield logits."""

    slot: int
    start: int
    tokens: list[int]
    num_outputs: int
    padding: int
    is_prompt: bool

    @property
    def end(self) -> int:
        """The position after the last token, padding included."""
        return self.start + len(self.tokens)

    @property
    def is_sequence(self) -> bool:
        """Whether the kernels for several tokens compute it."""
        return self.is_prompt and len(self.tokens) > 1

    def parts(self, most_outputs: int) -> Iterator["Piece"]:
        """Yield consecutive pieces of about equal size with at most so many outputs each, at least two."""
        num_parts = -(-self.num_outputs // most_outputs)
        if num_parts <= 1:
            yield self
            return
        first_output = len(self.tokens) - self.padding - self.num_outputs
        begin = 0
        for part in range(1, num_parts + 1):
            is_last = part == num_parts
            end = first_output + self.num_outputs * part // num_parts
            yield msgspec.structs.replace(
                self,
                start=self.start + begin,
                tokens=self.tokens[begin:] if is_last else self.tokens[begin:end],
                num_outputs=end - max(begin, first_output),
                padding=self.padding if is_last else 0,
            )
            begin = end


class PassLimits(msgspec.Struct, frozen=True):
    """What one pass may need: rows of logits, and sequences of several tokens times the positions that the longest attends to."""

    num_outputs: int
    num_attended: int


class BatchInputs(msgspec.Struct, frozen=True):
    """Arrays by the name of the model's input, and the largest number of positions that a sequence attends to."""

    by_name: dict[str, NDArray[np.integer]]
    max_context_len: int


class PagedBatch:
    """Up to ``capacity`` tokens for one decode."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size = 0
        self.num_outputs = 0
        self.pieces: list[Piece] = []

    def clear(self) -> None:
        """Forget all tokens."""
        self.size = self.num_outputs = 0
        self.pieces = []

    def add(
        self, slot: int, start: int, tokens: list[int], num_outputs: int, padding: int = 0, *, is_prompt: bool = True
    ) -> None:
        """Append tokens; see the contract."""
        padded = tokens + tokens[-1:] * padding
        assert self.size + len(padded) <= self.capacity
        self._append(Piece(slot, start, padded, num_outputs, padding, is_prompt))

    def passes(self, limits: PassLimits) -> Iterator["PagedBatch"]:
        """Yield batches within ``limits`` that together compute the same, in this order.

        One sequence goes into a pass whatever it attends to.
        """
        current, num_sequences, longest = PagedBatch(self.capacity), 0, 0
        for piece in self.pieces:
            for part in piece.parts(limits.num_outputs):
                num_sequences += part.is_sequence
                longest = max(longest, part.end) if part.is_sequence else longest
                is_full = current.num_outputs + part.num_outputs > limits.num_outputs
                if current.size and (is_full or (part.is_sequence and num_sequences * longest > limits.num_attended)):
                    yield current
                    current, num_sequences = PagedBatch(self.capacity), int(part.is_sequence)
                    longest = part.end if part.is_sequence else 0
                current._append(part)
        yield current

    def _append(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self.size += len(piece.tokens)
        self.num_outputs += piece.num_outputs

    def inputs(self, tables: PageTables) -> BatchInputs:
        """Return the inputs of the model. Each slot has pages for all of its tokens; what fills up is on the page after all others."""
        tokens: list[int] = []
        positions: list[int] = []
        past: list[int] = []
        begins, pages, page_begins = [0], list[int](), [0]
        sampled: list[int] = []
        for piece in self.pieces:
            last = len(tokens) + len(piece.tokens) - piece.padding
            sampled += range(last - piece.num_outputs, last)
            held = tables.of(piece.slot)
            for start, part in _sequences(piece):
                tokens += part
                end = start + len(part)
                positions += range(start, end)
                past.append(start)
                begins.append(len(tokens))
                pages += held[: -(-end // PAGE)]
                page_begins.append(len(pages))
        for _ in range(max(filled_up(self.size), _LEAST_ROWS) - self.size):
            tokens.append(0)
            positions.append(0)
            past.append(0)
            begins.append(len(tokens))
            pages.append(tables.num_pages)
            page_begins.append(len(pages))
        sampled += [0] * (filled_up(max(self.num_outputs, 1)) - self.num_outputs)
        return BatchInputs(
            {
                "input_ids": np.array(tokens, np.int64),
                "position_ids": np.array(positions, np.int64),
                "past_lens": np.array(past, np.int32),
                "subsequence_begins": np.array(begins, np.int32),
                "block_indices": np.array(pages, np.int32),
                "block_indices_begins": np.array(page_begins, np.int32),
                "sampled": np.array(sampled, np.int64),
            },
            max(piece.end for piece in self.pieces),
        )


def _sequences(piece: Piece) -> Iterator[tuple[int, list[int]]]:
    """Yield the start and the tokens of each sequence that a piece goes in as."""
    if piece.is_sequence:
        yield piece.start, piece.tokens
        return
    for at, token in enumerate(piece.tokens):
        yield piece.start + at, [token]
