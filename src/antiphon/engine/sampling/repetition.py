"""Ends loops: output that repeats itself, and output that never ends a word.

A small model that has said the same thing four times says it until it is stopped. Under a grammar, ``RepetitionGuard``
then forces a closing token, where the grammar allows one. Without a grammar, ``Repetition`` tells when to end the text.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from antiphon.engine.ipc.messages import ClosingTexts
from antiphon.engine.model.vocabulary import Vocabulary

MIN_REPEATED = 48
"""Tokens that must repeat the tokens one period before them, and at least three periods, until a text is endless."""
_MIN_PERIODS = 3
_WORD_BYTES = bytes(range(0x21, 0x7F))
"""What words consist of here: visible ASCII. Scripts that write no blanks are not measured."""


class Repetition:
    """Counts how many of the latest tokens equal the token one period before."""

    __slots__ = ("_count", "_last", "_period", "_tokens")

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._last: dict[int, int] = {}
        self._period = 0
        self._count = 0

    def accept(self, token: int) -> None:
        """Add the next token of the text."""
        at = len(self._tokens)
        if self._period and token == self._tokens[at - self._period]:
            self._count += 1
        else:
            self._period = at - self._last.get(token, at)
            self._count = 1 if self._period else 0
        self._last[token] = at
        self._tokens.append(token)

    def reset_count(self) -> None:
        """Count repeated tokens from 0 again; the period stays."""
        self._count = 0

    @property
    def is_endless(self) -> bool:
        """Whether the text has repeated itself often enough to be stopped."""
        return self._count >= max(MIN_REPEATED, _MIN_PERIODS * self._period)

    def unit(self) -> list[int]:
        """Return the tokens of one period."""
        return self._tokens[len(self._tokens) - self._period :]


class RepetitionGuard:
    """Follows the tokens of one constrained text, and narrows what may come next once the text loops."""

    __slots__ = ("_all", "_closing", "_closings", "_data", "_latest", "_max_word", "_word")

    def __init__(self, closing_texts: ClosingTexts, vocabulary: Vocabulary) -> None:
        self._closings = _closings(vocabulary, closing_texts.texts)
        self._max_word = closing_texts.max_word
        self._data = vocabulary.data
        self._all = Repetition()
        """Of the whole text: finds list entries that are alike even if each had to be closed."""
        self._latest = Repetition()
        """Of the text since the latest forced closing."""
        self._word = 0
        self._closing: Repetition | None = None
        """The repetition that the next token ends."""

    def accept(self, token: int) -> None:
        """Add the next token of the text, drawn or forced."""
        if self._closing is not None:
            self._closing.reset_count()
            self._latest = Repetition()
            self._word = 0
            self._closing = None
        self._latest.accept(token)
        self._all.accept(token)
        data = self._data[token]
        tail = len(data) - len(data.rstrip(_WORD_BYTES))
        self._word = self._word + tail if tail == len(data) else tail

    def narrow(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which of the allowed tokens may come: all, or those that begin with the first closing text allowed.

        A closing text that the repeated text contains does not close it, and is skipped.
        """
        self._closing = None
        for repetition in self._endless():
            unit = b"".join(self._data[token] for token in repetition.unit())
            for closing, begins in self._closings:
                allowed = mask & begins
                if closing not in unit and allowed.any():
                    self._closing = repetition
                    return allowed
        return mask

    def _endless(self) -> list[Repetition]:
        if self._max_word is not None and self._word >= self._max_word:
            return [Repetition()]  # without tokens, so that every closing text counts
        return [repetition for repetition in (self._latest, self._all) if repetition.is_endless]


@lru_cache(maxsize=8)
def _closings(vocabulary: Vocabulary, texts: tuple[str, ...]) -> list[tuple[bytes, NDArray[np.bool_]]]:
    """Return each closing text with a mask of the tokens that begin with it."""
    closings = [text.encode() for text in texts]
    return [(closing, np.array([data.startswith(closing) for data in vocabulary.data])) for closing in closings]
