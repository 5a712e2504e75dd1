"""The contract of a backend: a validated request in, one stream of typed events out."""

from collections.abc import AsyncGenerator, Sequence
from typing import Literal, Protocol

import msgspec

from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.embeddings import EmbeddingRequest, EmbeddingResult
from antiphon.protocol.events import Event


class BackendModel(msgspec.Struct, frozen=True):
    """A model as ``GET /v1/models`` shows it. ``created`` is in Unix seconds, ``context_length`` in tokens."""

    id: str
    created: int
    owned_by: str
    kind: Literal["chat", "embedding"]
    context_length: int | None = None


class Health(msgspec.Struct, frozen=True):
    """``loading`` and ``down`` answer 503 on ``/health``; ``detail`` is for people."""

    state: Literal["ready", "loading", "down"]
    detail: str = ""


class Backend(Protocol):
    """Answers requests for the models it lists.

    Every generator stops its work at once when it is closed (``aclose``): that is how a client that left
    is noticed below. Errors are ``ApiError``; anything else is a fault of ours and becomes a 500. A method
    for which a model is of the wrong kind raises ``ApiError`` 400.
    """

    @property
    def models(self) -> Sequence[BackendModel]:
        """What this backend serves; may grow once it is ready."""
        ...

    def chat(self, request: ChatRequest) -> AsyncGenerator[Event]:
        """Answer a chat request; see ``protocol.events`` for the order of events."""
        ...

    def complete(self, request: CompletionRequest) -> AsyncGenerator[Event]:
        """Continue prompts; choice indices as ``CompletionRequest`` says."""
        ...

    async def embed(self, request: EmbeddingRequest) -> EmbeddingResult:
        """Return one vector per input."""
        ...

    async def count_tokens(self, request: ChatRequest) -> int:
        """Return the exact number of prompt tokens the request would have, template and tools included."""
        ...

    def health(self) -> Health:
        """Return at once, without I/O."""
        ...

    async def aclose(self) -> None:
        """Release everything; running requests fail with a 503. Idempotent."""
        ...
