"""A model's vocabulary as Python values: the bytes of each token, which tokens end a text, and tokenising."""

from collections.abc import Callable
from typing import Any

import msgspec

from antiphon.engine.ipc.messages import Ids, Prompt, Text

TokenizeFunction = Callable[[str, bool, bool], list[int]]
"""(text, recognise control tokens in it, add the model's own first and last tokens) -> token ids."""


class VocabularyEntry(msgspec.Struct, frozen=True, gc=False):
    """A token: its bytes, whether only a template may produce it, and whether it ends a generation.

    ``is_added``: it was added to the vocabulary by the model's makers, as a whole, beside what training found.
    """

    data: bytes
    is_control: bool
    is_end: bool
    is_added: bool = False


class TokenIdError(ValueError):
    """A prompt that cannot be given to this vocabulary."""


class Vocabulary:
    """Tokens of one model; safe to use from several threads."""

    def __init__(
        self,
        tokenize: TokenizeFunction,
        pieces: list[VocabularyEntry],
        named: dict[str, int],
        *,
        adds_bos: bool,
        handle: Any,
        tokenize_address: int | None = None,
    ) -> None:
        self._tokenize = tokenize
        self.handle = handle
        """Address of llama.cpp's vocabulary, for llguidance; opaque elsewhere."""
        self.tokenize_address = tokenize_address
        """Address of the C function ``llama_tokenize``, which llguidance calls by itself."""
        self.size = len(pieces)
        self.adds_bos = adds_bos
        self.named = named
        self.data = [piece.data for piece in pieces]
        self.plain = [b"" if piece.is_control else piece.data for piece in pieces]
        """The same, with nothing for control tokens."""
        self.end_tokens = frozenset(token for token, piece in enumerate(pieces) if piece.is_end)
        self.marks = {
            piece.data.decode("utf-8", "replace"): token for token, piece in enumerate(pieces) if _is_mark(piece)
        }
        """Ids of the tokens that llguidance keeps apart from text, by their text."""
        self.marked = [(b"\xff" if _is_mark(piece) else b"") + piece.data for piece in pieces]
        """The bytes of each token as llguidance wants them: 0xff before those that it keeps apart from text."""
        self.control_tokens = frozenset(token for token, piece in enumerate(pieces) if piece.is_control)

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

    def _enclose(self, ids: list[int]) -> list[int]:
        around = self._tokenize("", False, True)
        if not around:
            return ids
        first = around[: 1 if self.adds_bos else 0]
        return first + ids + around[len(first) :]


def _is_mark(piece: VocabularyEntry) -> bool:
    tagged = piece.data.startswith(b"<") and piece.data.endswith(b">")
    return piece.is_control or (piece.is_added and tagged)
