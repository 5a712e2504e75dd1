"""What a model is called, what it is for, and where it comes from."""

import re
from typing import Literal

import msgspec

from antiphon.models.errors import BadName
from antiphon.models.sources import Source, parse_source

Kind = Literal["chat", "embedding", "reranker"]

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,199}")


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be served.

    ``source`` is as ``parse_source`` reads it; ``aliases`` are further names that requests may use; ``digests`` are
    the sha256 of fetched files by their path relative to the main file's folder, in addition to the hash in ``source``.
    ``download_bytes`` is what fetching transfers, None if not known. ``default_max_tokens`` limits an answer whose request
    names no limit, None: the context does. Raises ``BadName``, ``BadSource``.
    """

    id: str
    kind: Kind
    source: str
    aliases: tuple[str, ...] = ()
    description: str = ""
    license: str = ""
    download_bytes: int | None = None
    digests: dict[str, str] = {}
    default_max_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in (self.id, *self.aliases):
            if not _ID.fullmatch(name):
                raise BadName(name)
        parse_source(self.source)

    def place(self) -> Source:
        """Return the source itself."""
        return parse_source(self.source)


class Alias(msgspec.Struct, frozen=True):
    """``name`` answers for ``model``. Embeddings are padded with zeros to ``pad_to`` numbers, None: left as they are."""

    name: str
    model: str
    pad_to: int | None = None


class Resolved(msgspec.Struct, frozen=True):
    """The model behind a requested name, and the length to which its embeddings are padded."""

    entry: ModelEntry
    pad_to: int | None = None
