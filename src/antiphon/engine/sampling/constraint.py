"""Constrained decoding with llguidance: which tokens a grammar allows next, and which it forces."""

import time
from typing import Any

import llguidance
import numpy as np
from numpy.typing import NDArray

from antiphon.engine.model.vocabulary import Vocabulary
from antiphon.engine.statistics import MASK_BOUNDS_S, HistogramCollector

_llguidance: Any = llguidance
_MAX_KEPT_GRAMMARS = 256


class GrammarError(ValueError):
    """The grammar does not compile, or a text cannot follow it any further. The message is for the grammar's author."""


class Constraint:
    """The state of one text in a grammar. Not thread-safe. ``mask_s`` observes how long masks take."""

    __slots__ = ("_mask_s", "_matcher", "_size")

    def __init__(self, matcher: Any, vocabulary_size: int, mask_s: HistogramCollector) -> None:
        self._matcher = matcher
        self._size = vocabulary_size
        self._mask_s = mask_s

    def copy(self) -> "Constraint":
        """Return an independent copy."""
        return Constraint(self._matcher.deep_copy(), self._size, self._mask_s)

    def mask(self) -> NDArray[np.bool_]:
        """Return which tokens may come next; end tokens are among them where the text may end.

        Raises:
            GrammarError: the grammar became too complex to follow.
        """
        began = time.perf_counter()
        allowed = self._matcher.compute_logit_bias()
        self._check()
        mask = np.frombuffer(allowed, np.uint8)[: self._size].astype(np.bool_)
        self._mask_s.observe(time.perf_counter() - began)
        return mask

    def accept(self, token: int) -> None:
        """Advance by one token, which ``mask`` allowed.

        Raises:
            GrammarError: it was not allowed.
        """
        self._matcher.consume_token(token)
        self._check()

    def take_forced(self) -> list[int]:
        """Advance by the tokens that the grammar forces, and return them."""
        tokens: list[int] = self._matcher.compute_ff_tokens()
        if tokens:
            self._matcher.consume_tokens(tokens)
            self._check()
        return tokens

    @property
    def is_complete(self) -> bool:
        """Whether the grammar is satisfied and admits nothing more."""
        return self._matcher.is_stopped()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(_readable(self._matcher.get_error()))


class GrammarCompiler:
    """Compiles grammars for one vocabulary and keeps the latest. Belongs to one thread, which is not the step loop's.

    ``mask_s`` belongs to the step loop's thread, on which the constraints are used.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._tokenizer: Any = None
        self._kept: dict[str, Constraint] = {}
        self.mask_s = HistogramCollector(MASK_BOUNDS_S)

    def compile(self, grammar: str) -> Constraint:
        """Return a constraint at the beginning of a text.

        Raises:
            GrammarError: with the compiler's message.
        """
        constraint = self._kept.pop(grammar, None) or self._compile(grammar)
        self._kept[grammar] = constraint
        if len(self._kept) > _MAX_KEPT_GRAMMARS:
            del self._kept[next(iter(self._kept))]
        return constraint.copy()

    def warm_up(self) -> None:
        """Build llguidance's view of the vocabulary in advance: the first grammar would wait about half a second for it."""
        if self._tokenizer is None:
            self._tokenizer = token_trie(self._vocabulary)

    def _compile(self, grammar: str) -> Constraint:
        self.warm_up()
        matcher = _llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise GrammarError(_readable(matcher.get_error()))
        return Constraint(matcher, self._vocabulary.size, self.mask_s)


class _Tokens:
    """A vocabulary as llguidance wants it from Python."""

    def __init__(self, vocabulary: Vocabulary, end: int) -> None:
        self.eos_token_id = end
        self.bos_token_id = vocabulary.named.get("bos")
        self.tokens = vocabulary.data
        self.special_token_ids = sorted(vocabulary.marks.values())
        self._tokenize = vocabulary.tokenize

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenize(text.decode())


def token_trie(vocabulary: Vocabulary) -> Any:
    """Return llguidance's view of a vocabulary."""
    ends = sorted(vocabulary.end_tokens) or [vocabulary.named.get("eos", 0)]
    if vocabulary.native is not None:
        return _llguidance.LLTokenizer.from_llamacpp(
            tokens=vocabulary.marked,
            vocab_ptr=vocabulary.native.vocabulary,
            tokenize_fptr=vocabulary.native.tokenize,
            eos_token=ends,
            slices=None,
        )
    wrapped = _llguidance.TokenizerWrapper(_Tokens(vocabulary, ends[0]))
    return _llguidance.LLTokenizer(wrapped, eos_token=ends)


def _readable(error: str) -> str:
    """Return llguidance's message without its internal state and names."""
    words = error.partition("\n<state>")[0]
    if "NoExtensionBias" in words or "forced bytes" in words:
        return "the grammar requires characters that no token of this model's vocabulary can write"
    return words
