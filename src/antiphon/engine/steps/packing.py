"""Which inputs of an embedding model go into one batch, and where; a way for each kind of kernel.

``pack_tiles``: llama.cpp's flash attention processes a batch in tiles of 64 rows by 64 rows and skips a tile in which no row attends to
another. So an input that crosses a tile's border costs two tiles more. Inputs are chosen so that their lengths fill tiles
exactly, and the few rows that stay free are padded. docs/engine/measurements.md has the measurements.

``pack_alike``: OpenVINO's encoders compute attention as if every text were as long as the longest of the batch. So inputs
of nearly the same length are chosen.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

WINDOW = 256
"""Waiting inputs that are considered: with 64 already, nearly every gap is filled exactly."""
_MAX_LONE_GAP = 0.25
"""A batch of one tile with at most this share free is computed faster padded, in tiles, than row by row."""

_FREE_PADDING = 64
"""Cells of padding in attention that cost less than another step."""
_MOST_PADDING = 0.25
"""Cells of padding for each row: attention is a fifth of the work for short texts, and half of it for long ones."""


class Place(msgspec.Struct, frozen=True):
    """One input of a batch: its index among the waiting ones, and the rows of padding behind it."""

    index: int
    padding: int = 0


class Packing(Protocol):
    """Returns which of the waiting inputs, at least one, form the next batch, in the order of their rows.

    ``lengths`` are the tokens of each waiting input, in the order of their turn; none is longer than ``capacity``, the
    rows that a batch can have. The first is always taken. ``room`` is where a batch is large enough: only a first input may
    be longer. ``most`` is how many inputs one batch can have, padding included.
    """

    def __call__(self, lengths: Sequence[int], *, room: int, capacity: int, most: int) -> list[Place]:
        """Return the places."""
        ...


def pack_alike(lengths: Sequence[int], *, room: int, capacity: int, most: int) -> list[Place]:
    """Return the first input and those that are nearest to it in length; see ``Packing``."""
    del capacity  # the first input fits, and all together fit the room
    places = [Place(0)]
    num_rows = longest = lengths[0]
    for index in sorted(range(1, len(lengths)), key=lambda index: abs(lengths[index] - lengths[0])):
        more, longer = num_rows + lengths[index], max(longest, lengths[index])
        padding = (len(places) + 1) * longer - more
        if len(places) == most or more > room or padding > max(_FREE_PADDING, more * _MOST_PADDING):
            break
        places.append(Place(index))
        num_rows, longest = more, longer
    return places


def pack_tiles(lengths: Sequence[int], *, tile: int, room: int, capacity: int, most: int) -> list[Place]:
    """Return inputs that fill tiles of ``tile`` rows; see ``Packing``.

    Each tile begins with the first input that is left. Others come before their turn only to fill a tile.
    """
    if most < tile:
        tile = 1  # too few sequences to fill tiles with
    waiting = list(range(len(lengths)))
    places: list[Place] = []
    num_rows = num_sequences = 0
    while waiting and num_sequences + tile <= most and (not num_rows or num_rows + lengths[waiting[0]] <= room):
        first = waiting.pop(0)
        gap = min(-lengths[first] % tile, capacity - num_rows - lengths[first])
        others = _fill([lengths[index] for index in waiting], gap)
        chosen = [first, *(waiting.pop(position) for position in others)]
        padding = gap - sum(lengths[index] for index in chosen[1:])
        places += [Place(index) for index in chosen[:-1]]
        places.append(Place(chosen[-1], padding))
        num_rows += lengths[first] + gap
        num_sequences += len(chosen) + (padding > 0)
    last = places[-1]
    if num_rows > tile or last.padding > _MAX_LONE_GAP * tile:
        places[-1] = Place(last.index)
    return places


def _fill(lengths: Sequence[int], gap: int) -> list[int]:
    """Return positions, in descending order, whose lengths add up to ``gap`` or to as much of it as possible."""
    # Bit n of ``reachable``: some of the lengths seen so far add up to n.
    reachable, before = 1, list[int]()
    for length in lengths:
        if reachable >> gap & 1:
            break
        before.append(reachable)
        reachable |= reachable << length & ((2 << gap) - 1)
    rest = reachable.bit_length() - 1
    chosen: list[int] = []
    for position in reversed(range(len(before))):
        if not before[position] >> rest & 1:
            chosen.append(position)
            rest -= lengths[position]
    return chosen
