"""The response cache, in front of another backend."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec

from antiphon.backends.base import (
    AliasingBackend,
    BackendModel,
    Countable,
    Health,
    PartStatistics,
    RelayedAnswer,
    RelayingBackend,
    RelayOutcome,
    ResponseRelayingBackend,
)
from antiphon.backends.caching.base import Store
from antiphon.backends.caching.keys import embedding_key, relay_key, request_key
from antiphon.backends.caching.records import RelayRecord, pack_events, pack_relay, unpack_events, unpack_relay
from antiphon.backends.caching.single_flight import SingleFlight
from antiphon.protocol.caching import CacheUse
from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.embeddings import EmbeddingRequest, EmbeddingResult
from antiphon.protocol.events import CacheStatus, Event, Spared, Started, Usage
from antiphon.protocol.relay import RelayRequest
from antiphon.protocol.rerank import RerankRequest, RerankResult

T = TypeVar("T")
R = TypeVar("R")
Piece = bytes | RelayedAnswer


class CacheStatistics(msgspec.Struct, frozen=True):
    """Requests that asked for the cache, by result; embeddings count by input."""

    hits_total: int
    misses_total: int
    joined_total: int
    in_flight: int
    entries: int | None
    bytes: int | None
    errors_total: int


class CachingBackend:
    """Answers requests that may use the cache (``request.cache``) from stored answers, and stores new ones.

    Identical concurrent requests are computed once (single-flight). Owns ``backend`` and ``store``: closing it closes them.
    """

    def __init__(self, backend: RelayingBackend, store: Store) -> None:
        self._backend = backend
        self._aliasing = backend if isinstance(backend, AliasingBackend) else None
        self._store = store
        self._events: dict[bytes, SingleFlight[Event]] = {}
        self._relays: dict[bytes, SingleFlight[Piece]] = {}
        self._counts: dict[CacheStatus, int] = {"hit": 0, "miss": 0, "joined": 0}

    @property
    def models(self) -> Sequence[BackendModel]:
        return self._backend.models

    def serves(self, model: str) -> bool:
        return self._backend.serves(model)

    def counted_as(self, model: str) -> str:
        return self._aliasing.counted_as(model) if self._aliasing is not None else model

    def describe(self, model: str) -> BackendModel | None:
        return self._aliasing.describe(model) if self._aliasing is not None else None

    def relays(self, model: str) -> bool:
        return self._backend.relays(model)

    async def relays_responses(self, model: str) -> bool:
        return isinstance(self._backend, ResponseRelayingBackend) and await self._backend.relays_responses(model)

    async def end_session(self, session: str) -> None:
        if isinstance(self._backend, ResponseRelayingBackend):
            await self._backend.end_session(session)

    def health(self) -> Health:
        return self._backend.health()

    def statistics(self) -> Sequence[PartStatistics]:
        store = self._store.statistics()
        numbers = CacheStatistics(
            self._counts["hit"],
            self._counts["miss"],
            self._counts["joined"],
            len(self._events) + len(self._relays),
            store.entries,
            store.bytes,
            store.errors_total,
        )
        return [PartStatistics("response_cache", {}, numbers), *self._backend.statistics()]

    def chat(self, request: ChatRequest) -> AsyncGenerator[Event]:
        key = request_key(request, request.cache.scope) if request.cache else None
        if request.cache is None or key is None:
            return self._backend.chat(request)
        return self._answer(key, request.cache, lambda: self._backend.chat(request))

    def complete(self, request: CompletionRequest) -> AsyncGenerator[Event]:
        key = request_key(request, request.cache.scope) if request.cache else None
        if request.cache is None or key is None:
            return self._backend.complete(request)
        return self._answer(key, request.cache, lambda: self._backend.complete(request))

    async def embed(self, request: EmbeddingRequest) -> EmbeddingResult:
        if request.cache is None:
            return await self._backend.embed(request)
        scope = request.cache.scope
        keys = [embedding_key(request.model, request.dimensions, text, scope) for text in request.inputs]
        found: dict[bytes, _Vector] = {}
        if not request.cache.refresh:
            for key in dict.fromkeys(keys):
                if (stored := await self._read(key, _vector.decode)) is not None:
                    found[key] = stored
        num_cached = sum(key in found for key in keys)
        spared = _spared([found[key] for key in keys if key in found])
        self._counts["hit"] += num_cached
        self._counts["miss"] += len(keys) - num_cached
        missing = {key: text for key, text in zip(keys, request.inputs, strict=True) if key not in found}
        computed = await self._compute(request, missing, found) if missing else None
        return EmbeddingResult(
            model=found[keys[0]].model,
            vectors=tuple(found[key].data for key in keys),
            prompt_tokens=computed.prompt_tokens if computed else 0,
            compute_s=computed.compute_s if computed else None,
            cached_inputs=num_cached,
            spared=spared,
        )

    async def rerank(self, request: RerankRequest) -> RerankResult:
        return await self._backend.rerank(request)

    async def count_tokens(self, request: Countable) -> int:
        return await self._backend.count_tokens(request)

    async def relay(self, request: RelayRequest) -> RelayedAnswer:
        key = relay_key(request, request.cache.scope) if request.cache else None
        if request.cache is None or key is None:
            return await self._backend.relay(request)
        if not request.cache.refresh:
            if (flight := self._relays.get(key)) is not None and flight.is_open:
                return await self._follow(flight, "joined")
            if (record := await self._read(key, unpack_relay)) is not None:
                self._counts["hit"] += 1
                return _StoredAnswer(record)
            if (flight := self._relays.get(key)) is not None and flight.is_open:
                return await self._follow(flight, "joined")
        return await self._follow(self._start_flight(self._relays, key, self._relay_and_store(key, request)), "miss")

    async def aclose(self) -> None:
        await self._backend.aclose()
        await self._store.aclose()

    async def _answer(
        self, key: bytes, use: CacheUse, compute: Callable[[], AsyncGenerator[Event]]
    ) -> AsyncGenerator[Event]:
        flight, status = self._events.get(key), "joined"
        if flight is None or not flight.is_open or use.refresh:
            if not use.refresh and (stored := await self._read(key, unpack_events)) is not None:
                self._counts["hit"] += 1
                for event in stored:
                    yield _marked(event, "hit")
                return
            # Another request may have begun while the store was read.
            flight = self._events.get(key)
            if flight is None or not flight.is_open or use.refresh:
                flight, status = self._start_flight(self._events, key, self._compute_and_store(key, compute())), "miss"
        self._counts[status] += 1
        async with aclosing(flight.read(pays=status == "miss")) as events:
            async for event in events:
                yield _marked(event, status)

    async def _compute_and_store(self, key: bytes, source: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
        answer: list[Event] = []
        async with aclosing(source) as events:
            async for event in events:
                answer.append(event)
                yield event
        await self._store.put(key, pack_events(answer))

    async def _relay_and_store(self, key: bytes, request: RelayRequest) -> AsyncGenerator[Piece]:
        """Yield the answer itself, for its headers and outcome, then its pieces."""
        answer = await self._backend.relay(request)
        pieces: list[bytes] = []
        async with aclosing(answer):
            yield answer
            async for piece in answer:
                pieces.append(piece)
                yield piece
        outcome = answer.outcome
        if outcome.finish_reason is None and request.operation != "embeddings":
            # The upstream closed the stream in order, but no choice ever ended: not an answer to store.
            return
        await self._store.put(key, pack_relay(RelayRecord(dict(answer.headers), tuple(pieces), outcome)))

    async def _follow(self, flight: SingleFlight[Piece], status: CacheStatus) -> RelayedAnswer:
        self._counts[status] += 1
        pieces = flight.read(pays=status == "miss")
        try:
            answer = await anext(pieces)
        except BaseException:
            await pieces.aclose()
            raise
        assert not isinstance(answer, bytes)
        return _SharedAnswer(answer, pieces, status)

    async def _compute(
        self, request: EmbeddingRequest, missing: Mapping[bytes, str | tuple[int, ...]], found: "dict[bytes, _Vector]"
    ) -> EmbeddingResult:
        inputs = tuple(missing.values())
        raw = {**request.raw, "input": list(inputs)} if request.raw else request.raw
        result = await self._backend.embed(msgspec.structs.replace(request, inputs=inputs, raw=raw))
        lengths = dict(zip(missing, result.input_tokens or [None] * len(missing), strict=True))
        for key, data in zip(missing, result.vectors, strict=True):
            found[key] = _Vector(result.model, data, lengths[key], is_local=result.compute_s is not None)
            await self._store.put(key, msgspec.msgpack.encode(found[key]))
        return result

    async def _read(self, key: bytes, decode: Callable[[bytes], R]) -> R | None:
        """Return what is stored under the key; None also for a value that cannot be read, which another version wrote."""
        stored = await self._store.get(key)
        try:
            return None if stored is None else decode(stored)
        except (msgspec.DecodeError, UnicodeDecodeError, IndexError, RecursionError):
            return None

    def _start_flight(
        self, flights: dict[bytes, SingleFlight[T]], key: bytes, source: AsyncGenerator[T]
    ) -> SingleFlight[T]:
        flight = SingleFlight(source)
        flights[key] = flight

        def landed(_: Any) -> None:
            if flights.get(key) is flight:
                del flights[key]

        flight.task.add_done_callback(landed)
        return flight


class _Vector(msgspec.Struct, frozen=True, array_like=True):
    """A stored vector, the model that made it, and where. ``num_tokens`` of its input; None: not counted."""

    model: str
    data: bytes
    num_tokens: int | None
    is_local: bool


_vector = msgspec.msgpack.Decoder(_Vector)


class _StoredAnswer:
    """A relayed answer from the store."""

    def __init__(self, record: RelayRecord) -> None:
        self.headers: Mapping[str, str] = record.headers
        self.outcome = msgspec.structs.replace(record.outcome, cache="hit")
        self._pieces = record.pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece

    async def aclose(self) -> None:
        """Nothing is open."""


class _SharedAnswer:
    """A relayed answer that several requests share."""

    def __init__(self, answer: RelayedAnswer, pieces: AsyncGenerator[Piece], status: CacheStatus) -> None:
        self.headers = answer.headers
        self._answer = answer
        self._pieces = pieces
        self._status: CacheStatus = status

    @property
    def outcome(self) -> RelayOutcome:
        return msgspec.structs.replace(self._answer.outcome, cache=self._status)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._pieces:
            assert isinstance(piece, bytes)
            yield piece

    async def aclose(self) -> None:
        await self._pieces.aclose()


def _marked(event: Event, status: CacheStatus) -> Event:
    """Mark what the cache did; for a request that did not compute, the meter says what it was spared."""
    if not isinstance(event, Started):
        return event
    if status == "miss":
        return msgspec.structs.replace(event, cache=status)
    return msgspec.structs.replace(event, cache=status, meter=None, spared=event.meter)


def _spared(vectors: Sequence[_Vector]) -> Spared | None:
    counts = [vector.num_tokens for vector in vectors if vector.num_tokens is not None]
    if not vectors or len(counts) < len(vectors):
        return None
    return Spared(Usage(sum(counts)), is_local=any(vector.is_local for vector in vectors))
