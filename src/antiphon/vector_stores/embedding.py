"""What vector stores need of an embedding model; the server gives it."""

from collections.abc import Sequence
from typing import Protocol

from antiphon.protocol.errors import ApiError
from antiphon.search.chunking import Chunk, Chunking
from antiphon.search.index_file import Vector
from antiphon.search.prefixes import known_prefixes
from antiphon.vector_stores.errors import UnreadableFile
from antiphon.wire.failures import says_too_large

_TOO_LONG = "context_length_exceeded"
_REFUSALS = frozenset({400, 413, 422})
BATCH = 32
"""Chunks that are embedded in one step: interactive requests come in between."""


class StoreEmbedding(Protocol):
    """Makes vectors, and records what they cost under the account that they are for."""

    def model(self) -> str:
        """Return the model that a new store gets. ``ApiError`` 400 if there is none."""
        ...

    async def embed(self, texts: Sequence[str], model: str, account: str, path: str) -> list[Vector]:
        """Return one unit vector per text. ``path`` is for the usage row. Raises ``ApiError``."""
        ...


class ChunkEmbedder:
    """Embeds the chunks of one file; a chunk that the model cannot hold is cut in two until it can."""

    def __init__(self, embedding: StoreEmbedding, model: str, account: str, path: str) -> None:
        self._embedding = embedding
        self._model = model
        self._account = account
        self._path = path

    async def embed(self, title: str, chunks: Sequence[Chunk]) -> list[tuple[Chunk, Vector]]:
        """Return chunks, perhaps more than were given, with their vectors. ``UnreadableFile`` for one that does not fit."""
        before = known_prefixes(self._model).passage
        texts = [f"{before}{title}\n\n{chunk.text}" if title else before + chunk.text for chunk in chunks]
        try:
            vectors = await self._embedding.embed(texts, self._model, self._account, self._path)
        except ApiError as error:
            if error.status not in _REFUSALS or not (error.code == _TOO_LONG or says_too_large(error.message)):
                raise
            parts = (
                [chunks[: len(chunks) // 2], chunks[len(chunks) // 2 :]] if len(chunks) > 1 else [_halves(chunks[0])]
            )
            return [pair for part in parts for pair in await self.embed(title, part)]
        return list(zip(chunks, vectors, strict=True))


def _halves(chunk: Chunk) -> list[Chunk]:
    """Cut a chunk where its text pauses, into two or more parts."""
    middle = len(chunk.text) // 2
    for tokens in (512, 256, 128, 64, 32, 16, 8, 4, 2, 1):
        parts = Chunking(tokens, 0).chunks(chunk.text)
        if len(parts) > 1 and max(len(part.text) for part in parts) <= max(middle + middle // 2, 1):
            return [Chunk(part.text, chunk.start + part.start, chunk.start + part.end) for part in parts]
    raise UnreadableFile("invalid_file", "The embedding model cannot hold even a short piece of the file.")
