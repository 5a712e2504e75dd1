"""How tokens are grouped into batches, so that what is computed for one does not depend on what else runs.

llama.cpp chooses its CPU kernels by the shape of a batch, and each kernel rounds in its own way. Within one kernel a
row's result is the same whatever the other rows are. So prompts are always computed by one kernel and single tokens by
another: docs/engine/guarantees.md has the measurements.
"""

import msgspec

TILE = 64
"""Rows from which llama.cpp's CPU flash attention goes over keys in tiles instead of one by one."""
_FIXED_COST = 18.0
"""What a step costs beside its rows, in rows: weights are read once, and the loop goes round once."""
_ATTENTION_COST = 1.95
"""What attention to 1,000 tokens costs, in products with all weights, for a model with one head per million parameters."""


class BatchShapes(msgspec.Struct, frozen=True, kw_only=True):
    """The two kinds of steps.

    A *wide* step computes prompts and has at least ``tile`` rows, filled up with padding if it must. A *narrow* one
    computes single tokens of running texts and has at most ``max_decode_rows``, and two if ``pads_batches``. What is left of a prompt
    behind its last whole block is computed widely from ``min_prefill_tail`` tokens on, otherwise narrowly.
    """

    tile: int
    min_prefill_tail: int
    max_decode_rows: int
    pads_batches: bool

    def is_worth(self, acceptance: float, rows: int) -> bool:
        """Whether a guess that is right with probability ``acceptance`` pays for its row, beside ``rows`` other ones.

        A step costs about as much as ``rows`` and eighteen more, so that the guess has to be right as often as its share of that.
        """
        return acceptance >= rows / (rows + _FIXED_COST)


def tiled(batch_size: int, *, attention_weight: float) -> BatchShapes:
    """Return shapes for flash attention on a CPU.

    Args:
        batch_size: most tokens of a step.
        attention_weight: heads of all layers, per million parameters. Where attention is cheap beside the weights,
            short ends of prompts are not worth the padding.
    """
    if batch_size < TILE:
        return plain(batch_size)
    share = 1 / (1 + attention_weight * _ATTENTION_COST)
    return BatchShapes(
        tile=TILE, min_prefill_tail=max(2, round(TILE * share)), max_decode_rows=TILE - 1, pads_batches=True
    )


def plain(batch_size: int) -> BatchShapes:
    """Return shapes for kernels that only tell one row from several."""
    return BatchShapes(tile=min(2, batch_size), min_prefill_tail=2, max_decode_rows=batch_size, pads_batches=True)


def free(batch_size: int) -> BatchShapes:
    """Return shapes without any rule: for a memory that cannot drop tokens again, as of recurrent models."""
    return BatchShapes(tile=1, min_prefill_tail=1, max_decode_rows=batch_size, pads_batches=False)
