"""A replica's end: the answers of its backend as messages."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from antiphon.backends.base import Backend, Countable
from antiphon.backends.replicated.messages import Description, EventBatch, Refusal
from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.embeddings import EmbeddingRequest, EmbeddingResult
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import Event, Meter, Started
from antiphon.protocol.rerank import RerankRequest, RerankResult


class ReplicaService:
    """Answers for ``backend``, which the caller owns and closes."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def stream(self, request: ChatRequest | CompletionRequest) -> AsyncGenerator[EventBatch | Refusal]:
        """Yield the events in batches, each of the events that came while the one before was sent; a ``Refusal`` ends them.

        Closing it stops the work.
        """
        is_chat = isinstance(request, ChatRequest)
        gathering = _Gathering(self._backend.chat(request) if is_chat else self._backend.complete(request))
        try:
            while batch := await gathering.next():
                yield batch
        except ApiError as error:
            yield Refusal.of(error)
        finally:
            await gathering.aclose()

    async def embed(self, request: EmbeddingRequest) -> EmbeddingResult | Refusal:
        try:
            return await self._backend.embed(request)
        except ApiError as error:
            return Refusal.of(error)

    async def rerank(self, request: RerankRequest) -> RerankResult | Refusal:
        try:
            return await self._backend.rerank(request)
        except ApiError as error:
            return Refusal.of(error)

    async def count_tokens(self, request: Countable) -> int | Refusal:
        try:
            return await self._backend.count_tokens(request)
        except ApiError as error:
            return Refusal.of(error)

    def describe(self) -> Description:
        """Return what is served, and its health, at once."""
        return Description(tuple(self._backend.models), self._backend.health())


class _Gathering:
    """Reads events as they come, and returns all that have come so far."""

    def __init__(self, source: AsyncGenerator[Event]) -> None:
        self._source = source
        self._events: list[Event] = []
        self._meter: Meter | None = None
        self._news = asyncio.Event()
        self._task = asyncio.ensure_future(self._read())
        self._task.add_done_callback(lambda _: self._news.set())

    async def next(self) -> EventBatch | None:
        """Wait for events; None after the last one. Raises what the source raised, once its events are returned."""
        await self._news.wait()
        self._news.clear()
        if not self._events:
            self._task.result()
            return None
        events, self._events = tuple(self._events), []
        if self._task.done():
            self._news.set()
        return EventBatch(events, msgspec.structs.replace(self._meter) if self._meter else None)

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _read(self) -> None:
        async with aclosing(self._source) as events:
            async for event in events:
                if isinstance(event, Started):
                    self._meter = event.meter
                self._events.append(event)
                self._news.set()
