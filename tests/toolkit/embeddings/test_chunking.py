"""Chunks: bounded, in place, complete."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.errors import ConfigError
from antiphon.search.chunking import Chunking

TEXTS = st.text(alphabet=st.characters(codec="utf-8"), max_size=400)


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.integers(4, 40))
def test_chunks_are_places_and_miss_nothing(text: str, tokens: int) -> None:
    """Each chunk is a slice of the text; what stands in no chunk is white space."""
    chunks = Chunking(tokens, overlap=1).chunks(text)
    covered = [False] * len(text)
    for chunk in chunks:
        assert text[chunk.start : chunk.end] == chunk.text
        covered[chunk.start : chunk.end] = [True] * len(chunk.text)
    assert all(is_covered or char.isspace() for is_covered, char in zip(covered, text, strict=True))


def test_neighbours_overlap() -> None:
    """The end of one chunk begins the next, so that a sentence at the seam is whole in one of them."""
    chunks = Chunking(tokens=30, overlap=10).chunks(" ".join(f"Sentence number {n}." for n in range(30)))
    assert all(after.start < before.end for before, after in pairwise(chunks))


def test_markdown_is_cut_at_headings() -> None:
    """A section stays together where it fits."""
    text = "# One\n\nFirst part.\n\n# Two\n\nSecond part."
    assert [c.text for c in Chunking(8, 0).chunks(text, "markdown")] == [
        "# One\n\nFirst part.",
        "# Two\n\nSecond part.",
    ]


@pytest.mark.parametrize("wrong", [{"tokens": 0}, {"tokens": 10, "overlap": 10}, {"overlap": -1}])
def test_impossible_sizes_are_refused(wrong: dict[str, int]) -> None:
    """The message names the value."""
    with pytest.raises(ConfigError, match="must be"):
        Chunking(**wrong)
