"""Guesses how a text goes on, from where the same tokens stood before: in the prompt, or in the text itself.

Guesses are computed beside the token before them and cost a fraction of a step; they are taken only where the
model, with the sampler's own draws, says the same. So they change when tokens come, and never which.
"""

from typing import Final

_PRIORS: Final = {16: 0.97, 8: 0.95, 4: 0.85, 2: 0.6, 1: 0.3}
"""How often a guess is right at first, by the number of tokens that were compared; the most are tried first."""
_PRIOR_WEIGHT = 3.0
_MEMORY = 0.85
_WINDOW = 32768


class Drafter:
    """What may follow ``tokens``, a list that grows: at most ``most`` tokens at a time. Not thread-safe."""

    __slots__ = ("_followers", "_indexed", "_length", "_most", "_right", "_tokens", "_tried")

    def __init__(self, tokens: list[int], most: int) -> None:
        self._tokens = tokens
        self._most = most
        self._indexed = max(0, len(tokens) - _WINDOW)
        self._followers: dict[int, dict[int, int]] = {length: {} for length in _PRIORS}
        self._right = dict.fromkeys(_PRIORS, 0.0)
        self._tried = dict.fromkeys(_PRIORS, 0.0)
        self._length = 0
        self._index()

    def propose(self) -> tuple[list[int], float]:
        """Return a guess, never empty, and the probability that its first token is right."""
        self._index()
        tokens = self._tokens
        for length, followers in self._followers.items():
            at = followers.get(hash(tuple(tokens[-length:])))
            if at is not None:
                self._length = length
                right = self._right[length] + _PRIORS[length] * _PRIOR_WEIGHT
                return self._read(at), right / (self._tried[length] + _PRIOR_WEIGHT)
        self._length = 0
        return tokens[-1:], 0.0

    def learn(self, num_tried: int, num_right: int) -> None:
        """Note how the last guess did."""
        if self._length and num_tried:
            self._right[self._length] = self._right[self._length] * _MEMORY + num_right
            self._tried[self._length] = self._tried[self._length] * _MEMORY + min(num_tried, num_right + 1)

    def _read(self, at: int) -> list[int]:
        """Return the tokens from ``at`` on; past the end of the text the guess itself is read, as a text in a loop goes on."""
        guess: list[int] = []
        for position in range(at, at + self._most):
            beyond = position - len(self._tokens)
            guess.append(self._tokens[position] if beyond < 0 else guess[beyond])
        return guess

    def _index(self) -> None:
        """Note what followed each run of tokens, the latest place prevailing."""
        tokens = self._tokens
        for length, followers in self._followers.items():
            for at in range(max(self._indexed, length), len(tokens)):
                followers[hash(tuple(tokens[at - length : at]))] = at
        self._indexed = len(tokens)
