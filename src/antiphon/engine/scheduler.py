"""What the next step computes. Pure: no clock, no I/O, no C; its plans are carried out by the step loop."""

from collections import deque
from collections.abc import Iterator

import msgspec


class Sequence:
    """The tokens of one choice and how far the model has computed them.

    The scheduler sets ``slot`` (the sequence id in the KV cache) and ``num_computed``; the task that owns the
    sequence appends to ``tokens`` after each output. Logits are wanted of the last token, and of all prompt tokens
    from ``outputs_from`` on.
    """

    __slots__ = ("max_length", "num_computed", "num_prompt", "num_shared", "outputs_from", "slot", "tokens")

    def __init__(self, prompt: list[int], max_length: int, outputs_from: int | None = None) -> None:
        self.tokens = prompt
        self.num_prompt = len(prompt)
        self.max_length = max_length
        self.outputs_from = len(prompt) if outputs_from is None else outputs_from
        self.num_computed = 0
        self.num_shared = 0
        self.slot = -1


class Slice(msgspec.Struct, frozen=True, gc=False):
    """Compute ``count`` tokens of ``sequence`` from position ``start``; the last ``num_outputs`` yield logits."""

    sequence: Sequence
    start: int
    count: int
    num_outputs: int


class Step(msgspec.Struct, frozen=True):
    """One decode: the slices in batch order."""

    slices: tuple[Slice, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens in the batch."""
        return sum(piece.count for piece in self.slices)


class Scheduler:
    """Chooses slices under a token budget: every decoding sequence first, then prompts, first come first served."""

    def __init__(self, *, cells: int, num_sequences: int, batch_size: int) -> None:
        self._cells_free = cells
        self._batch_size = batch_size
        self._slots = list(range(num_sequences - 1, -1, -1))
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []

    @property
    def num_running(self) -> int:
        """Sequences that hold a slot."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for one."""
        return len(self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> int | None:
        """Forget a sequence, finished or cancelled, and return the slot to be emptied, if it had one."""
        if sequence.slot < 0:
            self._waiting.remove(sequence)
            return None
        self._running.remove(sequence)
        slot, sequence.slot = sequence.slot, -1
        self._slots.append(slot)
        self._cells_free += sequence.max_length
        return slot

    def plan(self) -> Step:
        """Return the next step; empty when nothing can run."""
        self._admit()
        return Step(tuple(self._slices()))

    def _admit(self) -> None:
        while self._waiting and self._slots and self._waiting[0].max_length <= self._cells_free:
            sequence = self._waiting.popleft()
            self._cells_free -= sequence.max_length
            sequence.slot = self._slots.pop()
            self._running.append(sequence)

    def _slices(self) -> Iterator[Slice]:
        budget = self._batch_size
        by_need = sorted(self._running, key=lambda sequence: len(sequence.tokens) - sequence.num_computed > 1)
        for sequence in by_need:
            count = min(len(sequence.tokens) - sequence.num_computed, budget)
            if count > 0:
                start = sequence.num_computed
                budget -= count
                yield Slice(sequence, start, count, _num_outputs(sequence, start, start + count))


def _num_outputs(sequence: Sequence, start: int, end: int) -> int:
    """Return how many of the last tokens before ``end`` need logits."""
    if start < sequence.num_prompt:
        end_of_prompt = min(end, sequence.num_prompt)
        wanted = end_of_prompt - max(start, sequence.outputs_from)
        if wanted > 0:
            return wanted + end - end_of_prompt
    return int(end == len(sequence.tokens))
