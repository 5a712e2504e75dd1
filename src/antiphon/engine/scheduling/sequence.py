"""The values that scheduler and prefix cache work on. Pure: tokens, positions and slots, nothing of llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

BlockKey = tuple[int, ...]
"""The token ids of one block."""


class Block:
    """A node: ``slots`` hold its cells; without any it is pending. ``owner`` is the kept slot that ends here.

    ``num_pins`` sequences run on it.
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

    def line(self) -> Iterator[Block]:
        """Yield this block and those above it, without the root."""
        block = self
        while block.parent is not None:
            yield block
            block = block.parent


class Sequence:
    """The tokens of one choice and how far the model has computed them.

    The scheduler sets ``slot`` (the sequence id in the KV cache, -1 without one) and ``num_computed``; the task that
    owns the sequence appends to ``tokens`` after each output. Logits are wanted of the last token, and of all prompt
    tokens from ``outputs_from`` on, which the task moves on as it gets them: what is preempted does not give them twice. ``num_shared`` prompt tokens came from the cache when the sequence first ran.
    ``leader`` is a sequence with the same prompt whose computation this one waits for. ``draft`` is the task's guess at
    what follows ``tokens``; each token of it is right with probability ``draft_acceptance`` if those before it are.
    """

    __slots__ = (
        "draft",
        "draft_acceptance",
        "is_fresh",
        "last_step",
        "leader",
        "max_length",
        "num_computed",
        "num_prompt",
        "num_shared",
        "outputs_from",
        "path",
        "pending",
        "slot",
        "tokens",
    )  # fmt: skip

    def __init__(
        self, prompt: list[int], max_length: int, outputs_from: int | None = None, leader: Sequence | None = None
    ) -> None:
        self.tokens = prompt
        self.num_prompt = len(prompt)
        self.max_length = max_length
        self.outputs_from = len(prompt) if outputs_from is None else outputs_from
        self.leader = leader
        self.num_computed = 0
        self.num_shared = 0
        self.is_fresh = True
        self.slot = -1
        self.draft: list[int] = []
        self.draft_acceptance = 0.0
        self.last_step = 0
        self.path: list[Block] = []
        """Blocks of the prefix cache that hold the first tokens, from the root on."""
        self.pending: list[Block] = []
        """Blocks after the path that this sequence is to compute for all."""

    @property
    def num_left(self) -> int:
        """Tokens that are known and not computed."""
        return len(self.tokens) - self.num_computed

    @property
    def is_decoding(self) -> bool:
        """Whether the prompt is behind it: it then runs in every step."""
        return self.num_computed >= self.num_prompt or self.num_left == 1


class Copy(msgspec.Struct, frozen=True, gc=False):
    """Let slot ``target`` share the cells of ``source`` at positions ``start <= p < end``."""

    source: int
    target: int
    start: int
    end: int


class Remove(msgspec.Struct, frozen=True, gc=False):
    """Drop a slot's cells from position ``start`` on."""

    slot: int
    start: int = 0


class Slice(msgspec.Struct, frozen=True, gc=False):
    """Compute ``count`` tokens of ``sequence`` from position ``start``, and after them the guessed tokens of ``draft``.

    The last ``num_outputs`` of both yield logits. ``padding`` more tokens, of no meaning, only widen the batch.
    """

    sequence: Sequence
    start: int
    count: int
    num_outputs: int
    draft: tuple[int, ...] = ()
    padding: int = 0

    @property
    def end(self) -> int:
        """The position after the sequence's own tokens."""
        return self.start + self.count

    @property
    def num_rows(self) -> int:
        """Tokens in the batch, of any kind."""
        return self.count + len(self.draft) + self.padding


class Step(msgspec.Struct, frozen=True):
    """Changes of the KV cache, to be made in order, then one decode of the slices."""

    changes: tuple[Copy | Remove, ...]
    slices: tuple[Slice, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens in the batch."""
        return sum(piece.num_rows for piece in self.slices)
