"""What the next step computes. Pure: no clock, no I/O, no C; its plans are carried out by the step loop.

Every step decodes one token of every running sequence and spends the rest of its budget on prompts: half of it on the
one that came first, half on the one with the least left, so that neither starves. While anything decodes, the
budget for prompts is small, so that a long prompt does not stall running streams.
"""

from collections import deque

from antiphon.engine.prefix_cache import BLOCK, PrefixCache
from antiphon.engine.sequence import Sequence, Slice, Step


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
        interleaved_size: int,
        most_cached: int | None = None,
        share: bool = True,
    ) -> None:
        self.cache = PrefixCache(slots, share=share)
        self.num_preempted = 0
        self._cells = cells
        self._most_cached = cells if most_cached is None else most_cached
        self._num_sequences = num_sequences
        self._batch_size = batch_size
        self._interleaved_size = min(interleaved_size, batch_size)
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

    @property
    def cells_used(self) -> int:
        """Cells of running sequences and of the prefix cache."""
        own = sum(sequence.num_computed - BLOCK * len(sequence.path) for sequence in self._running)
        return self.cache.num_tokens + own

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, finished or cancelled; its prompt stays cached."""
        if sequence.slot < 0:
            self._waiting.remove(sequence)
        else:
            self._running.remove(sequence)
            self.cache.release(sequence)
            self.cache.evict(self.cache.num_evictable - self._most_cached)

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
        return Step(changes, tuple(slices))

    def computed(self, step: Step) -> None:
        """Note that ``step`` has been decoded."""
        for piece in step.slices:
            piece.sequence.num_computed = piece.start + piece.count
            self.cache.computed(piece.sequence)

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._num_sequences:
            sequence = self._waiting[0]
            promised = sum(other.num_left + BLOCK for other in self._running)
            needed = sequence.num_left - self.cache.held(sequence) + BLOCK
            if self._running and not self._fits(promised + needed):
                return
            self._waiting.popleft()
            sequence.slot = self.cache.take_slot()
            self._running.append(sequence)

    def _fits(self, tokens: int) -> bool:
        free = self._cells - self.cells_used
        return tokens <= free or tokens <= free + self.cache.num_evictable

    def _at_most(self, tokens: int) -> int:
        """Return how many of ``tokens`` there are cells for."""
        return tokens if self._fits(tokens) else self._cells - self.cells_used + self.cache.num_evictable

    def _slices(self) -> list[Slice]:
        ready = [sequence for sequence in self._running if self._may_compute(sequence) and sequence.num_left]
        decoding = [sequence for sequence in ready if sequence.is_decoding]
        prompts = [sequence for sequence in ready if not sequence.is_decoding]
        counts: dict[Sequence, int] = {}
        room = self._batch_size
        for sequence in decoding:
            counts[sequence] = min(sequence.num_left, room)
            room -= counts[sequence]
        num_decoding = sum(counts.values())
        if not self._fits(num_decoding):
            return []
        room = min(room, self._interleaved_size) if decoding else room
        self._share_out(prompts, self._at_most(num_decoding + room) - num_decoding, counts)
        self.cache.evict(sum(counts.values()) - (self._cells - self.cells_used))
        return [_slice(sequence, count) for sequence, count in counts.items() if count]

    def _share_out(self, prompts: list[Sequence], room: int, counts: dict[Sequence, int]) -> None:
        """Give the oldest prompt half of ``room``, the shortest the other half, and what is left in order of arrival."""
        if not prompts:
            return
        shortest = min(prompts, key=lambda sequence: sequence.num_left)
        if shortest is not prompts[0]:
            counts[shortest] = _whole(shortest, 0, room // 2)
            room -= counts[shortest]
        for sequence in prompts:
            more = _whole(sequence, counts.get(sequence, 0), room)
            counts[sequence] = counts.get(sequence, 0) + more
            room -= more

    def _may_compute(self, sequence: Sequence) -> bool:
        leader = sequence.leader
        if leader is not None and leader.slot >= 0 and self.cache.shares:
            if leader.num_computed < leader.num_prompt:
                return False
            self.cache.fork(sequence, leader)
        sequence.leader = None
        return self.cache.advance(sequence) and self._may_go_on(sequence)

    def _may_go_on(self, sequence: Sequence) -> bool:
        """Borrow the rest of a prompt from an older sequence. False: that one is still to compute it."""
        if not self.cache.may_borrow(sequence):
            return True
        for donor in self._running:
            if donor is sequence:
                return True
            if donor.path[: len(sequence.path)] == sequence.path and not self.cache.borrow(sequence, donor):
                return False
            if sequence.num_computed > BLOCK * len(sequence.path):
                return True
        return True

    def _preempt(self) -> None:
        sequence = self._running.pop()
        self.cache.release(sequence)
        self._waiting.appendleft(sequence)
        self.num_preempted += 1


def _slice(sequence: Sequence, count: int) -> Slice:
    start = sequence.num_computed
    return Slice(sequence, start, count, _num_outputs(sequence, start, start + count))


def _whole(sequence: Sequence, given: int, room: int) -> int:
    """Return how many more tokens to compute: never so that a single token would be, or would be left, for one step."""
    left = sequence.num_left - given
    count = min(left, room)
    if left - count == 1:
        count -= 1
    return 0 if count < 2 and left > 1 and not given else count  # noqa: PLR2004 - see above


def _num_outputs(sequence: Sequence, start: int, end: int) -> int:
    """Return how many of the last tokens before ``end`` need logits."""
    if start < sequence.num_prompt:
        end_of_prompt = min(end, sequence.num_prompt)
        wanted = end_of_prompt - max(start, sequence.outputs_from)
        if wanted > 0:
            return wanted + end - end_of_prompt
    return int(end == len(sequence.tokens))
