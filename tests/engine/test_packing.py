"""Which inputs go into one batch of an embedding model."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.engine.steps.packing import Place, pack_alike, pack_tiles

TILE = 64
LENGTHS = st.lists(st.integers(1, 512), min_size=1, max_size=80)


def packed(
    lengths: list[int], *, tile: int = TILE, room: int = 256, capacity: int = 512, most: int = 256
) -> list[Place]:
    return pack_tiles(lengths, tile=tile, room=room, capacity=capacity, most=most)


def spans(lengths: list[int], places: list[Place]) -> list[tuple[int, int]]:
    """Return the first and the last row of each place."""
    rows, found = 0, list[tuple[int, int]]()
    for place in places:
        found.append((rows, rows + lengths[place.index] - 1))
        rows += lengths[place.index] + place.padding
    return found


@given(LENGTHS)
def test_a_batch_keeps_its_bounds(lengths: list[int]) -> None:
    """The first is in it, none twice, no more rows than there are, nor sequences, nor inputs beyond ``room``."""
    places = packed(lengths)
    assert places[0].index == 0
    assert len({place.index for place in places}) == len(places)
    rows = sum(lengths[place.index] + place.padding for place in places)
    assert rows <= max(256, -(-lengths[0] // TILE) * TILE) <= 512
    assert len(places) + sum(place.padding > 0 for place in places) <= 256


@given(LENGTHS)
def test_no_input_takes_more_tiles_than_it_must(lengths: list[int]) -> None:
    """A short one lies in one tile; a long one begins a tile."""
    places = packed(lengths)
    for first, last in spans(lengths, places):
        assert first // TILE == last // TILE or first % TILE == 0


@given(LENGTHS)
def test_whoever_is_first_is_never_passed_over(lengths: list[int]) -> None:
    """Taking batch after batch ends, and each begins with the oldest that is left."""
    left = list(range(len(lengths)))
    while left:
        places = packed([lengths[index] for index in left])
        taken = [left[place.index] for place in places]
        assert taken[0] == left[0]
        left = [index for index in left if index not in taken]


@given(LENGTHS, st.integers(1, 300))
def test_a_context_that_is_no_multiple_of_a_tile_is_not_exceeded(lengths: list[int], capacity: int) -> None:
    """Filling stops where the batch ends."""
    fitting = [min(length, capacity) for length in lengths]
    places = packed(fitting, room=min(256, capacity), capacity=capacity)
    assert sum(fitting[place.index] + place.padding for place in places) <= capacity


def test_sentences_fill_tiles_almost_without_filling() -> None:
    """Of sixty-four sentences the choice is large enough to fill nearly each gap exactly."""
    lengths = [random.Random(n).randint(6, 30) for n in range(64)]
    places = packed(lengths)
    assert sum(lengths[place.index] for place in places) >= 250
    assert sum(place.padding for place in places) <= 4


@pytest.mark.parametrize(
    ("length", "padding"), [(20, 0), (47, 0), (48, 16), (63, 1), (64, 0), (65, 0), (100, 0), (127, 0)]
)
def test_a_lone_batch_is_filled_up_where_that_is_faster(length: int, padding: int) -> None:
    """Just under a tile, the row-by-row kernel costs more than computing the rest of the tile."""
    assert packed([length]) == [Place(0, padding)]


def test_nothing_is_filled_up_behind_the_last() -> None:
    """Padding after the last tile would be computed in vain."""
    assert packed([300, 300]) == [Place(0)]
    assert packed([50, 50, 50]) == [Place(0, 14), Place(1, 14), Place(2)]


@given(LENGTHS, st.integers(1, 70))
def test_few_sequences_are_enough(lengths: list[int], most: int) -> None:
    """Where each sequence costs memory there are few; a batch has at least one input, and no more than they allow."""
    places = packed(lengths, most=most)
    assert 1 <= len(places) + sum(place.padding > 0 for place in places) <= most


def test_without_tiles_inputs_go_in_turn() -> None:
    """Where attention does not go in tiles, nothing is padded and inputs keep their order."""
    places = packed([100, 90, 80, 10], tile=1)
    assert [place.index for place in places] == [0, 1]
    assert not any(place.padding for place in places)


@given(LENGTHS, st.integers(1, 40))
def test_alike_lengths_are_packed_together(lengths: list[int], most: int) -> None:
    """The first is in, none twice, rows and texts are bounded, and attention computes little for padding."""
    places = pack_alike(lengths, room=256, capacity=512, most=most)
    chosen = [lengths[place.index] for place in places]
    assert places[0].index == 0
    assert len({place.index for place in places}) == len(places) <= most
    assert sum(chosen) <= max(256, lengths[0])
    assert not any(place.padding for place in places)
    assert max(chosen) * len(chosen) - sum(chosen) <= max(64, sum(chosen) / 4)


def test_a_text_waits_for_no_other_length() -> None:
    """A stream of short texts goes together while a long one is among them, and the long one goes in its turn."""
    lengths = [14, 500, *[14] * 60]
    places = pack_alike(lengths, room=256, capacity=512, most=256)
    assert [lengths[place.index] for place in places] == [14] * 18
    assert pack_alike([500, *[14] * 44], room=256, capacity=512, most=256) == [Place(0)]
