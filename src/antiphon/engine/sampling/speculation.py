"""Speculative decoding by prompt lookup (n-grams): what followed the same tokens earlier is the draft of what follows now.

Drafts come from the prompt, from the text itself, or from the texts of other requests. They are computed in the same step
as the token before them and cost a fraction of a step. The sampler draws from every row as usual, and a draft token
counts only if it equals what was drawn. So speculation changes when tokens come, and never which.
"""

from typing import Final

_PRIORS: Final = {16: 0.97, 8: 0.95, 4: 0.85, 2: 0.6, 1: 0.3}
"""Acceptance before any observation, by the length of the n-gram that matched; the longest is tried first."""
_SHARED_PRIORS: Final = {64: 0.97, 16: 0.9, 8: 0.8, 4: 0.6}
"""The same for drafts from another text."""
_PRIOR_WEIGHT: Final = 3.0
_MEMORY, _SHARED_MEMORY = 0.85, 0.97
"""What remains of the earlier observations after each new one."""
_WINDOW: Final = 32768
_POOL: Final = 16384
_Place = tuple[list[int], int]
"""A text and a position in it."""


class _Acceptance:
    """How often draft tokens were accepted lately, by the length of the n-gram that matched."""

    __slots__ = ("_accepted", "_drafted", "_memory", "_priors")

    def __init__(self, priors: dict[int, float], memory: float) -> None:
        self._priors = priors
        self._memory = memory
        self._accepted = dict.fromkeys(priors, 0.0)
        self._drafted = dict.fromkeys(priors, 0.0)

    def rate(self, length: int) -> float:
        """Return the probability that the first token of a draft is accepted."""
        accepted = self._accepted[length] + self._priors[length] * _PRIOR_WEIGHT
        return accepted / (self._drafted[length] + _PRIOR_WEIGHT)

    def learn(self, length: int, num_drafted: int, num_accepted: int) -> None:
        """Note that the first ``num_accepted`` of ``num_drafted`` tokens were accepted."""
        self._accepted[length] = self._accepted[length] * self._memory + num_accepted
        self._drafted[length] = self._drafted[length] * self._memory + min(num_drafted, num_accepted + 1)


class NgramPool:
    """The n-grams of what all requests generated lately: answers to similar questions are similar.

    Keeps at least ``capacity`` generated tokens, and at most twice as many. One thread writes; others may read.
    """

    def __init__(self, max_draft: int, capacity: int = _POOL) -> None:
        self.acceptance = _Acceptance(_SHARED_PRIORS, _SHARED_MEMORY)
        self._max_draft = max_draft
        self._capacity = capacity
        self._num_noted = 0
        self._young: dict[int, _Place] = {}
        self._old: dict[int, _Place] = {}

    def lookup(self, prompt: list[int], *, is_alone: bool) -> "PromptLookup":
        """Return the lookup of the text that grows out of ``prompt``.

        A choice with siblings draws on itself only. Rejected drafts leave holes among the cells of all running sequences,
        and so change in which order sums are made; a request that comes again must get the same drafts.
        """
        return PromptLookup(prompt, self._max_draft, self if is_alone else None)

    def note(self, text: list[int], start: int) -> None:
        """Add the n-grams of ``text`` from position ``start`` on."""
        if self._num_noted >= self._capacity:
            self._num_noted, self._young, self._old = 0, {}, self._young
        self._num_noted += len(text) - start
        for at in range(start, len(text)):
            place = text, at
            for length in _SHARED_PRIORS:
                if at >= length:
                    self._young[_hash(text, length, at)] = place

    def find(self, text: list[int]) -> tuple[int, list[int]] | None:
        """Return what followed the last tokens of ``text`` in another text, and the length of the n-gram that matched."""
        for length in _SHARED_PRIORS:
            key = _hash(text, length, len(text))
            place = self._young.get(key) or self._old.get(key)
            if place is not None and len(text) >= length:
                other, at = place
                return length, other[at : at + self._max_draft]
        return None


class PromptLookup:
    """Drafts what may follow ``tokens``, a list that grows: at most ``max_draft`` tokens at a time. Not thread-safe."""

    __slots__ = ("_acceptance", "_followers", "_generated", "_indexed", "_matched", "_max_draft", "_pool", "_tokens")

    def __init__(self, tokens: list[int], max_draft: int, pool: NgramPool | None = None) -> None:
        self._tokens = tokens
        self._max_draft = max_draft
        self._pool = pool
        self._generated = tokens[-max(_SHARED_PRIORS) :]
        self._indexed = max(0, len(tokens) - _WINDOW)
        self._followers: dict[int, dict[int, int]] = {length: {} for length in _PRIORS}
        self._acceptance = _Acceptance(_PRIORS, _MEMORY)
        self._matched: tuple[_Acceptance, int] | None = None
        self._index()

    def propose(self) -> tuple[list[int], float]:
        """Return a draft, never empty, and the probability that its first token is accepted."""
        self._note()
        self._index()
        self._matched = None
        draft, best = self._tokens[-1:], 0.0
        found = [(self._acceptance, self._find())]
        if self._pool is not None:
            found.append((self._pool.acceptance, self._pool.find(self._generated)))
        for acceptance, match in found:
            if match is not None and (rate := acceptance.rate(match[0])) > best:
                (length, draft), best = match, rate
                self._matched = acceptance, length
        return draft, best

    def learn(self, num_drafted: int, num_accepted: int) -> None:
        """Note how many tokens of the last draft were computed, and how many of them were accepted."""
        if self._matched and num_drafted:
            acceptance, length = self._matched
            acceptance.learn(length, num_drafted, num_accepted)

    def _find(self) -> tuple[int, list[int]] | None:
        for length, followers in self._followers.items():
            at = followers.get(_hash(self._tokens, length, len(self._tokens)))
            if at is not None:
                return length, self._read(at)
        return None

    def _read(self, at: int) -> list[int]:
        """Return the tokens from ``at`` on. If they reach the end, continue from the draft itself (handles loops)."""
        draft: list[int] = []
        for position in range(at, at + self._max_draft):
            beyond = position - len(self._tokens)
            draft.append(self._tokens[position] if beyond < 0 else draft[beyond])
        return draft

    def _note(self) -> None:
        """Add to the pool what was generated since the last call."""
        if self._pool is not None and self._indexed < len(self._tokens):
            start = len(self._generated)
            self._generated += self._tokens[self._indexed :]
            self._pool.note(self._generated, start)

    def _index(self) -> None:
        """Note what followed each n-gram; the latest place prevails."""
        tokens = self._tokens
        for length, followers in self._followers.items():
            for at in range(max(self._indexed, length), len(tokens)):
                followers[_hash(tokens, length, at)] = at
        self._indexed = len(tokens)


def _hash(tokens: list[int], length: int, end: int) -> int:
    return hash(tuple(tokens[max(0, end - length) : end]))
