"""The values that the scheduler and the prefix cache work on: tokens, positions and slots. Pure: nothing of llama.cpp."""

from __future__ import annotations

import msgspec

from antiphon.engine.scheduling.block import CacheLease


class Sequence:
    """The tokens of one choice and how far the model has computed them.

    The scheduler sets ``lease`` (None while the sequence holds no slot) and ``num_computed``. The task that owns the
    sequence appends to ``tokens`` after each output. Logits are wanted for the last token and for all prompt tokens from
    ``outputs_from`` on; the task raises ``outputs_from`` as it receives them, so that a preempted sequence does not give
    them twice. ``num_shared`` prompt tokens came from the cache when the sequence first ran; ``is_fresh`` until then.
    ``leader`` is a sequence with the same prompt whose prefill this one waits for. ``draft`` are the draft tokens that
    may follow ``tokens``; each is accepted with probability ``draft_acceptance`` if those before it are. ``is_batch``
    sequences run while no others can. ``has_siblings``: it is one of several choices of a request.
    """

    __slots__ = (
        "draft", "draft_acceptance", "has_siblings", "is_batch", "is_fresh", "last_step", "leader", "lease", "max_length", "num_computed",
        "num_prompt", "num_shared", "outputs_from", "tokens",
    )  # fmt: skip

    def __init__(
        self,
        prompt: list[int],
        max_length: int,
        outputs_from: int | None = None,
        leader: Sequence | None = None,
        *,
        is_batch: bool = False,
        has_siblings: bool = False,
    ) -> None:
        self.tokens = prompt
        self.num_prompt = len(prompt)
        self.max_length = max_length
        self.outputs_from = len(prompt) if outputs_from is None else outputs_from
        self.leader = leader
        self.is_batch = is_batch
        self.has_siblings = has_siblings
        self.lease: CacheLease | None = None
        self.num_computed = 0
        self.num_shared = 0
        self.is_fresh = True
        self.draft: list[int] = []
        self.draft_acceptance = 0.0
        self.last_step = 0

    @property
    def held(self) -> CacheLease:
        """The lease of a sequence that runs or is retained."""
        assert self.lease is not None
        return self.lease

    @property
    def num_left(self) -> int:
        """Tokens that are known and not yet computed."""
        return len(self.tokens) - self.num_computed

    @property
    def num_unshared(self) -> int:
        """Cells that the sequence holds apart from the blocks of the prefix cache."""
        return self.num_computed - self.held.num_tokens

    @property
    def is_decoding(self) -> bool:
        """Whether the prompt is computed, but for its last token at most: it then runs in every decode step."""
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
    """Compute ``count`` tokens of ``sequence`` from position ``start``, and after them the draft tokens of ``draft``.

    The last ``num_outputs`` of both yield logits. ``padding`` more tokens, without meaning, only widen the batch.
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
    """Changes of the KV cache, to be made in order, then one decode of the slices.

    ``is_prefill``: the slices are parts of prompts, of two tokens or more; otherwise single tokens one after another.
    """

    changes: tuple[Copy | Remove, ...]
    slices: tuple[Slice, ...]
    is_prefill: bool = False

    @property
    def num_tokens(self) -> int:
        """Tokens in the batch."""
        return sum(piece.num_rows for piece in self.slices)
