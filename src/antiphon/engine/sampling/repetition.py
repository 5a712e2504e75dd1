"""Shows texts that run away the way out: those that repeat themselves, and those that go on in one word.

A small model, once it has said the same thing four times, says it until it is stopped. Where a grammar lets it end what it is in the middle of, it
then has to.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from antiphon.engine.ipc.messages import ClosingTexts
from antiphon.engine.model.vocabulary import Vocabulary

MIN_REPEATED = 48
"""Tokens that must have come as they came before, and at least three times over, until a text counts as repeating itself."""
_TIMES = 3
_IN_WORDS = bytes(range(0x21, 0x7F))
"""What words are made of here: visible ASCII. Scripts that write no blanks are not measured."""


class _Repetition:
    """How many tokens have come as they came one period before."""

    __slots__ = ("_count", "_last", "_period", "_tokens")

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._last: dict[int, int] = {}
        self._period = 0
        self._count = 0

    def accept(self, token: int) -> None:
        at = len(self._tokens)
        if self._period and token == self._tokens[at - self._period]:
            self._count += 1
        else:
            self._period = at - self._last.get(token, at)
            self._count = 1 if self._period else 0
        self._last[token] = at
        self._tokens.append(token)

    def count_anew(self) -> None:
        self._count = 0

    @property
    def is_endless(self) -> bool:
        return self._count >= max(MIN_REPEATED, _TIMES * self._period)

    def unit(self) -> list[int]:
        """Return the tokens of one period."""
        return self._tokens[len(self._tokens) - self._period :]


class RepetitionGuard:
    """Follows the tokens of one text, and narrows what may come next where it runs away."""

    __slots__ = ("_all", "_closings", "_data", "_latest", "_left", "_max_word", "_word")

    def __init__(self, closing_texts: ClosingTexts, vocabulary: Vocabulary) -> None:
        self._closings = _closings(vocabulary, closing_texts.texts)
        self._max_word = closing_texts.max_word
        self._data = vocabulary.data
        self._all = _Repetition()
        """Entries that are alike, also where each had to be shown a way out."""
        self._latest = _Repetition()
        """Since the latest way out."""
        self._word = 0
        self._left: _Repetition | None = None
        """What the next token ends."""

    def accept(self, token: int) -> None:
        """Note the next token of the text, drawn or forced."""
        if self._left is not None:
            self._left.count_anew()
            self._latest = _Repetition()
            self._word = 0
            self._left = None
        self._latest.accept(token)
        self._all.accept(token)
        data = self._data[token]
        tail = len(data) - len(data.rstrip(_IN_WORDS))
        self._word = self._word + tail if tail == len(data) else tail

    def narrow(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which of the allowed tokens may come: all, or those that begin with the first way out that is allowed.

        What the repeated text itself holds is no way out of it.
        """
        self._left = None
        for repetition in self._endless():
            unit = b"".join(self._data[token] for token in repetition.unit())
            for way, begins in self._closings:
                allowed = mask & begins
                if way not in unit and allowed.any():
                    self._left = repetition
                    return allowed
        return mask

    def _endless(self) -> list[_Repetition]:
        if self._max_word is not None and self._word >= self._max_word:
            return [_Repetition()]  # of nothing, so that any way leads out of it
        return [repetition for repetition in (self._latest, self._all) if repetition.is_endless]


@lru_cache(maxsize=8)
def _closings(vocabulary: Vocabulary, texts: tuple[str, ...]) -> list[tuple[bytes, NDArray[np.bool_]]]:
    """Return each way out with the tokens that begin with it."""
    ways = [text.encode() for text in texts]
    return [(way, np.array([data.startswith(way) for data in vocabulary.data])) for way in ways]
