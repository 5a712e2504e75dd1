"""What a GGUF file says about its tokenizer, read as llama.cpp reads it."""

from pathlib import Path
from typing import Final

import msgspec

from antiphon.engine.model.base import ModelError
from antiphon.gguf_file import GGUFHead, MalformedGGUFError, Scalar, read_head

_PREFIX: Final = "tokenizer.ggml."
_ARRAYS: Final = tuple(_PREFIX + name for name in ("tokens", "token_type", "scores", "merges"))


class FileError(ModelError):
    """The file cannot be read as GGUF."""


class UnknownTokenizerError(ModelError):
    """The file's tokenizer is of a kind that only llama.cpp knows; the message names it."""


class TokenizerFacts(msgspec.Struct, frozen=True):
    """The metadata of a file, and the arrays that describe its tokens.

    ``texts`` are the tokens as they are stored, ``types`` GGUF's numbers of their kinds and ``scores`` their priorities, each by
    token id; ``merges`` are pairs, each separated by a space, the most important first.
    """

    metadata: dict[str, Scalar]
    texts: list[str]
    types: list[int]
    scores: list[float]
    merges: list[str]

    @property
    def model(self) -> str:
        """The kind of tokenizer: ``gpt2`` (byte-level BPE), ``llama`` (SentencePiece), ``bert`` (WordPiece), ..."""
        return self.text("model")

    def text(self, name: str) -> str:
        """Return a fact of the tokenizer as text, empty where there is none."""
        return str(self.metadata.get(_PREFIX + name, ""))

    def flag(self, name: str, default: bool) -> bool:
        """Return a fact that is true or false."""
        return bool(self.metadata.get(_PREFIX + name, default))

    def token(self, name: str, default: int | None = None) -> int | None:
        """Return the token of a role such as ``eos``. None, or ``default``, where there is none in the vocabulary."""
        size = len(self.texts)
        if default is not None and default >= size:
            default = None
        given = self.metadata.get(f"{_PREFIX}{name}_token_id")
        return given if isinstance(given, int) and 0 <= given < size else default

    @property
    def metadata_texts(self) -> dict[str, str]:
        """The metadata as llama.cpp writes them."""
        return {key: as_text(value) for key, value in self.metadata.items()}


def read_facts(path: Path) -> TokenizerFacts:
    """Read the tokenizer of a file.

    Raises:
        FileError: the file is not GGUF, or is cut off.
        UnknownTokenizerError: it has no vocabulary, or arrays of different lengths.
    """
    head = _read(path, _ARRAYS)
    tokens, types, scores, merges = (head.arrays.get(key, []) for key in _ARRAYS)
    if not tokens:
        raise UnknownTokenizerError("the file has no vocabulary")
    texts = [text or f"[EMPTY_{token}]" for token, text in enumerate(tokens)]
    if len(set(texts)) != len(texts):
        raise UnknownTokenizerError("two tokens of the vocabulary have the same text")
    types, scores = types or [1] * len(texts), scores or [0.0] * len(texts)
    if min(len(types), len(scores)) < len(texts):
        raise UnknownTokenizerError("the vocabulary has more tokens than kinds or scores of tokens")
    return TokenizerFacts(head.metadata, texts, types, scores, merges)


def read_metadata(path: Path) -> dict[str, str]:
    """Return a file's metadata, without arrays, as llama.cpp writes them.

    Raises:
        FileError: the file is not GGUF, or is cut off.
    """
    return {key: as_text(value) for key, value in _read(path).metadata.items()}


def as_text(value: Scalar) -> str:
    """Return a value as llama.cpp writes it: floats with six decimals, ``true`` and ``false``."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def _read(path: Path, arrays: tuple[str, ...] = ()) -> GGUFHead:
    try:
        return read_head(path, arrays)
    except (MalformedGGUFError, OSError) as error:
        raise FileError(str(error)) from error
