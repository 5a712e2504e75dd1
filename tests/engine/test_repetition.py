"""A closing token is forced when constrained output starts looping."""

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
    return RepetitionGuard(closing_texts, Vocabulary(lambda *_: [], pieces, {}, adds_bos=False))


def write(guard: RepetitionGuard, *texts: str) -> None:
    for text in texts:
        guard.accept(TEXTS.index(text))


def names(mask: NDArray[np.bool_]) -> set[str]:
    return {TEXTS[token] for token in np.flatnonzero(mask)}


@pytest.mark.parametrize("unit", [["a"], ["a", " "], ["a", "b", " ", "b", "é"]])
def test_a_text_that_repeats_itself(unit: list[str]) -> None:
    """Once the text repeats itself, only the first closing text that the grammar allows may come."""
    guard = made(ClosingTexts(CLOSING.texts))
    write(guard, "b", *(unit * 8))
    assert names(guard.narrow(EVERYTHING)) == set(TEXTS)
    write(guard, *(unit * MIN_REPEATED))
    assert names(guard.narrow(EVERYTHING)) == {'"', '",'}
    without_quotes = np.array(['"' not in text for text in TEXTS])
    assert names(guard.narrow(without_quotes)) == {"]"}


def test_a_closing_text_within_the_repetition_is_skipped() -> None:
    """Closing texts that repeated entries contain are skipped; if none is left, all allowed tokens may come."""
    guard = made()
    write(guard, *(['"', "a", '"', "}", ", "] * MIN_REPEATED))
    assert names(guard.narrow(EVERYTHING)) == {"]"}
    no_list = np.array(["]" not in text for text in TEXTS])
    assert (guard.narrow(no_list) == no_list).all()


def test_a_long_unit_must_repeat_several_times() -> None:
    """A long passage must repeat several times, however many tokens it has."""
    guard = made(ClosingTexts(CLOSING.texts))
    passage = ["a"] * 40 + ["b"]
    write(guard, *(passage * 3))
    assert names(guard.narrow(EVERYTHING)) == set(TEXTS)
    write(guard, *(passage * 2))
    assert names(guard.narrow(EVERYTHING)) == {'"', '",'}


def test_an_endless_word_is_closed() -> None:
    """Visible ASCII without a blank is bounded; blanks and other scripts restart the count."""
    guard = made()
    for pause in (" ", "é"):
        write(guard, *(["word", "a"] * 3), pause)
    assert names(guard.narrow(EVERYTHING)) == set(TEXTS)
    write(guard, *(["word", "a"] * 4))
    assert names(guard.narrow(EVERYTHING)) == {'"', '",'}
    endless = made(ClosingTexts(CLOSING.texts, max_word=None))
    write(endless, *(["word", "a", "b", "word"] * 4))
    assert names(endless.narrow(EVERYTHING)) == set(TEXTS)


def test_a_closing_text_restarts_the_count() -> None:
    """After it, earlier tokens do not count: one string is closed, not everything around it."""
    guard = made()
    write(guard, *(["word"] * 5))
    assert names(guard.narrow(EVERYTHING)) == {'"', '",'}
    write(guard, '"')
    assert names(guard.narrow(EVERYTHING)) == set(TEXTS)


def test_entries_that_were_closed_one_by_one() -> None:
    """A list of similar entries, each of which had to be closed, is closed as a whole too."""
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
