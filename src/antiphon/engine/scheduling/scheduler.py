"""What the next step computes. Pure: no clock, no I/O, no C; its plans are carried out by the step loop.

There are two kinds of steps, that take turns while there is work for both (``shapes`` says why). A narrow one computes
a token of every running text, and guesses after it where they are worth their cost. A wide one computes prompts: half
of its budget goes to the prompt that came first, half to the one with the least left, so that neither starves. While
anything decodes, the budget for prompts is small, so that a long prompt does not stall running streams.
"""

from collections import deque
from collections.abc import Iterable

import msgspec

from antiphon.engine.scheduling.batch_shapes import BatchShapes, plain
from antiphon.engine.scheduling.prefix_cache import BLOCK, MIN_TAIL, PrefixCache
from antiphon.engine.scheduling.sequence import Remove, Sequence, Slice, Step


class Scheduler:
    """Admits sequences first come first served as cells allow, shares prefixes, and cuts steps.

    When cells run out, cached prefixes are evicted first; then the latest sequence is preempted: it gives up its cells
    and is computed again later. One sequence alone always fits, for which ``cells`` must exceed its ``max_length``.
    """

    def __init__(
        self,
        *,
        cells: int,
        slots: int,
        num_sequences: int,
        batch_size: int,
        prefill_chunk_size: int,
        max_cached_tokens: int | None = None,
        share: bool = True,
        shapes: BatchShapes | None = None,
    ) -> None:
        self.cache = PrefixCache(slots, share=share)
        self.num_preempted = 0
        self._shapes = plain(batch_size) if shapes is None else shapes
        self._num_steps = 0
        self._was_prefill = False
        self._cells = cells
        self._max_cached_tokens = cells if max_cached_tokens is None else max_cached_tokens
        self._num_sequences = num_sequences
        self._batch_size = batch_size
        self._prefill_chunk_size = min(prefill_chunk_size, batch_size)
        self._max_retained = slots // 4
        self._waiting: deque[Sequence] = deque()
        self._retained: deque[Sequence] = deque()
        self._running: list[Sequence] = []

    @property
    def num_running(self) -> int:
        """Sequences that hold a slot."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for one."""
        return len(self._waiting)

    @property
    def cells_used(self) -> int:
        """Cells of running and retained sequences and of the prefix cache."""
        return self.cache.num_tokens + _unshared_cells(self._running) + _unshared_cells(self._retained)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, finished or cancelled; its prompt stays cached.

        Beside others it rests instead, with all its tokens: a conversation that goes on while there is load need not
        compute its last answer again.
        """
        if sequence.slot < 0:
            self._waiting.remove(sequence)
            return
        self._running.remove(sequence)
        if self._running and self.cache.shares:
            self._retain(sequence)
        else:
            self.cache.release(sequence)
        while self._retained and (
            len(self._retained) > self._max_retained or _unshared_cells(self._retained) > self._max_cached_tokens
        ):
            self.cache.release(self._retained.popleft())
        self.cache.evict(self.cache.num_evictable + _unshared_cells(self._retained) - self._max_cached_tokens)

    def plan(self) -> Step:
        """Return the next step; without slices, nothing can run."""
        while True:
            self._admit()
            slices = self._slices()
            if slices or len(self._running) < 2:  # noqa: PLR2004 - with one sequence there is nobody to preempt
                break
            self._preempt()
        changes = tuple(self.cache.changes)
        self.cache.changes.clear()
        self._num_steps += 1
        for piece in slices:
            piece.sequence.last_step = self._num_steps
        return Step(changes, tuple(slices))

    def computed(self, step: Step) -> None:
        """Note that ``step`` has been decoded."""
        for piece in step.slices:
            piece.sequence.num_computed = piece.end
            self.cache.computed(piece.sequence)

    def settle(self, piece: Slice) -> tuple[int, Remove | None]:
        """After the outputs of ``piece`` were used: return how many guesses were right, and what is to be dropped at once."""
        sequence = piece.sequence
        going_on = sequence.tokens[piece.end : piece.end + len(piece.draft)]
        num_accepted = _common(piece.draft, going_on)
        if sequence.slot < 0:
            return num_accepted, None
        sequence.num_computed = piece.end + num_accepted
        wasted = piece.num_rows - piece.count - num_accepted
        return num_accepted, Remove(sequence.slot, sequence.num_computed) if wasted else None

    def _admit(self) -> None:
        if self._waiting and not self._running:
            # What was computed under load may differ in its last bits from what is computed alone.
            self._release_oldest(len(self._retained))
        while self._waiting and len(self._running) < self._num_sequences:
            sequence = self._waiting[0]
            promised = sum(other.num_left + BLOCK for other in self._running)
            needed = sequence.num_left - self.cache.held(sequence) + BLOCK
            if self._running and not self._fits(promised + needed):
                return
            self._waiting.popleft()
            sequence.slot = self.cache.take_slot()
            self._running.append(sequence)

    def _retain(self, sequence: Sequence) -> None:
        """Keep a sequence's cells, and none of those that only hold a beginning of it."""
        self.cache.drop_pending(sequence)
        for other in list(self._retained):
            held = other.num_computed
            if held <= sequence.num_computed and sequence.tokens[:held] == other.tokens[:held]:
                self._retained.remove(other)
                self.cache.release(other)
        self._retained.append(sequence)

    def _release_oldest(self, number: int) -> None:
        """Release retained sequences, the oldest first."""
        for _ in range(number):
            self.cache.release(self._retained.popleft())

    def _fits(self, tokens: int) -> bool:
        while True:
            free = self._cells - self.cells_used
            if tokens <= free or tokens <= free + self.cache.num_evictable:
                return True
            if not self._retained:
                return False
            self._release_oldest(1)

    def _at_most(self, tokens: int) -> int:
        """Return how many of ``tokens`` there are cells for."""
        return tokens if self._fits(tokens) else self._cells - self.cells_used + self.cache.num_evictable

    def _slices(self) -> list[Slice]:
        ready = [sequence for sequence in self._running if self._may_compute(sequence) and sequence.num_left]
        narrow = [sequence for sequence in ready if not self._num_prefill(sequence)]
        wide = [sequence for sequence in ready if self._num_prefill(sequence)]
        num_decoding = sum(sequence.num_left for sequence in narrow if sequence.is_decoding)
        num_decoding = min(num_decoding, self._shapes.max_decode_rows)
        if not self._fits(num_decoding):
            return []
        first = bool(wide and not (narrow and self._was_prefill))
        for is_prefill in (first, not first):
            slices = self._prefill_step(wide, num_decoding) if is_prefill else self._decode_step(narrow, num_decoding)
            if slices:
                self._was_prefill = is_prefill
                self.cache.evict(sum(piece.num_rows for piece in slices) - (self._cells - self.cells_used))
                return slices
        return []

    def _num_prefill(self, sequence: Sequence) -> int:
        """Return how many tokens of a prompt are still to be computed in wide steps.

        A prompt's end behind its last whole block always goes the same way, whether the blocks came from the cache or not.
        """
        left = sequence.num_prompt - sequence.num_computed
        if sequence.is_decoding:
            return 0
        if left < BLOCK:
            at_border = sequence.num_computed % BLOCK == 0
            return left if at_border and left >= self._shapes.min_prefill_tail else 0
        tail = (sequence.num_prompt - MIN_TAIL) % BLOCK + MIN_TAIL
        return left if tail >= self._shapes.min_prefill_tail else left - tail

    def _decode_step(self, sequences: list[Sequence], num_decoding: int) -> list[Slice]:
        """Cut a step of single tokens; those that were not in the last ones come first."""
        room = self._shapes.max_decode_rows
        counts: dict[Sequence, int] = {}
        needed = num_decoding
        for sequence in sorted(sequences, key=lambda sequence: sequence.last_step):
            count = min(sequence.num_left, room)
            needed += 0 if sequence.is_decoding else count
            if count and (sequence.is_decoding or self._fits(needed)):
                counts[sequence] = count
                room -= count
        rows = sum(counts.values())
        slices: list[Slice] = []
        free = self._at_most(rows + room) - rows
        for sequence, count in counts.items():
            draft = self._draft(sequence, count, rows)[:free]
            free -= len(draft)
            outputs = _num_outputs(sequence, sequence.num_computed, sequence.num_computed + count)
            slices.append(Slice(sequence, sequence.num_computed, count, outputs + len(draft), draft))
        return slices

    def _draft(self, sequence: Sequence, count: int, rows: int) -> tuple[int, ...]:
        """Return the guesses that are worth their rows; at least one where a row would otherwise be alone."""
        if count < sequence.num_left:
            return ()
        least = int(self._shapes.pads_batches and rows == 1)
        most = min(len(sequence.draft), max(least, sequence.max_length - len(sequence.tokens) - 1))
        number, acceptance = 0, sequence.draft_acceptance
        while number < most and (number < least or self._shapes.is_worth(acceptance, rows)):
            number, acceptance = number + 1, acceptance * sequence.draft_acceptance
        return tuple(sequence.draft[:number])

    def _prefill_step(self, prompts: list[Sequence], num_decoding: int) -> list[Slice]:
        """Cut a step of prompts: the shortest gets half of the room, the others what is left in order of arrival."""
        if not prompts:
            return []
        room = self._prefill_chunk_size if num_decoding else self._batch_size
        room = self._at_most(num_decoding + room) - num_decoding
        counts: dict[Sequence, int] = {}
        shortest = min(prompts, key=self._num_prefill)
        if shortest is not prompts[0]:
            counts[shortest] = self._cut(shortest, 0, room // 2)
            room -= counts[shortest]
        for sequence in prompts:
            more = self._cut(sequence, counts.get(sequence, 0), room)
            counts[sequence] = counts.get(sequence, 0) + more
            room -= more
        slices = [_slice(sequence, count) for sequence, count in counts.items() if count]
        missing = self._shapes.tile - sum(counts.values())
        if slices and missing > 0 and self._shapes.pads_batches:
            padding = min(missing, room)
            slices[-1] = msgspec.structs.replace(slices[-1], padding=max(0, padding))
        return slices

    def _cut(self, sequence: Sequence, given: int, room: int) -> int:
        """Return how many more tokens to compute: whole tiles, and never so few left that they would fill none."""
        left, tile = self._num_prefill(sequence) - given, self._shapes.tile
        if left <= room:
            return left
        count = room // tile * tile
        return count - tile if left - count < tile < count else count

    def _may_compute(self, sequence: Sequence) -> bool:
        leader = sequence.leader
        if leader is not None and leader.slot >= 0 and self.cache.shares:
            if leader.num_computed < leader.num_prompt:
                return False
            self.cache.fork(sequence, leader)
        sequence.leader = None
        return self.cache.advance(sequence, self._retained) and self._share_tail(sequence)

    def _share_tail(self, sequence: Sequence) -> bool:
        """Borrow the rest of a prompt from an older sequence. False: that one is still to compute it."""
        if not self.cache.may_share_tail(sequence):
            return True
        for donor in self._running:
            if donor is sequence:
                return True
            if donor.path[: len(sequence.path)] == sequence.path and not self.cache.share_tail(sequence, donor):
                return False
            if sequence.num_computed > BLOCK * len(sequence.path):
                return True
        return True

    def _preempt(self) -> None:
        sequence = self._running.pop()
        self.cache.release(sequence)
        self._waiting.appendleft(sequence)
        self.num_preempted += 1


def _unshared_cells(sequences: Iterable[Sequence]) -> int:
    """Return the cells that sequences hold beside the blocks of the prefix cache."""
    return sum(sequence.num_computed - BLOCK * len(sequence.path) for sequence in sequences)


def _slice(sequence: Sequence, count: int) -> Slice:
    start = sequence.num_computed
    return Slice(sequence, start, count, _num_outputs(sequence, start, start + count))


def _common(first: tuple[int, ...], second: list[int]) -> int:
    differing = (at for at, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
    return next(differing, min(len(first), len(second)))


def _num_outputs(sequence: Sequence, start: int, end: int) -> int:
    """Return how many of the last tokens before ``end`` need logits."""
    if start < sequence.num_prompt:
        end_of_prompt = min(end, sequence.num_prompt)
        wanted = end_of_prompt - max(start, sequence.outputs_from)
        if wanted > 0:
            return wanted + end - end_of_prompt
    return int(end == len(sequence.tokens))
