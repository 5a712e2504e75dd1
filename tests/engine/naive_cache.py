"""Drives the scheduler as the step loop does, against a naive model of the KV cache."""

import itertools
import random
from collections import Counter

from antiphon.engine.scheduling.batch_shapes import BatchShapes, plain
from antiphon.engine.scheduling.block import BLOCK
from antiphon.engine.scheduling.scheduler import Scheduler
from antiphon.engine.scheduling.sequence import Copy, Remove, Sequence, Slice, Step

NO_TOKEN = -1


class NaiveCache:
    """Cells as llama.cpp keeps them: for each slot, which cell holds which position; and the token in each cell."""

    def __init__(self, cells: int) -> None:
        self.cells = cells
        self.slots: dict[int, dict[int, int]] = {}
        self.tokens: dict[int, int] = {}
        self.ids = itertools.count()

    @property
    def used(self) -> int:
        return len({cell for positions in self.slots.values() for cell in positions.values()})

    def used_after(self, changes: list[Copy | Remove]) -> int:
        other = NaiveCache(self.cells)
        other.slots = {slot: dict(positions) for slot, positions in self.slots.items()}
        other.apply(Step(tuple(changes), ()))
        return other.used

    def apply(self, step: Step) -> None:
        for change in step.changes:
            if isinstance(change, Copy):
                source = self.slots[change.source]
                target = self.slots.setdefault(change.target, {})
                for position in range(change.start, change.end):
                    assert position not in target
                    target[position] = source[position]
            else:
                self.remove(change)
        for piece in step.slices:
            positions = self.slots.setdefault(piece.sequence.held.slot, {})
            assert sorted(positions) == list(range(piece.start)), "a slice starts where the slot's cells end"
            tokens = [*piece.sequence.tokens[: piece.end], *piece.draft, *[NO_TOKEN] * piece.padding]
            for position in range(piece.start, piece.start + piece.num_rows):
                positions[position] = next(self.ids)
                self.tokens[positions[position]] = tokens[position]
            held = [self.tokens[positions[position]] for position in range(piece.end)]
            assert held == piece.sequence.tokens[: piece.end], "cells hold the sequence's own tokens"
        assert self.used <= self.cells

    def remove(self, change: Remove) -> None:
        positions = self.slots.get(change.slot, {})
        self.slots[change.slot] = {p: cell for p, cell in positions.items() if p < change.start}


class Runner:
    """A scheduler driven as the step loop drives it, with every invariant checked at every step."""

    def __init__(
        self,
        *,
        cells: int = 512,
        slots: int = 16,
        num_sequences: int = 6,
        batch_size: int = 64,
        prefill_chunk_size: int = 48,
        shapes: BatchShapes | None = None,
        acceptance: float = 0.0,
    ) -> None:
        self.shapes = plain(batch_size) if shapes is None else shapes
        self.scheduler = Scheduler(
            cells=cells,
            slots=slots,
            num_sequences=num_sequences,
            batch_size=batch_size,
            prefill_chunk_size=prefill_chunk_size,
            shapes=self.shapes,
        )
        self.batch_size = batch_size
        self.acceptance = acceptance
        self.random = random.Random(7)
        self.num_accepted = 0
        self.cache = NaiveCache(cells)
        self.alive: list[Sequence] = []
        self.started: list[Sequence] = []
        self.num_computed: Counter[Sequence] = Counter()

    def add(
        self, prompt: list[int], num_new: int, *, outputs_from: int | None = None, n: int = 1, is_batch: bool = False
    ) -> list[Sequence]:
        first = Sequence(list(prompt), len(prompt) + num_new, outputs_from, is_batch=is_batch)
        choices = [
            first,
            *(Sequence(list(prompt), first.max_length, leader=first, is_batch=is_batch) for _ in range(n - 1)),
        ]
        for sequence in choices:
            self.scheduler.add(sequence)
            self.alive.append(sequence)
        return choices

    def cancel(self, sequence: Sequence) -> None:
        self.alive.remove(sequence)
        self.scheduler.remove(sequence)

    def step(self) -> Step:
        step = self.scheduler.plan()
        assert step.num_tokens <= self.batch_size
        assert bool(step.slices) == bool(self.alive), "there is always something to compute"
        assert len({piece.sequence.is_batch for piece in step.slices}) <= 1, "batches have steps of their own"
        self.cache.apply(step)
        self._check_shape(step)
        self.scheduler.computed(step)
        for piece in step.slices:
            self.num_computed[piece.sequence] += piece.count
            if piece.sequence not in self.started:
                self.started.append(piece.sequence)
            self._extend(piece)
            right, removal = self.scheduler.settle(piece)
            self.num_accepted += right
            if removal is not None:
                self.cache.remove(removal)
        assert self.cache.used_after(self.scheduler.cache.changes) <= self.scheduler.cells_used
        return step

    def _check_shape(self, step: Step) -> None:
        """A prompt that is computed from a block border on is never in a batch of the other kind."""
        if self.shapes.tile < BLOCK:
            return
        is_prefill = step.num_tokens >= self.shapes.tile
        for piece in step.slices:
            at_border = piece.start % BLOCK == 0 and piece.start < piece.sequence.num_prompt
            if is_prefill:
                assert piece.start < piece.sequence.num_prompt, "single tokens are computed in decode steps"
            elif at_border and not piece.sequence.is_decoding and piece.count >= self.shapes.min_prefill_tail:
                assert piece.start % BLOCK, "a prompt's blocks are computed in prefill steps"
            assert not piece.draft or not is_prefill

    def _extend(self, piece: Slice) -> None:
        """Extend the text as its model would: token ``1000 + position``; draft tokens are right or wrong by chance."""
        sequence = piece.sequence
        for _ in range(1 + len(piece.draft)):
            at = len(sequence.tokens)
            if at != piece.end and (at - piece.end > len(piece.draft) or piece.draft[at - piece.end - 1] != 999 + at):
                break
            if at < piece.end or piece.end < sequence.num_prompt:
                break
            if at == sequence.max_length:
                self.cancel(sequence)
                return
            sequence.tokens.append(1000 + at)
        at = len(sequence.tokens)
        sequence.draft = [1000 + at + ahead if self.random.random() < self.acceptance else -2 for ahead in range(4)]
        sequence.draft_acceptance = self.acceptance

    def run(self) -> int:
        for count in itertools.count():
            if not self.alive:
                return count
            assert count < 5000, "it never ends"
            self.step()
        raise AssertionError
