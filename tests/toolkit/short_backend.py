"""A scripted backend whose embedding model holds few words, as small models do."""

from __future__ import annotations

from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.protocol.embeddings import EmbeddingRequest, EmbeddingResult
from antiphon.protocol.errors import context_length_exceeded

CHAT, EMBEDDING = "gpt-4o-mini", "text-embedding-3-small"


class ShortBackend(ScriptedBackend):
    """Refuses a request with an input of more than ``limit`` words, as the API refuses what exceeds a context."""

    def __init__(self, limit: int) -> None:
        super().__init__(Script(models=(CHAT,), embedding_models=(EMBEDDING,)))
        self.limit = limit
        self.inputs: list[str] = []

    async def embed(self, request: EmbeddingRequest) -> EmbeddingResult:
        longest = max(len(str(text).split()) for text in request.inputs)
        if longest > self.limit:
            raise context_length_exceeded(self.limit, longest)
        self.inputs += [str(text) for text in request.inputs]
        return await super().embed(request)
