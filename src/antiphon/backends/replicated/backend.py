"""The front's end: all replicas together as one backend."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import TypeVar

import msgspec

from antiphon.backends.base import BackendModel, Countable, Health, PartStatistics
from antiphon.backends.replicated.caller import ReplicaCaller, ReplicaLost
from antiphon.backends.replicated.messages import Description, EventBatch, Refusal
from antiphon.backends.routing.prefix import prefix_key
from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.embeddings import EmbeddingRequest, EmbeddingResult
from antiphon.protocol.errors import ApiError, overloaded
from antiphon.protocol.events import Event, Meter, Started
from antiphon.protocol.rerank import RerankRequest, RerankResult

R = TypeVar("R")

_ATTEMPTS = 3
_PROBE_EVERY_S = 2.0
_PROBE_WITHIN_S = 5.0
_CLOSED = "closed"


class ReplicasStatistics(msgspec.Struct, frozen=True):
    """Requests by state. ``lost_total`` counts those whose replica went away, whether or not another one answered."""

    running: int
    requests_total: int
    lost_total: int


class ReplicatedBackend:
    """A ``Backend`` over ``caller``. ``names`` are those that every replica serves, its aliases too.

    A request whose replica is lost before its first event is sent to another one, three times in all; after the first event
    nothing is retried.
    """

    probe_interval_s = _PROBE_EVERY_S

    def __init__(self, caller: ReplicaCaller, names: Iterable[str]) -> None:
        self._caller = caller
        self._names = frozenset(names)
        self._described: Description | None = None
        self._health = Health("loading", "no replica has answered yet")
        self._num_running = self._num_requests = self._num_lost = 0

    @property
    def models(self) -> Sequence[BackendModel]:
        return self._described.models if self._described else ()

    def serves(self, model: str) -> bool:
        return model in self._names

    def health(self) -> Health:
        return self._health

    async def probe(self) -> Health:
        """Ask a replica for its health. A replica that starts only on demand does not make the front wait."""
        try:
            async with asyncio.timeout(_PROBE_WITHIN_S):
                self._described = await self._caller.describe()
            found = self._described.health
        except TimeoutError:
            found = Health("loading", "no replica answers")
        except ReplicaLost as error:
            found = Health("down", str(error))
        if self._health.detail != _CLOSED:
            self._health = found
        return found

    def chat(self, request: ChatRequest) -> AsyncGenerator[Event]:
        return self._events(request)

    def complete(self, request: CompletionRequest) -> AsyncGenerator[Event]:
        return self._events(request)

    async def embed(self, request: EmbeddingRequest) -> EmbeddingResult:
        return await self._call(lambda: self._caller.embed(request))

    async def rerank(self, request: RerankRequest) -> RerankResult:
        return await self._call(lambda: self._caller.rerank(request))

    async def count_tokens(self, request: Countable) -> int:
        return await self._call(lambda: self._caller.count_tokens(request))

    def statistics(self) -> Sequence[PartStatistics]:
        numbers = ReplicasStatistics(self._num_running, self._num_requests, self._num_lost)
        return [PartStatistics("replicas", {}, numbers)]

    async def aclose(self) -> None:
        """The replicas go on: other fronts use them too."""
        self._health = Health("down", _CLOSED)

    async def _events(self, request: ChatRequest | CompletionRequest) -> AsyncGenerator[Event]:
        self._begin_one()
        try:
            first, messages = await self._again(lambda: self._begin(request))
            async with aclosing(messages):
                reader = _Reader()
                for event in reader.read(first):
                    yield event
                async for message in messages:
                    for event in reader.read(message):
                        yield event
        except ReplicaLost as error:
            self._num_lost += 1
            raise _lost() from error
        finally:
            self._num_running -= 1

    def _begin_one(self) -> None:
        if self._health.detail == _CLOSED:
            raise overloaded(1)
        self._num_requests += 1
        self._num_running += 1

    async def _begin(
        self, request: ChatRequest | CompletionRequest
    ) -> tuple[EventBatch | Refusal, AsyncGenerator[EventBatch | Refusal]]:
        messages = self._caller.stream(prefix_key(request), request)
        try:
            return await anext(messages), messages
        except BaseException:
            await messages.aclose()
            raise

    async def _call(self, call: Callable[[], Awaitable[R | Refusal]]) -> R:
        self._begin_one()
        try:
            answer = await self._again(call)
        finally:
            self._num_running -= 1
        if isinstance(answer, Refusal):
            raise answer.error()
        return answer

    async def _again(self, call: Callable[[], Awaitable[R]]) -> R:
        for _ in range(_ATTEMPTS):
            try:
                return await call()
            except ReplicaLost:
                self._num_lost += 1
        raise _lost()


class _Reader:
    """Turns messages back into events, with a meter that follows the replica's."""

    def __init__(self) -> None:
        self._meter = Meter()

    def read(self, message: EventBatch | Refusal) -> Sequence[Event]:
        if isinstance(message, Refusal):
            raise message.error()
        if message.meter is None:
            return message.events
        self._meter.usage, self._meter.compute_s = message.meter.usage, message.meter.compute_s
        return [self._measured(event) for event in message.events]

    def _measured(self, event: Event) -> Event:
        return msgspec.structs.replace(event, meter=self._meter) if isinstance(event, Started) else event


def _lost() -> ApiError:
    return ApiError(
        503,
        "The replica that served this request stopped unexpectedly and is being replaced; please try again.",
        type="server_error",
        code="replica_lost",
        headers={"Retry-After": "1"},
    )
