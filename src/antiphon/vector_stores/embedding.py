"""What vector stores need of an embedding model; the server gives it."""

from collections.abc import Sequence
from typing import Protocol

from antiphon.protocol.errors import ApiError
from antiphon.search.chunking import Chunk, Chunking
from antiphon.search.index_file import Vector
from antiphon.search.prefixes import known_prefixes
from antiphon.vector_stores.errors import UnreadableFile
from antiphon.vector_stores.progress import FileProgress
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
        """Return one unit vector per text, for a request that was admitted. ``path`` is for the usage row. Raises ``ApiError``."""
        ...

    async def embed_within_limits(self, texts: Sequence[str], model: str, account: str, path: str) -> list[Vector]:
        """Return unit vectors of the first texts, one at least: of as many as the account's limits let in at once.

        Raises ``KeyAtLimit`` while they have no room, ``UnreadableFile`` if they never will, and ``ApiError``.
        """
        ...


class ChunkEmbedder:
    """Embeds the chunks of one file step by step; a chunk that the model cannot hold is cut until it can."""

    def __init__(self, embedding: StoreEmbedding, model: str, account: str, path: str) -> None:
        self._embedding = embedding
        self._model = model
        self._account = account
        self._path = path
        self._most = BATCH

    async def step(self, progress: FileProgress) -> None:
        """Embed the next chunks, one at least, or cut the next one, or find out that fewer are to be tried at once.

        Raises what ``embed_within_limits`` raises, and ``UnreadableFile`` for a text that the model cannot hold in any piece.
        """
        chunks = progress.next_chunks(self._most)
        before, title = known_prefixes(self._model).passage, progress.read.title
        texts = [f"{before}{title}\n\n{chunk.text}" if title else before + chunk.text for chunk in chunks]
        try:
            vectors = await self._embedding.embed_within_limits(texts, self._model, self._account, self._path)
        except ApiError as error:
            if not is_too_long(error):
                raise
            # One of them is too long: fewer are tried, until it is alone.
            self._most = max(len(chunks) // 2, 1)
            if len(chunks) == 1:
                progress.cut(_parts(chunks[0]))
            return
        progress.add(vectors)
        self._most = min(2 * self._most, BATCH)


def is_too_long(error: ApiError) -> bool:
    """Return whether a model refused texts for their length."""
    return error.status in _REFUSALS and (error.code == _TOO_LONG or says_too_large(error.message))


def halves(text: str) -> list[str]:
    """Cut a text where it pauses, into two or more parts; none if it cannot be cut."""
    return [part.text for part in _cut(text)]


def _parts(chunk: Chunk) -> list[Chunk]:
    parts = _cut(chunk.text)
    if not parts:
        raise UnreadableFile("invalid_file", "The embedding model cannot hold even a short piece of the file.")
    return [Chunk(part.text, chunk.start + part.start, chunk.start + part.end) for part in parts]


def _cut(text: str) -> list[Chunk]:
    middle = len(text) // 2
    for tokens in (512, 256, 128, 64, 32, 16, 8, 4, 2, 1):
        parts = Chunking(tokens, 0).chunks(text)
        if len(parts) > 1 and max(len(part.text) for part in parts) <= max(middle + middle // 2, 1):
            return parts
    return []
