"""Guesses how a text goes on, from where the same tokens stood before: in its prompt, in itself, or in another text.

Guesses are computed beside the token before them and cost a fraction of a step; they are taken only where the
model, with the sampler's own draws, says the same. So they change when tokens come, and never which.
"""

from typing import Final

_PRIORS: Final = {16: 0.97, 8: 0.95, 4: 0.85, 2: 0.6, 1: 0.3}
"""How often a guess is right at first, by the number of tokens that were compared; the most are tried first."""
_SHARED_PRIORS: Final = {64: 0.97, 16: 0.9, 8: 0.8, 4: 0.6}
"""The same for guesses from another text."""
_PRIOR_WEIGHT: Final = 3.0
_MEMORY, _SHARED_MEMORY = 0.85, 0.97
"""How much of its record a guess leaves of the guesses before it."""
_WINDOW: Final = 32768
_POOL: Final = 16384
_Place = tuple[list[int], int]
"""A text and a position in it."""


class _Record:
    """How often guesses were right lately, by the number of tokens that were compared."""

    __slots__ = ("_accepted", "_drafted", "_memory", "_priors")

    def __init__(self, priors: dict[int, float], memory: float) -> None:
        self._priors = priors
        self._memory = memory
        self._accepted = dict.fromkeys(priors, 0.0)
        self._drafted = dict.fromkeys(priors, 0.0)

    def acceptance(self, length: int) -> float:
        """Return the probability that the first token of a guess is right."""
        right = self._accepted[length] + self._priors[length] * _PRIOR_WEIGHT
        return right / (self._drafted[length] + _PRIOR_WEIGHT)

    def learn(self, length: int, num_drafted: int, num_accepted: int) -> None:
        """Note that so many of so many guessed tokens were right before one was wrong."""
        self._accepted[length] = self._accepted[length] * self._memory + num_accepted
        self._drafted[length] = self._drafted[length] * self._memory + min(num_drafted, num_accepted + 1)


class NgramPool:
    """What the texts of all requests said lately, and drafters that draw on it: answers to like questions are alike.

    Keeps ``capacity`` generated tokens, and twice that at most. Written by one thread; others may read.
    """

    def __init__(self, most: int, capacity: int = _POOL) -> None:
        self.record = _Record(_SHARED_PRIORS, _SHARED_MEMORY)
        self._most = most
        self._capacity = capacity
        self._num_noted = 0
        self._young: dict[int, _Place] = {}
        self._old: dict[int, _Place] = {}

    def lookup(self, prompt: list[int], *, is_alone: bool) -> "PromptLookup":
        """Return who follows the text that grows out of ``prompt``, and guesses so many tokens of it at most.

        A text that has siblings draws on itself only: wrong guesses leave holes among the cells of all that run, and so
        change in which order sums are made. A request that comes again must find the same guesses.
        """
        return PromptLookup(prompt, self._most, self if is_alone else None)

    def note(self, text: list[int], start: int) -> None:
        """Remember what stands in ``text`` from ``start`` on."""
        if self._num_noted >= self._capacity:
            self._num_noted, self._young, self._old = 0, {}, self._young
        self._num_noted += len(text) - start
        for at in range(start, len(text)):
            place = text, at
            for length in _SHARED_PRIORS:
                if at >= length:
                    self._young[_hash(text, length, at)] = place

    def find(self, text: list[int]) -> tuple[int, list[int]] | None:
        """Return what followed where the end of ``text`` stood before, and how many tokens were compared."""
        for length in _SHARED_PRIORS:
            key = _hash(text, length, len(text))
            place = self._young.get(key) or self._old.get(key)
            if place is not None and len(text) >= length:
                other, at = place
                return length, other[at : at + self._most]
        return None


class PromptLookup:
    """What may follow ``tokens``, a list that grows: at most ``most`` tokens at a time. Not thread-safe."""

    __slots__ = ("_compared", "_followers", "_indexed", "_most", "_pool", "_record", "_said", "_tokens")

    def __init__(self, tokens: list[int], most: int, pool: NgramPool | None = None) -> None:
        self._tokens = tokens
        self._most = most
        self._pool = pool
        self._said = tokens[-max(_SHARED_PRIORS) :]
        self._indexed = max(0, len(tokens) - _WINDOW)
        self._followers: dict[int, dict[int, int]] = {length: {} for length in _PRIORS}
        self._record = _Record(_PRIORS, _MEMORY)
        self._compared: tuple[_Record, int] | None = None
        self._index()

    def propose(self) -> tuple[list[int], float]:
        """Return a guess, never empty, and the probability that its first token is right."""
        self._note()
        self._index()
        self._compared = None
        guess, best = self._tokens[-1:], 0.0
        found = [(self._record, self._find())]
        if self._pool is not None:
            found.append((self._pool.record, self._pool.find(self._said)))
        for record, place in found:
            if place is not None and (acceptance := record.acceptance(place[0])) > best:
                (length, guess), best = place, acceptance
                self._compared = record, length
        return guess, best

    def learn(self, num_drafted: int, num_accepted: int) -> None:
        """Note how the last guess did."""
        if self._compared and num_drafted:
            record, length = self._compared
            record.learn(length, num_drafted, num_accepted)

    def _find(self) -> tuple[int, list[int]] | None:
        for length, followers in self._followers.items():
            at = followers.get(_hash(self._tokens, length, len(self._tokens)))
            if at is not None:
                return length, self._read(at)
        return None

    def _read(self, at: int) -> list[int]:
        """Return the tokens from ``at`` on; past the end of the text the guess itself is read, as a text in a loop goes on."""
        guess: list[int] = []
        for position in range(at, at + self._most):
            beyond = position - len(self._tokens)
            guess.append(self._tokens[position] if beyond < 0 else guess[beyond])
        return guess

    def _note(self) -> None:
        """Let other texts know what was generated since."""
        if self._pool is not None and self._indexed < len(self._tokens):
            start = len(self._said)
            self._said += self._tokens[self._indexed :]
            self._pool.note(self._said, start)

    def _index(self) -> None:
        """Note what followed each run of tokens, the latest place prevailing."""
        tokens = self._tokens
        for length, followers in self._followers.items():
            for at in range(max(self._indexed, length), len(tokens)):
                followers[_hash(tokens, length, at)] = at
        self._indexed = len(tokens)


def _hash(tokens: list[int], length: int, end: int) -> int:
    return hash(tuple(tokens[max(0, end - length) : end]))
