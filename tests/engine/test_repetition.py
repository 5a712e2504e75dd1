"""Texts that run away are shown the way out."""

import numpy as np
import pytest
from numpy.typing import NDArray

from antiphon.engine.ipc.messages import ClosingTexts
from antiphon.engine.model.vocabulary import Vocabulary, VocabularyEntry
from antiphon.engine.sampling.repetition import MIN_REPEATED, RepetitionGuard

CLOSING = ClosingTexts(('"', "]", "}"), max_word=20)
TEXTS = ("a", "b", " ", '"', '",', "]", "}", ", ", "é", "word")
EVERYTHING = np.ones(len(TEXTS), np.bool_)


def made(closing_texts: ClosingTexts = CLOSING) -> RepetitionGuard:
    pieces = [VocabularyEntry(text.encode(), is_control=False, is_end=False) for text in TEXTS]
    return RepetitionGuard(closing_texts, Vocabulary(lambda *_: [], pieces, {}, adds_bos=False, handle=None))


def write(guard: RepetitionGuard, *texts: str) -> None:
    for text in texts:
        guard.accept(TEXTS.index(text))


def names(mask: NDArray[np.bool_]) -> set[str]:
    return {TEXTS[token] for token in np.flatnonzero(mask)}


@pytest.mark.parametrize("unit", [["a"], ["a", " "], ["a", "b", " ", "b", "é"]])
def test_a_text_that_repeats_itself(unit: list[str]) -> None:
    """Once what was said comes again and again, the text takes the first way out that is allowed."""
    guard = made(ClosingTexts(CLOSING.texts))
    write(guard, "b", *(unit * 8))
    assert names(guard.narrow(EVERYTHING)) == set(TEXTS)
    write(guard, *(unit * MIN_REPEATED))
    assert names(guard.narrow(EVERYTHING)) == {'"', '",'}
    without_quotes = np.array(['"' not in text for text in TEXTS])
    assert names(guard.narrow(without_quotes)) == {"]"}


def test_what_repeats_itself_is_no_way_out() -> None:
    """Of entries that come again and again, their own ends are none; where no way is left, all that is allowed may come."""
    guard = made()
    write(guard, *(['"', "a", '"', "}", ", "] * MIN_REPEATED))
    assert names(guard.narrow(EVERYTHING)) == {"]"}
    no_list = np.array(["]" not in text for text in TEXTS])
    assert (guard.narrow(no_list) == no_list).all()


def test_long_units_are_waited_for() -> None:
    """A long passage must come several times, however many tokens it has."""
    guard = made(ClosingTexts(CLOSING.texts))
    passage = ["a"] * 40 + ["b"]
    write(guard, *(passage * 3))
    assert names(guard.narrow(EVERYTHING)) == set(TEXTS)
    write(guard, *(passage * 2))
    assert names(guard.narrow(EVERYTHING)) == {'"', '",'}


def test_a_word_without_an_end() -> None:
    """Visible ASCII without a blank is bounded; blanks and other scripts begin anew."""
    guard = made()
    for pause in (" ", "é"):
        write(guard, *(["word", "a"] * 3), pause)
    assert names(guard.narrow(EVERYTHING)) == set(TEXTS)
    write(guard, *(["word", "a"] * 4))
    assert names(guard.narrow(EVERYTHING)) == {'"', '",'}
    endless = made(ClosingTexts(CLOSING.texts, max_word=None))
    write(endless, *(["word", "a", "b", "word"] * 4))
    assert names(endless.narrow(EVERYTHING)) == set(TEXTS)


def test_the_way_out_ends_the_matter() -> None:
    """After it nothing counts that came before: one string is ended, not everything around it."""
    guard = made()
    write(guard, *(["word"] * 5))
    assert names(guard.narrow(EVERYTHING)) == {'"', '",'}
    write(guard, '"')
    assert names(guard.narrow(EVERYTHING)) == set(TEXTS)


def test_entries_that_were_shown_ways_out() -> None:
    """Entries that are alike but for having been ended each are ended as a whole, too."""
    guard = made()
    allowed: set[str] = set()
    for _ in range(9):
        write(guard, '"', *(["word"] * 5))
        assert names(guard.narrow(EVERYTHING)) == {'"', '",'}
        write(guard, '",', " ")
        allowed = names(guard.narrow(EVERYTHING))
        if allowed != set(TEXTS):
            break
    assert allowed == {"]"}
