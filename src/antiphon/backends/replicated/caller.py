"""The contract of the transport that carries requests to replicas."""

from collections.abc import AsyncGenerator
from typing import Protocol

from antiphon.backends.base import Countable
from antiphon.backends.replicated.messages import Description, EventBatch, Refusal
from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.embeddings import EmbeddingRequest, EmbeddingResult
from antiphon.protocol.rerank import RerankRequest, RerankResult


class ReplicaLost(Exception):  # noqa: N818 - what happened
    """The replica that did the work is gone, or cannot be reached. Another one may be tried."""


class ReplicaCaller(Protocol):
    """Calls one replica per request, which it chooses. Each method raises ``ReplicaLost`` when that replica goes away."""

    def stream(self, key: bytes, request: ChatRequest | CompletionRequest) -> AsyncGenerator[EventBatch | Refusal]:
        """Yield what ``ReplicaService.stream`` yields; requests with one ``key`` go where its prefix is cached.

        Closing it stops the replica's work.
        """
        ...

    async def embed(self, request: EmbeddingRequest) -> EmbeddingResult | Refusal: ...

    async def rerank(self, request: RerankRequest) -> RerankResult | Refusal: ...

    async def count_tokens(self, request: Countable) -> int | Refusal: ...

    async def describe(self) -> Description: ...
