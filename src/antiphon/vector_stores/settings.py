"""The settings ``[vector_stores]``."""

import msgspec

from antiphon.errors import ConfigError

_MIB = 1 << 20


class VectorStoreSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which model makes the vectors, and how much is read.

    ``embedding_model`` empty: the first embedding model that the server lists. ``max_stores``, ``max_files``: vector stores of
    one key, and files in one of them. ``max_file_bytes`` and ``max_text_chars``: of one file, and of the text in it.
    ``convert_timeout_s`` and ``convert_memory_bytes`` bound the process that turns one PDF, Word document or HTML page into text.
    """

    embedding_model: str = ""
    max_stores: int = 1000
    max_files: int = 10_000
    max_file_bytes: int = 64 * _MIB
    max_text_chars: int = 8_000_000
    convert_timeout_s: float = 120.0
    convert_memory_bytes: int = 1024 * _MIB

    def __post_init__(self) -> None:
        for name in (
            "max_stores",
            "max_files",
            "max_file_bytes",
            "max_text_chars",
            "convert_timeout_s",
            "convert_memory_bytes",
        ):
            if getattr(self, name) <= 0:
                raise ConfigError(f"[vector_stores] {name} must be above 0")
