"""Computed prompt prefixes that requests share: a radix tree of token blocks over the slots of one KV cache.

A node is a block of ``BLOCK`` tokens. Its cells exist once, whoever uses them: llama.cpp counts a cell as long as some
slot (sequence id) holds it. A slot that holds a block holds all blocks above it. While a block is being computed it
is *pending* by one sequence, and others with the same tokens wait for it. A sequence that ends leaves its slot behind
if the end of its path would otherwise be lost, so that every leaf has exactly one such *owner*; owners are evicted
block by block from the leaves, least recently used first.

Sharing ends at block borders, and at least two tokens of a prompt are left to compute. That keeps what is computed for
a prompt the same whether its prefix was cached or not: docs/engine/guarantees.md says why.
"""

import itertools
from collections.abc import Collection, Iterator

from antiphon.engine.scheduling.sequence import Block, BlockKey, Copy, Remove, Sequence

BLOCK = 64
"""The period of llama.cpp's widest dot product over cells: a prefix of whole blocks leaves what follows in its lanes."""
MIN_TAIL = 2
"""Tokens of a prompt that are always computed."""
_MIN_SHARED_TAIL = 8


class PrefixCache:
    """The tree, the slots that are free, and the changes of the KV cache that follow from both.

    ``changes`` are to be made in order before the next decode.
    """

    def __init__(self, slots: int, *, share: bool = True) -> None:
        self.changes: list[Copy | Remove] = []
        self.num_blocks = 0
        self._num_pinned = 0
        self.shares = share
        self._root = Block(None, ())
        self._free = list(range(slots - 1, -1, -1))
        self._owners: dict[int, Block] = {}
        self._clock = itertools.count(1)

    @property
    def num_tokens(self) -> int:
        """Cells held by computed blocks, whether something runs on them or not."""
        return BLOCK * self.num_blocks

    @property
    def num_evictable(self) -> int:
        """Cells that eviction could give back now."""
        return BLOCK * (self.num_blocks - self._num_pinned)

    @property
    def num_kept(self) -> int:
        """Slots that hold nothing but cache."""
        return len(self._owners)

    def borders(self, sequence: Sequence) -> int:
        """Return how many whole blocks of a sequence's prompt may be shared."""
        return max(0, sequence.num_prompt - MIN_TAIL) // BLOCK if self.shares else 0

    def held(self, sequence: Sequence) -> int:
        """Return how many first tokens of a prompt need no cells: what runs holds them, or is about to."""
        block, count = self._root, 0
        for key in self._keys(sequence, 0, self._readable(sequence)):
            child = block.children.get(key)
            if child is None or (child.is_ready and not child.num_pins):
                break
            block, count = child, count + BLOCK
        return count

    def take_slot(self) -> int:
        """Return a free slot, evicting a whole branch if there is none.

        Raises:
            IndexError: every slot runs.
        """
        if not self._free:
            self._drop_owner(min(self._owners, key=lambda slot: self._owners[slot].last_used))
        return self._free.pop()

    def advance(self, sequence: Sequence, retained: Collection[Sequence] = ()) -> bool:
        """Let a sequence share what is computed beyond its path, and claim what nobody computes.

        What no block holds it may go on with from one of the ``retained`` sequences. Returns whether it may compute;
        otherwise it waits for another's claim.
        """
        if sequence.pending or len(sequence.path) * BLOCK != sequence.num_computed:
            return True
        block = sequence.path[-1] if sequence.path else self._root
        for key in self._keys(sequence, len(sequence.path), self.borders(sequence)):
            child = block.children.get(key)
            if child is None:
                if not self._resume(sequence, retained):
                    self._add_pending(sequence, block)
                return True
            if len(sequence.path) >= self._readable(sequence):
                return True
            if not child.is_ready:
                return False
            self._attach(sequence, child)
            block = child
        self._resume(sequence, retained)
        return True

    def fork(self, sequence: Sequence, leader: Sequence) -> None:
        """Let ``sequence`` go on where the prompt of ``leader``, which is computed, has its last token."""
        for block in leader.path[len(sequence.path) :]:
            self._use(sequence, block)
        start, sequence.num_computed = sequence.num_computed, sequence.num_prompt - 1
        self.changes.append(Copy(leader.slot, sequence.slot, start, sequence.num_computed))

    def share_tail(self, sequence: Sequence, donor: Sequence) -> bool:
        """Share what ``donor``, which runs, has beyond the same path, down to the token. False: it is still to compute that.

        For the last tokens of a prompt, that are no whole block: what is borrowed is not cached for others.
        """
        start = sequence.num_computed
        end = start + _common(sequence.tokens, donor.tokens, start, self._last(sequence))
        if end - start < _MIN_SHARED_TAIL:
            return True
        if donor.num_computed < end:
            return False
        self.changes.append(Copy(donor.slot, sequence.slot, start, end))
        sequence.num_computed = sequence.num_shared = end
        return True

    def _resume(self, sequence: Sequence, retained: Collection[Sequence]) -> bool:
        """Share what a sequence that rests has beyond the same tokens, generated ones among them, down to the token."""
        start, best, most = sequence.num_computed, None, _MIN_SHARED_TAIL - 1
        last = self._last(sequence)
        for donor in retained if sequence.is_fresh else ():
            if donor.tokens[:start] == sequence.tokens[:start]:
                common = _common(sequence.tokens, donor.tokens, start, min(last, donor.num_computed))
                best, most = (donor, common) if common > most else (best, most)
        if best is None:
            return False
        self.changes.append(Copy(best.slot, sequence.slot, start, start + most))
        sequence.num_computed = sequence.num_shared = start + most
        return True

    def may_share_tail(self, sequence: Sequence) -> bool:
        """Whether a sequence has its whole blocks and nothing else."""
        at_border = len(sequence.path) == self._readable(sequence) == self.borders(sequence)
        return self.shares and sequence.is_fresh and at_border and sequence.num_computed == len(sequence.path) * BLOCK

    def computed(self, sequence: Sequence) -> None:
        """Make the pending blocks that are computed now available to all."""
        sequence.is_fresh = False
        while sequence.pending and (len(sequence.path) + 1) * BLOCK <= sequence.num_computed:
            block = sequence.pending.pop(0)
            self._use(sequence, block)
            self.num_blocks += 1

    def drop_pending(self, sequence: Sequence) -> None:
        """Let others compute what a sequence that ends was to compute for all."""
        if sequence.pending:
            first = sequence.pending[0]
            assert first.parent is not None
            del first.parent.children[first.key]
            sequence.pending = []

    def release(self, sequence: Sequence) -> None:
        """Take the slot from a sequence that ends; its path stays cached."""
        self.drop_pending(sequence)
        slot, sequence.slot = sequence.slot, -1
        now = next(self._clock)
        for block in sequence.path:
            block.last_used = now
            block.num_pins -= 1
            self._num_pinned -= block.num_pins == 0
        leaf = sequence.path[-1] if sequence.path else None
        sequence.path = []
        sequence.num_computed = 0
        if sequence.is_fresh:
            sequence.num_shared = 0
        if leaf is None or len(leaf.slots) > 1:
            self._free_slot(slot, leaf)
            return
        depth = len(list(leaf.line()))
        self.changes.append(Remove(slot, depth * BLOCK))
        self._set_owner(slot, leaf)

    def evict(self, tokens: int) -> None:
        """Give back at least ``tokens`` cells, or all that can be given."""
        target = self.num_tokens - tokens
        while self.num_tokens > target:
            idle = [slot for slot, leaf in self._owners.items() if leaf.slots == {slot}]
            if not idle:
                return
            self._evict_leaf(min(idle, key=lambda slot: self._owners[slot].last_used))

    def _last(self, sequence: Sequence) -> int:
        """Return how many first tokens may come from another sequence: those before the first position whose logits are wanted."""
        return min(sequence.num_prompt - MIN_TAIL, sequence.outputs_from)

    def _readable(self, sequence: Sequence) -> int:
        """Return how many blocks may come from the cache: those before the first position whose logits are wanted."""
        return min(self.borders(sequence), sequence.outputs_from // BLOCK)

    def _keys(self, sequence: Sequence, start: int, end: int) -> Iterator[BlockKey]:
        for index in range(start, end):
            yield tuple(sequence.tokens[index * BLOCK : (index + 1) * BLOCK])

    def _add_pending(self, sequence: Sequence, block: Block) -> None:
        for key in self._keys(sequence, len(sequence.path), self.borders(sequence)):
            child = Block(block, key)
            block.children[key] = child
            sequence.pending.append(child)
            block = child

    def _use(self, sequence: Sequence, block: Block) -> None:
        block.slots.add(sequence.slot)
        block.last_used = next(self._clock)
        block.num_pins += 1
        self._num_pinned += block.num_pins == 1
        sequence.path.append(block)

    def _attach(self, sequence: Sequence, block: Block) -> None:
        start = len(sequence.path) * BLOCK
        self.changes.append(Copy(next(iter(block.slots)), sequence.slot, start, start + BLOCK))
        self._use(sequence, block)
        sequence.num_computed += BLOCK
        if sequence.is_fresh:
            sequence.num_shared = sequence.num_computed

    def _set_owner(self, slot: int, leaf: Block) -> None:
        """Make ``slot`` the owner of ``leaf``, and drop owners further up: it holds what they hold."""
        for block in leaf.line():
            if block.owner is not None:
                other, block.owner = block.owner, None
                del self._owners[other]
                self._free_slot(other, block)
        leaf.owner = slot
        self._owners[slot] = leaf

    def _free_slot(self, slot: int, leaf: Block | None) -> None:
        for block in leaf.line() if leaf is not None else ():
            block.slots.discard(slot)
        self.changes.append(Remove(slot))
        self._free.append(slot)

    def _drop_owner(self, slot: int) -> None:
        while (leaf := self._owners.get(slot)) is not None:
            if leaf.slots == {slot}:
                self._evict_leaf(slot)
            else:
                leaf.owner = None
                del self._owners[slot]
                self._free_slot(slot, leaf)

    def _evict_leaf(self, slot: int) -> None:
        """Drop the last block of a kept slot, which only that slot holds; the slot goes on keeping the rest."""
        leaf = self._owners.pop(slot)
        assert leaf.parent is not None
        parent = leaf.parent
        del parent.children[leaf.key]
        self.num_blocks -= 1
        if parent.parent is None or len(parent.slots) > 1:
            self._free_slot(slot, parent)
        else:
            self.changes.append(Remove(slot, BLOCK * len(list(parent.line()))))
            parent.owner = slot
            self._owners[slot] = parent


def _common(first: list[int], second: list[int], start: int, end: int) -> int:
    """Return how many tokens from ``start`` on, up to ``end``, are the same."""
    count = 0
    for one, other in zip(first[start:end], second[start:end], strict=False):
        if one != other:
            break
        count += 1
    return count
