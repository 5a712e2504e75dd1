"""The settings ``[vector_stores]``."""

import msgspec

from antiphon.errors import ConfigError

_MIB = 1 << 20


class VectorStoreSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which models make the vectors and rank what was found, and how much is read.

    ``embedding_model`` empty: the first embedding model that the server lists. ``reranker`` likewise; ``none``: no search is ranked
    anew unless it names a reranker. ``rerank_candidates``: the most chunks that a reranker reads for a search, or as many as are
    shown, if these are more. ``max_stores``, ``max_files``: vector stores of
    one key, and files in one of them. ``max_file_bytes`` and ``max_text_chars``: of one file, and of the text in it.
    ``convert_timeout_s`` and ``convert_memory_bytes`` bound the process that turns one PDF, Word document or HTML page into text.
    """

    embedding_model: str = ""
    reranker: str = ""
    rerank_candidates: int = 20
    max_stores: int = 1000
    max_files: int = 10_000
    max_file_bytes: int = 64 * _MIB
    max_text_chars: int = 8_000_000
    convert_timeout_s: float = 120.0
    convert_memory_bytes: int = 1024 * _MIB

    def __post_init__(self) -> None:
        for name in (
            "rerank_candidates",
            "max_stores",
            "max_files",
            "max_file_bytes",
            "max_text_chars",
            "convert_timeout_s",
            "convert_memory_bytes",
        ):
            if getattr(self, name) <= 0:
                raise ConfigError(f"[vector_stores] {name} must be above 0")
