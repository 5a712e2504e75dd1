"""Documents into chunks of a bounded number of tokens, cut where the text itself pauses.

The cutting is semantic-text-splitter's: the largest semantic unit that fits (paragraph, sentence, word; headings and
blocks in Markdown). Sizes are counted in o200k tokens, offline; a model with another tokenizer counts somewhat
differently, and an embedding that is refused for its length is cut again by the index.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from semantic_text_splitter import MarkdownSplitter, TextSplitter

from antiphon.errors import ConfigError

Syntax = Literal["text", "markdown"]
# The newest tokenizer that the splitter embeds; names o200k.
_TOKENIZER_OF = "gpt-4o"


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document: ``document[start:end] == text``, in characters."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Chunking:
    """How to cut: at most ``tokens`` in a chunk, of which up to ``overlap`` repeat the end of the one before."""

    tokens: int = 256
    overlap: int = 32

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ConfigError(f"Chunking tokens must be at least 1, not {self.tokens!r}")
        if not 0 <= self.overlap < self.tokens:
            raise ConfigError(f"Chunking overlap must be from 0 to {self.tokens - 1}, not {self.overlap!r}")

    def chunks(self, text: str, syntax: Syntax = "text") -> list[Chunk]:
        """Cut ``text``. White space alone yields nothing, so that no empty input is ever embedded."""
        splitter = _splitter(syntax, self.tokens, self.overlap)
        return [
            Chunk(piece, start, start + len(piece)) for start, piece in splitter.chunk_indices(text) if piece.strip()
        ]


@lru_cache(maxsize=8)
def _splitter(syntax: Syntax, tokens: int, overlap: int) -> TextSplitter | MarkdownSplitter:
    kind = MarkdownSplitter if syntax == "markdown" else TextSplitter
    return kind.from_tiktoken_model(_TOKENIZER_OF, tokens, overlap)
