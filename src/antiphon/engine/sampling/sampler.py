"""Drawing tokens from logits, vectorised over the vocabulary.

The order is OpenAI's: bias and penalties change the logits, the temperature scales them, ``top_p`` keeps the
smallest set of tokens whose probability reaches it, and a seeded generator draws. Log-probabilities are of the
unmodified logits.
"""

import secrets
from typing import Any

import numpy as np
from numpy.typing import NDArray

from antiphon.engine.ipc.messages import SamplingParams, Token, TopToken
from antiphon.engine.model.logits import BrokenLogits, Logits, check_finite, log_probabilities
from antiphon.engine.model.vocabulary import Vocabulary

_FORCED = 100.0
"""OpenAI's logit_bias of 100 means "only this token", and -100 "never"."""
_LEAST_TEMPERATURE = np.finfo(np.float32).tiny
"""At this temperature only the likeliest token has any weight; smaller values may be 0 in single precision."""
_CHUNK = 256
_BOUNDS = (1e-2, 1e-4, 0.0)


class Sampler:
    """Draws the tokens of one choice. Reproducible: same settings, seed and logits give the same tokens."""

    __slots__ = ("_bias", "_bias_ids", "_counts", "_forced", "_random", "_sampling", "_temperature")

    def __init__(self, sampling: SamplingParams, choice: int) -> None:
        self._sampling = sampling
        self._temperature = max(np.float32(sampling.temperature), _LEAST_TEMPERATURE)
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self._random = np.random.Generator(np.random.PCG64((seed + choice) % 2**64))
        ids = list(sampling.logit_bias)
        self._bias_ids = np.array([int(token) for token in ids], np.intp)
        bias = np.array([sampling.logit_bias[token] for token in ids], np.float32)
        self._forced = self._bias_ids[bias >= _FORCED]
        bias[bias <= -_FORCED] = -np.inf
        self._bias = bias
        self._counts: dict[int, int] = {}

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the most likely token is always the answer."""
        penalised = self._sampling.presence_penalty or self._sampling.frequency_penalty
        return self._sampling.temperature == 0 and not len(self._bias) and not penalised

    def accept(self, token: int) -> None:
        """Count a token of the text, drawn or forced, for the penalties."""
        if self._sampling.presence_penalty or self._sampling.frequency_penalty:
            self._counts[token] = self._counts.get(token, 0) + 1

    def draw(self, logits: Logits, mask: NDArray[np.bool_] | None = None) -> int:
        """Return the next token. ``mask`` holds the tokens that a grammar allows; it prevails over biases.

        Raises:
            BrokenLogits: a logit is not a number, or no token is left.
        """
        if self.is_plain_greedy:
            return _most_likely(logits, mask)
        adjusted = self._adjust(logits)
        if mask is not None:
            np.putmask(adjusted, ~mask, -np.inf)
        top = int(adjusted.argmax())
        if mask is not None and adjusted[top] == -np.inf:
            adjusted = np.where(mask, logits, np.float32(-np.inf))
            top = int(adjusted.argmax())
        check_finite(adjusted[top], len(logits))
        return top if self._sampling.temperature == 0 else self._draw(adjusted, top)

    def _adjust(self, logits: Logits) -> Logits:
        adjusted = logits.copy()
        adjusted[self._bias_ids] += self._bias
        if self._counts:
            ids = np.fromiter(self._counts, np.intp, len(self._counts))
            counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            adjusted[ids] -= self._sampling.frequency_penalty * counts + np.float32(self._sampling.presence_penalty)
        if len(self._forced):
            forced = np.full_like(adjusted, -np.inf)
            forced[self._forced] = adjusted[self._forced]
            return forced
        return adjusted

    def _draw(self, adjusted: Logits, top: int) -> int:
        with np.errstate(over="ignore"):  # a quotient beyond single precision has no weight
            weights = np.exp((adjusted - adjusted[top]) / self._temperature)
        if self._sampling.top_p >= 1:
            return _pick(weights, self._random.random())
        ids, weights = _nucleus(weights, self._sampling.top_p)
        return int(ids[_pick(weights, self._random.random())])


def _most_likely(logits: Logits, mask: NDArray[np.bool_] | None) -> int:
    """Return the likeliest token that ``mask`` allows; checks the likeliest of all first, as it is mostly allowed."""
    top = int(logits.argmax())
    check_finite(logits[top], len(logits))
    if mask is None or mask[top]:
        return top
    allowed = np.flatnonzero(mask)
    if not len(allowed):
        raise BrokenLogits(f"none of {len(logits)} tokens is allowed")
    top = int(allowed[logits[allowed].argmax()])
    check_finite(logits[top], len(logits))
    return top


def _pick(weights: Logits, uniform: float) -> int:
    """Return an index with the probability of its weight: first a chunk by the chunks' sums, then within it."""
    if len(weights) <= _CHUNK:
        return _position(np.cumsum(weights, dtype=np.float64), uniform)
    starts = np.arange(0, len(weights), _CHUNK)
    sums = np.add.reduceat(weights, starts)
    cumulated: NDArray[np.float64] = np.cumsum(sums, dtype=np.float64)
    chunk = _position(cumulated, uniform)
    before = float(cumulated[chunk - 1]) if chunk else 0.0
    rest = (uniform * float(cumulated[-1]) - before) / (float(cumulated[chunk]) - before)
    start = chunk * _CHUNK
    return start + _position(np.cumsum(weights[start : start + _CHUNK], dtype=np.float64), min(max(rest, 0.0), 1.0))


def _nucleus(weights: Logits, top_p: float) -> tuple[NDArray[np.intp], Logits]:
    """Return ids and weights of the smallest set of most likely tokens with ``top_p`` of the weight, likeliest first.

    The largest weight is 1. Only weights above a bound are sorted; it falls until they hold enough.
    """
    wanted = top_p * float(weights.sum(dtype=np.float64))
    ids = np.empty(0, np.intp)
    for bound in _BOUNDS:
        ids = np.flatnonzero(weights >= bound)
        if bound == 0 or float(weights[ids].sum(dtype=np.float64)) >= wanted:
            break
    ids = ids[_likeliest(weights[ids], len(ids))]
    cumulated: NDArray[np.float64] = np.cumsum(weights[ids], dtype=np.float64)
    keep = int(np.count_nonzero(cumulated < wanted)) + 1
    return ids[:keep], weights[ids[:keep]]


def _position(cumulated: NDArray[np.float64], share: float) -> int:
    """Return the first index where more than ``share`` of the total is reached; it always has a weight."""
    total = float(cumulated[-1])
    value = min(share * total, np.nextafter(total, 0.0))
    found: Any = cumulated.searchsorted(value, "right")
    return int(found)


def _likeliest(values: NDArray[np.floating], count: int) -> NDArray[np.intp]:
    """Return the ids of the ``count`` largest values, largest first, the smaller id first among equals."""
    if not count:
        return np.empty(0, np.intp)
    ids = np.argpartition(values, len(values) - count)[len(values) - count :]
    order: NDArray[np.intp] = np.lexsort((ids, -values[ids]))
    return ids[order]


def describe(logits: Logits, token: int, num_top: int, vocabulary: Vocabulary) -> Token:
    """Return ``token`` with its log-probability and the ``num_top`` likeliest alternatives, from unmodified logits."""
    row = log_probabilities(logits)
    top = tuple(TopToken(at, vocabulary.data[at], float(row[at])) for at in map(int, _likeliest(row, num_top)))
    return Token(token, vocabulary.data[token], float(row[token]), top)
