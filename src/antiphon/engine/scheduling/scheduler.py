"""Continuous batching: what the next step computes. Pure: no clock, no I/O, no C; the step loop carries the plans out.

There are two kinds of steps, which alternate while there is work for both (``batch_shapes`` says why). A decode step
computes one token of every running sequence, and draft tokens after it where they are worth their cost. A prefill step
computes prompts (chunked prefill): half of its budget goes to the prompt with the least left, the rest to prompts in
order of arrival, so that neither starves. While anything decodes, the budget is one small chunk, so that a long prompt
does not stall running streams.

Sequences of batches run in steps of their own, while nothing interactive can be computed; others go before them, and they
give up their slots and cells first.
"""

from collections import deque
from collections.abc import Iterable, MutableSequence

import msgspec

from antiphon.engine.scheduling.batch_shapes import BatchShapes, plain
from antiphon.engine.scheduling.block import BLOCK
from antiphon.engine.scheduling.prefix_cache import MIN_TAIL, PrefixCache
from antiphon.engine.scheduling.sequence import Remove, Sequence, Slice, Step


class Scheduler:
    """Admits sequences first come first served as cells allow, shares prefixes, and cuts steps.

    When cells run out, retained sequences are released first, then cached prefixes are evicted, then the latest sequence
    is preempted: it gives up its cells and is computed again later. One sequence alone always fits, for which ``cells``
    must exceed its ``max_length``.
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
        """Sequences that hold a slot and are not retained."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for a slot."""
        return len(self._waiting)

    @property
    def cells_used(self) -> int:
        """Cells of running and retained sequences and of the prefix cache."""
        return self.cache.num_tokens + _unshared_cells(self._running) + _unshared_cells(self._retained)

    def drafted(self) -> list[Sequence]:
        """Return the sequences that the next decode step computes one token of, and draft tokens after it."""
        decoding = [sequence for sequence in self._running if sequence.is_decoding and sequence.num_left == 1]
        interactive = [sequence for sequence in decoding if not sequence.is_batch]
        return interactive or decoding

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self._waiting.insert(_place(self._waiting, sequence), sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, finished or cancelled; its prompt stays cached.

        While others run, the sequence is retained with all its tokens: the next turn of its conversation then need not
        compute the last answer again.
        """
        if sequence.lease is None:
            self._waiting.remove(sequence)
            return
        self._running.remove(sequence)
        if self._running and self.cache.shares:
            self._retain(sequence)
        else:
            self.cache.release(sequence)
        while self._retained and self._retains_too_much():
            self._release_oldest()
        self.cache.evict(self.cache.num_evictable + _unshared_cells(self._retained) - self._max_cached_tokens)

    def plan(self) -> Step:
        """Return the next step; without slices, nothing can run."""
        while True:
            self._admit()
            slices = self._slices()
            if slices or len(self._running) < 2:  # noqa: PLR2004 - a sequence alone is never preempted
                break
            self._preempt()
        changes = tuple(self.cache.changes)
        self.cache.changes.clear()
        self._num_steps += 1
        for piece in slices:
            piece.sequence.last_step = self._num_steps
        return Step(changes, tuple(slices), self._was_prefill)

    def computed(self, step: Step) -> None:
        """Note that ``step`` has been decoded."""
        for piece in step.slices:
            piece.sequence.num_computed = piece.end
            self.cache.computed(piece.sequence)

    def settle(self, piece: Slice) -> tuple[int, Remove | None]:
        """Compare the draft of ``piece`` with its outputs: return how many tokens were accepted, and what to drop at once."""
        sequence = piece.sequence
        actual = sequence.tokens[piece.end : piece.end + len(piece.draft)]
        num_accepted = _num_common(piece.draft, actual)
        if sequence.lease is None:
            return num_accepted, None
        sequence.num_computed = piece.end + num_accepted
        num_wasted = piece.num_rows - piece.count - num_accepted
        return num_accepted, Remove(sequence.lease.slot, sequence.num_computed) if num_wasted else None

    def _admit(self) -> None:
        if self._waiting and not self._running:
            # Tokens computed next to other sequences may differ in their last bits from tokens computed alone.
            while self._retained:
                self._release_oldest()
        while self._waiting:
            sequence = self._waiting[0]
            if not self._has_room(sequence):
                if sequence.is_batch or not self._running[-1].is_batch:
                    return
                self._preempt()
                continue
            self._waiting.popleft()
            self.cache.grant(sequence)
            self._running.insert(_place(self._running, sequence), sequence)

    def _has_room(self, sequence: Sequence) -> bool:
        """Whether a waiting sequence may run. A batch makes room when it must, so interactive ones do not count it."""
        if not self._running or len(self._running) >= self._num_sequences:
            return not self._running
        rivals = [other for other in self._running if sequence.is_batch or not other.is_batch]
        promised = sum(other.num_left + BLOCK for other in rivals)
        return self._fits(promised + sequence.num_left - self.cache.num_in_use(sequence) + BLOCK)

    def _retain(self, sequence: Sequence) -> None:
        """Keep the cells of a finished sequence, and release retained ones that hold only a beginning of it."""
        self.cache.drop_pending(sequence)
        for other in list(self._retained):
            length = other.num_computed
            if length <= sequence.num_computed and sequence.tokens[:length] == other.tokens[:length]:
                self._retained.remove(other)
                self.cache.release(other)
        self._retained.append(sequence)

    def _retains_too_much(self) -> bool:
        return len(self._retained) > self._max_retained or _unshared_cells(self._retained) > self._max_cached_tokens

    def _release_oldest(self) -> None:
        """Release the sequence that has been retained for the longest time."""
        self.cache.release(self._retained.popleft())

    def _fits(self, tokens: int) -> bool:
        while True:
            free = self._cells - self.cells_used
            if tokens <= free or tokens <= free + self.cache.num_evictable:
                return True
            if not self._retained:
                return False
            self._release_oldest()

    def _at_most(self, tokens: int) -> int:
        """Return how many of ``tokens`` there are cells for."""
        return tokens if self._fits(tokens) else self._cells - self.cells_used + self.cache.num_evictable

    def _slices(self) -> list[Slice]:
        ready = self._ready()
        decoding = [sequence for sequence in ready if not self._num_prefill(sequence)]
        prompts = [sequence for sequence in ready if self._num_prefill(sequence)]
        num_decoding = sum(sequence.num_left for sequence in decoding if sequence.is_decoding)
        num_decoding = min(num_decoding, self._shapes.max_decode_rows)
        if not self._fits(num_decoding):
            return []
        first = bool(prompts and not (decoding and self._was_prefill))
        for is_prefill in (first, not first):
            slices = self._prefill(prompts, num_decoding) if is_prefill else self._decode(decoding, num_decoding)
            if slices:
                self._was_prefill = is_prefill
                self.cache.evict(sum(piece.num_rows for piece in slices) - (self._cells - self.cells_used))
                return slices
        return []

    def _ready(self) -> list[Sequence]:
        """Return the sequences that can be computed; those of batches only where no other can."""
        interactive = [sequence for sequence in self._running if not sequence.is_batch]
        batch = self._running[len(interactive) :]
        if interactive:
            # What a batch has begun and will not end soon, nobody waits for.
            for sequence in batch:
                self.cache.drop_pending(sequence)
        for group in (interactive, batch):
            ready = [sequence for sequence in group if self._may_compute(sequence) and sequence.num_left]
            if ready:
                return ready
        return []

    def _num_prefill(self, sequence: Sequence) -> int:
        """Return how many tokens of a prompt are still to be computed in prefill steps.

        The tokens behind a prompt's last whole block are always computed in the same kind of step, whether the blocks
        came from the cache or not.
        """
        left = sequence.num_prompt - sequence.num_computed
        if sequence.is_decoding:
            return 0
        if left < BLOCK:
            may_begin = sequence.num_computed % BLOCK == 0 or not self._shapes.aligns_tails
            return left if may_begin and left >= self._shapes.min_prefill_tail else 0
        tail = (sequence.num_prompt - MIN_TAIL) % BLOCK + MIN_TAIL
        return left if tail >= self._shapes.min_prefill_tail else left - tail

    def _decode(self, sequences: list[Sequence], num_decoding: int) -> list[Slice]:
        """Cut a decode step; sequences that were not in the latest steps come first."""
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
        """Return the draft tokens that are worth their rows; at least one where the batch would have a single row."""
        if count < sequence.num_left:
            return ()
        least = int(self._shapes.pads_batches and rows == 1)
        most = min(len(sequence.draft), max(least, sequence.max_length - len(sequence.tokens) - 1))
        number, acceptance = 0, sequence.draft_acceptance
        while number < most and (number < least or self._shapes.is_worth(acceptance, rows)):
            number, acceptance = number + 1, acceptance * sequence.draft_acceptance
        return tuple(sequence.draft[:number])

    def _prefill(self, prompts: list[Sequence], num_decoding: int) -> list[Slice]:
        """Cut a prefill step: the shortest prompt gets half of the room, the others the rest in order of arrival."""
        if not prompts:
            return []
        room = self._prefill_chunk_size if num_decoding else self._batch_size
        room = self._at_most(num_decoding + room) - num_decoding
        counts: dict[Sequence, int] = {}
        shortest = min(prompts, key=self._num_prefill)
        if shortest is not prompts[0]:
            counts[shortest] = self._chunk(shortest, 0, room // 2)
            room -= counts[shortest]
        for sequence in prompts:
            more = self._chunk(sequence, counts.get(sequence, 0), room)
            counts[sequence] = counts.get(sequence, 0) + more
            room -= more
        slices = [_slice(sequence, count) for sequence, count in counts.items() if count]
        missing = self._shapes.tile - sum(counts.values())
        if slices and missing > 0 and self._shapes.pads_batches:
            padding = min(missing, room)
            slices[-1] = msgspec.structs.replace(slices[-1], padding=max(0, padding))
        return slices

    def _chunk(self, sequence: Sequence, given: int, room: int) -> int:
        """Return how many more tokens to compute: whole tiles, and never so many that less than a tile would remain."""
        left, tile = self._num_prefill(sequence) - given, self._shapes.tile
        if left <= room:
            return left
        count = room // tile * tile
        least = tile if tile > MIN_TAIL else 0
        return count - tile if left - count < tile and count > least else count

    def _may_compute(self, sequence: Sequence) -> bool:
        leader = sequence.leader
        if leader is not None and leader.lease is not None and self.cache.shares:
            if leader.num_computed < leader.num_prompt:
                return False
            self.cache.fork(sequence, leader)
        sequence.leader = None
        return self.cache.advance(sequence, self._retained) and self._share_tail(sequence)

    def _share_tail(self, sequence: Sequence) -> bool:
        """Share the rest of a prompt with an older sequence. False: that one has yet to compute it."""
        if not self.cache.may_share_tail(sequence):
            return True
        path = sequence.held.path
        for donor in self._running:
            if donor is sequence:
                return True
            if donor.held.path[: len(path)] == path and not self.cache.share_tail(sequence, donor):
                return False
            if sequence.num_unshared > 0:
                return True
        return True

    def _preempt(self) -> None:
        sequence = self._running.pop()
        self.cache.release(sequence)
        self._waiting.insert(_num_interactive(self._waiting) if sequence.is_batch else 0, sequence)
        self.num_preempted += 1


def _unshared_cells(sequences: Iterable[Sequence]) -> int:
    """Return the cells that sequences hold apart from the blocks of the prefix cache."""
    return sum(sequence.num_unshared for sequence in sequences)


def _place(queue: MutableSequence[Sequence], sequence: Sequence) -> int:
    """Return where a sequence goes: at the end, but before all those of batches if it is interactive."""
    return len(queue) if sequence.is_batch else _num_interactive(queue)


def _num_interactive(queue: Iterable[Sequence]) -> int:
    return sum(not sequence.is_batch for sequence in queue)


def _slice(sequence: Sequence, count: int) -> Slice:
    start = sequence.num_computed
    return Slice(sequence, start, count, _num_outputs(sequence, start, start + count))


def _num_common(first: tuple[int, ...], second: list[int]) -> int:
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
