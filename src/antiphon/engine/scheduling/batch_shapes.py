"""How tokens are grouped into batches, so that what is computed for one does not depend on what else runs.

A runtime chooses its CPU kernels by the shape of a batch, and each kernel rounds in its own way. Within one kernel a
row's result is the same whatever the other rows are. So one kernel always computes prompts (prefill steps) and another
one single tokens (decode steps): docs/engine/guarantees.md has the measurements.
"""

import msgspec

TILE = 64
"""Rows from which llama.cpp's CPU flash attention processes keys in tiles instead of one by one."""
_FIXED_COST = 18.0
"""What a step costs apart from its rows, in rows: it reads the weights once, and the loop runs once."""
_FIXED_COST_PAGED = 12.0
"""The same with OpenVINO's kernels."""
_ATTENTION_COST = 1.95
"""What attention to 1,000 tokens costs, in products with all weights, for a model with one head per million parameters."""


class BatchShapes(msgspec.Struct, frozen=True, kw_only=True):
    """The two kinds of steps.

    A *prefill* step computes prompts and has at least ``tile`` rows, padded if it must be. A *decode* step computes
    single tokens of running sequences and has at most ``max_decode_rows``; with ``pads_batches`` it has at least two.
    The tokens behind a prompt's last whole block are computed in a prefill step if there are at least
    ``min_prefill_tail`` of them, otherwise in a decode step; with ``aligns_tails``, also where a prompt goes on within a
    block, behind a tail that it shares. ``fixed_cost`` is what a step costs apart from its rows, in rows.
    """

    tile: int
    min_prefill_tail: int
    max_decode_rows: int
    pads_batches: bool
    aligns_tails: bool = True
    fixed_cost: float = _FIXED_COST

    def is_worth(self, acceptance: float, rows: int) -> bool:
        """Whether a draft token accepted with probability ``acceptance`` pays for its row in a step of ``rows`` others.

        A step costs about as much as ``rows`` + ``fixed_cost`` rows, so the token must be accepted at least as often as
        ``rows`` / (``rows`` + ``fixed_cost``).
        """
        return acceptance >= rows / (rows + self.fixed_cost)


def tiled(batch_size: int, *, attention_weight: float) -> BatchShapes:
    """Return shapes for flash attention on a CPU.

    Args:
        batch_size: most tokens of a step.
        attention_weight: heads of all layers, per million parameters. Where attention is cheap compared with the
            weights, short tails of prompts are not worth the padding.
    """
    if batch_size < TILE:
        return plain(batch_size)
    share = 1 / (1 + attention_weight * _ATTENTION_COST)
    return BatchShapes(
        tile=TILE, min_prefill_tail=max(2, round(TILE * share)), max_decode_rows=TILE - 1, pads_batches=True
    )


def plain(batch_size: int) -> BatchShapes:
    """Return shapes for kernels that only distinguish one row from several."""
    return BatchShapes(tile=min(2, batch_size), min_prefill_tail=2, max_decode_rows=batch_size, pads_batches=True)


def paged(batch_size: int) -> BatchShapes:
    """Return shapes for OpenVINO's attention over pages: at least two tokens of a prompt at a time, single tokens otherwise.

    Nothing is padded here: the context itself keeps a row from being alone in its batch.
    """
    return BatchShapes(
        tile=min(2, batch_size),
        min_prefill_tail=2,
        max_decode_rows=batch_size,
        pads_batches=False,
        aligns_tails=False,
        fixed_cost=_FIXED_COST_PAGED,
    )


def free(batch_size: int) -> BatchShapes:
    """Return shapes without any rule, for a memory that cannot drop tokens again, such as that of recurrent models."""
    return BatchShapes(tile=1, min_prefill_tail=1, max_decode_rows=batch_size, pads_batches=False)
