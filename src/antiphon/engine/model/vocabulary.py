"""A model's vocabulary as Python values: the bytes of each token, which tokens end a text, and tokenising."""

from collections.abc import Callable
from typing import Any

import msgspec

from antiphon.engine.ipc.messages import Ids, PairFrame, Prompt, Text

TokenizeFunction = Callable[[str, bool, bool], list[int]]
"""(text, recognise control tokens in it, add the model's own first and last tokens) -> token ids."""
_MAX_CHARACTER_BYTES = 4


class VocabularyEntry(msgspec.Struct, frozen=True, gc=False):
    """A token: its bytes, whether only a template may produce it, and whether it ends a generation.

    ``is_added``: the model's makers added it to the vocabulary as a whole; training did not find it.
    """

    data: bytes
    is_control: bool
    is_end: bool
    is_added: bool = False


class NativeVocabulary(msgspec.Struct, frozen=True):
    """Addresses in llama.cpp: of a vocabulary, and of the function ``llama_tokenize``, which llguidance calls by itself."""

    vocabulary: Any
    tokenize: int | None


class TokenIdError(ValueError):
    """A token id outside the vocabulary."""


class Vocabulary:
    """Tokens of one model; safe to use from several threads.

    ``keeps_text``: the tokeniser replaces nothing of a text, and drops only bytes that have no token.
    """

    def __init__(
        self,
        tokenize: TokenizeFunction,
        entries: list[VocabularyEntry],
        named: dict[str, int],
        *,
        adds_bos: bool,
        native: NativeVocabulary | None = None,
        keeps_text: bool = False,
        pair: PairFrame | None = None,
    ) -> None:
        self._tokenize = tokenize
        self.native = native
        """Where llama.cpp tokenises; None where it does not."""
        self.size = len(entries)
        self.adds_bos = adds_bos
        self.pair = pair or PairFrame()
        """The tokens around and between two texts that the model reads together."""
        self.named = named
        self.data = [entry.data for entry in entries]
        self.plain = [b"" if entry.is_control else entry.data for entry in entries]
        """The same, with nothing for control tokens."""
        self.end_tokens = frozenset(token for token, entry in enumerate(entries) if entry.is_end)
        self.marks = {
            entry.data.decode("utf-8", "replace"): token for token, entry in enumerate(entries) if _is_mark(entry)
        }
        """Ids of the tokens that llguidance keeps apart from text, by their text."""
        self.marked = [(b"\xff" if _is_mark(entry) else b"") + entry.data for entry in entries]
        """The bytes of each token as llguidance wants them: 0xff before those that it keeps apart from text."""
        self.control_tokens = frozenset(token for token, entry in enumerate(entries) if entry.is_control)
        self._without_token = bytes(set(range(256)) - {data[0] for data in self.data if len(data) == 1})
        self.longest_token = max(_MAX_CHARACTER_BYTES, *map(len, self.data)) if keeps_text else None
        """Bytes of text that one token covers at most; None where there is no bound."""

    def text(self, token: int | None) -> str:
        """Return a token's text, empty for None."""
        return "" if token is None else self.data[token].decode("utf-8", "replace")

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of plain text, control tokens in it not recognised."""
        return self._tokenize(text, False, False)

    def encode(self, prompt: Prompt, *, whole: bool = False) -> list[int]:
        """Return the ids of a prompt's pieces in order; with ``whole``, between the model's own first and last tokens.

        Raises:
            TokenIdError: an id outside the vocabulary.
        """
        ids: list[int] = []
        for piece in prompt:
            match piece:
                case Text(text, special):
                    ids += self._tokenize(text, special, False)
                case Ids(given):
                    bad = next((token for token in given if not 0 <= token < self.size), None)
                    if bad is not None:
                        raise TokenIdError(f"token id {bad!r} is outside the vocabulary of {self.size} tokens")
                    ids += given
        return self._enclose(ids) if whole else ids

    def min_tokens(self, prompt: Prompt) -> int:
        """Return how many tokens the plain text of a prompt has at least, found without tokenising; 0 where unknown."""
        if self.longest_token is None:
            return 0
        plain = [piece.text.encode() for piece in prompt if isinstance(piece, Text) and not piece.special]
        return sum(len(text.translate(None, self._without_token)) for text in plain) // self.longest_token

    def _enclose(self, ids: list[int]) -> list[int]:
        around = self._tokenize("", False, True)
        if not around:
            return ids
        first = around[: 1 if self.adds_bos else 0]
        return first + ids + around[len(first) :]


def pair_frame(around: list[int], *, adds_bos: bool, adds_eos: bool, separator: int | None) -> PairFrame:
    """Return what a model was trained to find around and between two texts; ``around`` is what encloses one.

    A BERT reads ``[CLS] one [SEP] two [SEP]``, a RoBERTa ``<s> one </s></s> two </s>``. A file that adds nothing at the end
    still separates the texts, where it names a token for that. ``separator`` is that token where the file adds it, or negative.
    """
    num_first = 1 if around and adds_bos else 0
    first, last = tuple(around[:num_first]), tuple(around[num_first:])
    is_doubled = separator is not None and separator >= 0 and (not last or adds_eos)
    return PairFrame(first, (*last, separator) if is_doubled and separator is not None else last, last)


def num_characters(prompt: Prompt) -> int:
    """Return how long a prompt is, a token id counting as one character."""
    return sum(len(piece.text) if isinstance(piece, Text) else len(piece.ids) for piece in prompt)


def _is_mark(entry: VocabularyEntry) -> bool:
    is_tag = entry.data.startswith(b"<") and entry.data.endswith(b">")
    return entry.is_control or (entry.is_added and is_tag)
