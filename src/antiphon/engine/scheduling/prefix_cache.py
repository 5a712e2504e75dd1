"""Computed prompt prefixes that requests share: a radix tree of token blocks over the slots of one KV cache.

A node is a block of ``BLOCK`` tokens. Its cells exist once, however many sequences use them: llama.cpp keeps a cell for
as long as some slot (sequence id) holds it. A slot that holds a block holds all blocks above it. While one sequence
computes a block, the block is *pending*, and others with the same tokens wait for it. Blocks in use are *pinned*. When
a sequence ends and the end of its path would be lost with its slot, the cache keeps the slot as the *owner* of that
path, so that every leaf has exactly one owner. Owners are evicted block by block from the leaves, least recently used
first.

Sharing ends at block borders, and at least two tokens of a prompt are always computed. That way the computation for a
prompt is the same whether its prefix was cached or not: docs/engine/guarantees.md says why.
"""

import itertools
from collections.abc import Collection, Iterator

from antiphon.engine.scheduling.block import BLOCK, Block, BlockKey, CacheLease
from antiphon.engine.scheduling.sequence import Copy, Remove, Sequence

MIN_TAIL = 2
"""Tokens of a prompt that are always computed."""
_MIN_SHARED_TAIL = 8


def num_cacheable(num_prompt: int) -> int:
    """Return how many first tokens of a prompt of ``num_prompt`` tokens the cache may hold: whole blocks."""
    return max(0, num_prompt - MIN_TAIL) // BLOCK * BLOCK


class PrefixCache:
    """The tree, the free slots, and the changes of the KV cache that follow from both.

    ``changes`` must be made in order before the next decode.
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
        """Cells held by computed blocks, pinned or not."""
        return BLOCK * self.num_blocks

    @property
    def num_evictable(self) -> int:
        """Cells that eviction could give back now."""
        return BLOCK * (self.num_blocks - self._num_pinned)

    def num_in_use(self, sequence: Sequence) -> int:
        """Return how many first tokens of a prompt need no new cells: running sequences hold them, or compute them now."""
        block, count = self._root, 0
        for key in self._keys(sequence, 0, self._num_readable(sequence)):
            child = block.children.get(key)
            if child is None or (child.is_ready and not child.num_pins):
                break
            block, count = child, count + BLOCK
        return count

    def grant(self, sequence: Sequence) -> None:
        """Lease a free slot to a sequence, evicting a whole branch if there is none.

        Sequences must not hold every slot already.
        """
        if not self._free:
            self._drop_owner(min(self._owners, key=lambda slot: self._owners[slot].last_used))
        sequence.lease = CacheLease(self._free.pop())

    def advance(self, sequence: Sequence, retained: Collection[Sequence] = ()) -> bool:
        """Let a sequence share the computed blocks beyond its path, and add pending blocks where there are none.

        Where no block continues the path, the sequence may share the cells of one of the ``retained`` sequences. Returns
        whether it may compute; otherwise it waits for another sequence's pending block.
        """
        lease = sequence.held
        if lease.pending or lease.num_tokens != sequence.num_computed:
            return True
        block = lease.path[-1] if lease.path else self._root
        for key in self._keys(sequence, len(lease.path), self._num_shareable(sequence)):
            child = block.children.get(key)
            if child is None:
                if not self._resume(sequence, retained):
                    self._add_pending(sequence, block)
                return True
            if len(lease.path) >= self._num_readable(sequence):
                return True
            if not child.is_ready:
                return False
            self._attach(sequence, child)
            block = child
        self._resume(sequence, retained)
        return True

    def fork(self, sequence: Sequence, leader: Sequence) -> None:
        """Let ``sequence`` continue from the computed prompt of ``leader``, but for its last token."""
        lease = sequence.held
        for block in leader.held.path[len(lease.path) :]:
            self._pin(lease, block)
        start, sequence.num_computed = sequence.num_computed, sequence.num_prompt - 1
        self.changes.append(Copy(leader.held.slot, lease.slot, start, sequence.num_computed))

    def share_tail(self, sequence: Sequence, donor: Sequence) -> bool:
        """Share, token by token, what ``donor`` has computed of the same prompt. False: ``donor`` has yet to compute it.

        For the last tokens of a prompt, which do not fill a block: a shared tail is not cached for later requests.
        """
        start = sequence.num_computed
        end = start + _common(sequence.tokens, donor.tokens, start, self._max_shared(sequence))
        if end - start < _MIN_SHARED_TAIL:
            return True
        if donor.num_computed < end:
            return False
        self.changes.append(Copy(donor.held.slot, sequence.held.slot, start, end))
        sequence.num_computed = sequence.num_shared = end
        return True

    def may_share_tail(self, sequence: Sequence) -> bool:
        """Whether a sequence holds the whole blocks of its prompt and nothing else."""
        lease = sequence.held
        at_border = len(lease.path) == self._num_readable(sequence) == self._num_shareable(sequence)
        return self.shares and sequence.is_fresh and at_border and sequence.num_computed == lease.num_tokens

    def computed(self, sequence: Sequence) -> None:
        """Make the pending blocks that are computed now available to all."""
        lease = sequence.held
        sequence.is_fresh = False
        while lease.pending and lease.num_tokens + BLOCK <= sequence.num_computed:
            self._pin(lease, lease.pending.pop(0))
            self.num_blocks += 1

    def drop_pending(self, sequence: Sequence) -> None:
        """Let others compute the pending blocks of a sequence that ends."""
        lease = sequence.held
        if lease.pending:
            first = lease.pending[0]
            assert first.parent is not None
            del first.parent.children[first.key]
            lease.pending = []

    def release(self, sequence: Sequence) -> None:
        """End the lease of a sequence; its blocks stay cached."""
        self.drop_pending(sequence)
        lease, sequence.lease = sequence.held, None
        now = next(self._clock)
        for block in lease.path:
            block.last_used = now
            block.num_pins -= 1
            self._num_pinned -= block.num_pins == 0
        sequence.num_computed = 0
        if sequence.is_fresh:
            sequence.num_shared = 0
        leaf = lease.path[-1] if lease.path else None
        if leaf is None or len(leaf.slots) > 1:
            self._free_slot(lease.slot, leaf)
            return
        self.changes.append(Remove(lease.slot, lease.num_tokens))
        self._set_owner(lease.slot, leaf)

    def evict(self, tokens: int) -> None:
        """Give back at least ``tokens`` cells, or all that can be given."""
        target = self.num_tokens - tokens
        while self.num_tokens > target:
            idle = [slot for slot, leaf in self._owners.items() if leaf.slots == {slot}]
            if not idle:
                return
            self._evict_leaf(min(idle, key=lambda slot: self._owners[slot].last_used))

    def _resume(self, sequence: Sequence, retained: Collection[Sequence]) -> bool:
        """Share the longest match among the retained sequences, token by token; their generated tokens count too."""
        start, best, most = sequence.num_computed, None, _MIN_SHARED_TAIL - 1
        last = self._max_shared(sequence)
        for donor in retained if sequence.is_fresh else ():
            if donor.tokens[:start] == sequence.tokens[:start]:
                common = _common(sequence.tokens, donor.tokens, start, min(last, donor.num_computed))
                best, most = (donor, common) if common > most else (best, most)
        if best is None:
            return False
        self.changes.append(Copy(best.held.slot, sequence.held.slot, start, start + most))
        sequence.num_computed = sequence.num_shared = start + most
        return True

    def _num_shareable(self, sequence: Sequence) -> int:
        """Return how many whole blocks of a sequence's prompt may be shared."""
        return num_cacheable(sequence.num_prompt) // BLOCK if self.shares else 0

    def _num_readable(self, sequence: Sequence) -> int:
        """Return how many blocks may come from the cache: those before the first position whose logits are wanted."""
        return min(self._num_shareable(sequence), sequence.outputs_from // BLOCK)

    @staticmethod
    def _max_shared(sequence: Sequence) -> int:
        """Return how many first tokens may come from another sequence: as ``_num_readable``, but in tokens."""
        return min(sequence.num_prompt - MIN_TAIL, sequence.outputs_from)

    @staticmethod
    def _keys(sequence: Sequence, start: int, end: int) -> Iterator[BlockKey]:
        for index in range(start, end):
            yield tuple(sequence.tokens[index * BLOCK : (index + 1) * BLOCK])

    def _add_pending(self, sequence: Sequence, block: Block) -> None:
        lease = sequence.held
        for key in self._keys(sequence, len(lease.path), self._num_shareable(sequence)):
            child = Block(block, key)
            block.children[key] = child
            lease.pending.append(child)
            block = child

    def _pin(self, lease: CacheLease, block: Block) -> None:
        block.slots.add(lease.slot)
        block.last_used = next(self._clock)
        block.num_pins += 1
        self._num_pinned += block.num_pins == 1
        lease.path.append(block)

    def _attach(self, sequence: Sequence, block: Block) -> None:
        lease = sequence.held
        start = lease.num_tokens
        self.changes.append(Copy(next(iter(block.slots)), lease.slot, start, start + BLOCK))
        self._pin(lease, block)
        sequence.num_computed += BLOCK
        if sequence.is_fresh:
            sequence.num_shared = sequence.num_computed

    def _set_owner(self, slot: int, leaf: Block) -> None:
        """Make ``slot`` the owner of ``leaf``, and free the owners further up: it holds all that they hold."""
        for block in leaf.ancestry():
            if block.owner is not None:
                other, block.owner = block.owner, None
                del self._owners[other]
                self._free_slot(other, block)
        leaf.owner = slot
        self._owners[slot] = leaf

    def _free_slot(self, slot: int, leaf: Block | None) -> None:
        for block in leaf.ancestry() if leaf is not None else ():
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
        """Drop the last block of an owner, which no other slot holds; the slot goes on to own the block above."""
        leaf = self._owners.pop(slot)
        assert leaf.parent is not None
        parent = leaf.parent
        del parent.children[leaf.key]
        self.num_blocks -= 1
        if parent.parent is None or len(parent.slots) > 1:
            self._free_slot(slot, parent)
        else:
            self.changes.append(Remove(slot, BLOCK * len(list(parent.ancestry()))))
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
