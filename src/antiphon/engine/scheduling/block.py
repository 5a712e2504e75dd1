"""Blocks of the prefix cache, and the lease by which a sequence holds them. Pure."""

from __future__ import annotations

from collections.abc import Iterator

BLOCK = 64
"""Tokens per block: the period of llama.cpp's widest dot product over cells.

Behind a prefix of whole blocks, each later cell is summed in the same SIMD lane as without the cache.
"""
BlockKey = tuple[int, ...]
"""The token ids of one block."""


class Block:
    """A node of the prefix tree.

    ``slots`` are the sequence ids in the KV cache that hold its cells; while there is none, the block is pending.
    ``owner`` is the slot that holds the block for the cache alone and whose last block it is. ``num_pins`` counts the
    running sequences that use it; a pinned block cannot be evicted.
    """

    __slots__ = ("children", "key", "last_used", "num_pins", "owner", "parent", "slots")

    def __init__(self, parent: Block | None, key: BlockKey) -> None:
        self.parent = parent
        self.key = key
        self.children: dict[BlockKey, Block] = {}
        self.slots: set[int] = set()
        self.owner: int | None = None
        self.last_used = 0
        self.num_pins = 0

    @property
    def is_ready(self) -> bool:
        """Whether its cells are computed."""
        return bool(self.slots)

    def ancestry(self) -> Iterator[Block]:
        """Yield this block and those above it, without the root."""
        block = self
        while block.parent is not None:
            yield block
            block = block.parent


class CacheLease:
    """What the prefix cache lends to one running sequence. Only the cache changes it.

    ``slot`` is the sequence id in the KV cache. ``path`` are the pinned blocks that hold the first tokens, from the root
    on. ``pending`` are the blocks after the path that this sequence computes for all.
    """

    __slots__ = ("path", "pending", "slot")

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.path: list[Block] = []
        self.pending: list[Block] = []

    @property
    def num_tokens(self) -> int:
        """Tokens in the blocks of the path."""
        return BLOCK * len(self.path)
