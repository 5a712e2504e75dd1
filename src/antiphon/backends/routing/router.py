"""The router: to the server it is one backend that serves every model."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Protocol, TypeVar, runtime_checkable

import msgspec

from antiphon.backends.base import (
    Backend,
    BackendModel,
    Countable,
    Destination,
    ForwardedAnswer,
    ForwardedSocket,
    Health,
    PartStatistics,
    RelayedAnswer,
    RelayingBackend,
    RelayOutcome,
    SteerableAnswer,
)
from antiphon.backends.routing.dispatch import Clock, Dispatcher, Start
from antiphon.backends.routing.prefix import prefix_key
from antiphon.backends.routing.retry_decision import classify_error
from antiphon.backends.routing.settings import BreakerSettings, NameSettings, RetrySettings, RouteSettings
from antiphon.backends.routing.table import Route, RouteTable, Target
from antiphon.backends.routing.target_state import TargetState
from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.embeddings import EmbeddingRequest, EmbeddingResult
from antiphon.protocol.errors import ApiError, model_not_found
from antiphon.protocol.events import Event
from antiphon.protocol.forward import ForwardRequest, SocketRequest
from antiphon.protocol.relay import RelayRequest
from antiphon.protocol.rerank import RerankRequest, RerankResult

Request = TypeVar("Request", ChatRequest, CompletionRequest, EmbeddingRequest, RerankRequest, RelayRequest)
AnyRequest = ChatRequest | CompletionRequest | EmbeddingRequest | RerankRequest | RelayRequest
T = TypeVar("T")


@runtime_checkable
class UpstreamOfAnyPath(Protocol):
    """A backend that is another API, to which a request for any path can be sent."""

    async def has_responses(self) -> bool: ...

    async def forward(self, request: ForwardRequest) -> ForwardedAnswer: ...

    async def connect(self, request: SocketRequest) -> ForwardedSocket: ...

    async def end_session(self, session: str) -> None: ...


@runtime_checkable
class ProbedBackend(Protocol):
    """A backend whose health is found by asking it."""

    @property
    def probe_interval_s(self) -> float: ...

    async def probe(self) -> Health: ...


class Router:
    """Sends each request where its model is served. Owns the backends: closing it closes them.

    Nothing is retried after the first token. ``routes`` may be empty: then each backend answers for the models
    that it serves, and those that serve the same one share its requests.
    """

    def __init__(
        self,
        backends: Mapping[str, Backend],
        routes: Sequence[RouteSettings] = (),
        *,
        retry: RetrySettings | None = None,
        breaker: BreakerSettings | None = None,
        clock: Clock | None = None,
        names: NameSettings | None = None,
    ) -> None:
        clock = clock or Clock()
        breaker = breaker or BreakerSettings()
        self._backends = dict(backends)
        self._clock = clock
        self._table = RouteTable(
            routes, self._backends, lambda name, backend: TargetState(name, backend, breaker, clock.now), names
        )
        self._dispatcher = Dispatcher(retry or RetrySettings(), clock)
        self._probes: set[asyncio.Task[None]] = set()
        self._apis = {name: each for name, each in backends.items() if isinstance(each, UpstreamOfAnyPath)}
        self._can_relay = any(isinstance(backend, RelayingBackend) for backend in backends.values())

    async def start(self) -> None:
        """Check the health of every upstream once, then go on in the background until ``aclose``."""
        probed = [backend for backend in self._backends.values() if isinstance(backend, ProbedBackend)]
        await asyncio.gather(*(backend.probe() for backend in probed))
        for backend in probed:
            self._probes.add(asyncio.ensure_future(self._keep_probing(backend)))

    @property
    def models(self) -> Sequence[BackendModel]:
        return self._table.models()

    def serves(self, model: str) -> bool:
        return self._table.find(model) is not None

    def counted_as(self, model: str) -> str:
        route = self._table.find(model)
        return model if route is None or not route.is_alias else route.name

    def describe(self, model: str) -> BackendModel | None:
        return self._table.describe(model)

    def relays(self, model: str) -> bool:
        if not self._can_relay:
            return False
        route = self._table.find(model)
        return route is not None and all(each.relays for _, each in ((model, route), *self._fallbacks(route)))

    async def relays_responses(self, model: str) -> bool:
        if not self.relays(model):
            return False
        route = self._route(model)
        routes = (route, *(fallback for _, fallback in self._fallbacks(route)))
        apis = {id(api): api for each in routes for target in each.targets if (api := _api(target)) is not None}
        answers = await asyncio.gather(*(api.has_responses() for api in apis.values()))
        return bool(answers) and all(answers)

    def health(self) -> Health:
        """Ready as soon as one backend is; ``detail`` says what is wrong with the others."""
        # A healthy backend that serves nothing does not count: a machine without local models, for one.
        found = {
            name: health
            for name, backend in self._backends.items()
            if (health := backend.health()).state != "ready" or backend.models
        }
        if not found:
            return Health("ready")
        states = [health.state for health in found.values()]
        state = "ready" if "ready" in states else "loading" if "loading" in states else "down"
        unwell = [f"{name}: {h.detail or h.state}" for name, h in found.items() if h.state != "ready"]
        return Health(state, "; ".join(unwell))

    def statistics(self) -> Sequence[PartStatistics]:
        states = [
            PartStatistics("router", {"backend": state.name, "model": model}, state.statistics())
            for model, state in self._table.states()
            if state.was_used
        ]
        return [*states, *(part for backend in self._backends.values() for part in backend.statistics())]

    def chat(self, request: ChatRequest) -> AsyncGenerator[Event]:
        route = self._route(request.model)
        if route.is_direct:
            target = route.targets[0]
            return target.state.backend.chat(_renamed(request, target.model or request.model))
        return self._events(route, request, lambda target, model: target.state.backend.chat(_renamed(request, model)))

    def complete(self, request: CompletionRequest) -> AsyncGenerator[Event]:
        route = self._route(request.model)
        if route.is_direct:
            target = route.targets[0]
            return target.state.backend.complete(_renamed(request, target.model or request.model))
        return self._events(
            route, request, lambda target, model: target.state.backend.complete(_renamed(request, model))
        )

    async def embed(self, request: EmbeddingRequest) -> EmbeddingResult:
        return await self._whole(request, lambda backend, named: backend.embed(named))

    async def rerank(self, request: RerankRequest) -> RerankResult:
        return await self._whole(request, lambda backend, named: backend.rerank(named))

    async def count_tokens(self, request: Countable) -> int:
        target = self._route(request.model).targets[0]
        named = msgspec.structs.replace(request, model=target.model or request.model)
        return await target.state.backend.count_tokens(named)

    async def relay(self, request: RelayRequest) -> RelayedAnswer:
        route = self._route(request.model)
        answer, target = await self._send(
            _with_response(route, request),
            request,
            lambda target, model: _relaying(target).relay(_renamed(request, model)),
        )
        if request.turn is not None and isinstance(answer, SteerableAnswer):
            return _SteerableResponse(answer, target.state)
        return _TrackedAnswer(answer, target.state, keeps=request.operation == "responses")

    @property
    def upstreams(self) -> Sequence[str]:
        return tuple(self._apis)

    def destination(self, model: str) -> Destination | None:
        route = self._table.find(model)
        targets = () if route is None else [each for each in route.targets if each.state.name in self._apis]
        if not targets:
            return None
        # Nothing is retried elsewhere, so the first that is up is taken.
        target = next((each for each in targets if not each.state.is_down), targets[0])
        return Destination(target.state.name, target.model or model)

    async def forward(self, upstream: str, request: ForwardRequest) -> ForwardedAnswer:
        return await self._apis[upstream].forward(request)

    async def connect(self, upstream: str, request: SocketRequest) -> ForwardedSocket:
        return await self._apis[upstream].connect(request)

    async def end_session(self, session: str) -> None:
        await asyncio.gather(*(api.end_session(session) for api in self._apis.values()))

    async def aclose(self) -> None:
        for probe in self._probes:
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)
        await asyncio.gather(*(backend.aclose() for backend in self._backends.values()))

    async def _whole(self, request: Request, ask: Callable[[Backend, Request], Awaitable[T]]) -> T:
        """Return an answer that comes in one piece."""
        route = self._route(request.model)
        if route.is_direct:
            target = route.targets[0]
            return await ask(target.state.backend, _renamed(request, target.model or request.model))
        result, target = await self._send(
            route, request, lambda target, model: ask(target.state.backend, _renamed(request, model))
        )
        target.state.end()
        return result

    def _route(self, model: str) -> Route:
        route = self._table.find(model)
        if route is None:
            raise model_not_found(model)
        return route

    def _fallbacks(self, route: Route) -> list[tuple[str, Route]]:
        """Return the fallbacks that are known now: an upstream that never answered has not listed its models yet."""
        found = ((name, self._table.find(name)) for name in route.fallbacks)
        return [(name, fallback) for name, fallback in found if fallback is not None]

    async def _send(self, route: Route, request: AnyRequest, start: Start[T]) -> tuple[T, Target]:
        """Try the route, then its fallbacks, within the time that the settings allow for all of them together."""
        attempts = self._dispatcher.attempts()
        routes = [(request.model, route), *self._fallbacks(route)]
        if isinstance(request, RelayRequest):
            routes = [(name, each) for name, each in routes if each.relays]
        for place, (name, current) in enumerate(routes):
            try:
                return await self._dispatcher.send(current, name, _key(current, request), attempts, start)
            except ApiError as error:
                is_last = place + 1 == len(routes) or not attempts.has_time(0)
                if is_last or classify_error(error).again == "nowhere":
                    raise
                attempts.again()
        raise AssertionError("unreachable: the last route raises")

    async def _events(
        self,
        route: Route,
        request: ChatRequest | CompletionRequest,
        open_stream: Callable[[Target, str], AsyncGenerator[Event]],
    ) -> AsyncGenerator[Event]:
        (first, events), target = await self._send(
            route, request, lambda target, model: _first_event(open_stream(target, model))
        )
        state = target.state
        try:
            async with aclosing(events):
                yield first
                async for event in events:
                    yield event
        except ApiError as error:
            state.failed(classify_error(error))
            raise
        finally:
            state.end()

    async def _keep_probing(self, backend: ProbedBackend) -> None:
        while True:
            await self._clock.sleep(backend.probe_interval_s)
            await backend.probe()


class _TrackedAnswer:
    """A relayed answer that counts as outstanding at its target until it is closed."""

    def __init__(self, answer: RelayedAnswer, state: TargetState, *, keeps: bool) -> None:
        self._answer = answer
        self._keeps = keeps
        self._state = state
        self._is_open = True

    @property
    def headers(self) -> Mapping[str, str]:
        return self._answer.headers

    @property
    def outcome(self) -> RelayOutcome:
        outcome = self._answer.outcome
        return msgspec.structs.replace(outcome, upstream=self._state.name) if self._keeps else outcome

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._answer:
                yield piece
        except ApiError as error:
            self._state.failed(classify_error(error))
            raise

    async def aclose(self) -> None:
        if self._is_open:
            self._is_open = False
            self._state.end()
            await self._answer.aclose()


class _SteerableResponse(_TrackedAnswer):
    """A response that can be steered. The one that the upstream begins after it counts as a request of its own."""

    def __init__(self, answer: SteerableAnswer, state: TargetState) -> None:
        super().__init__(answer, state, keeps=True)
        self._response = answer

    async def steer(self, message: str) -> bool:
        return await self._response.steer(message)

    def successor(self) -> "_SteerableResponse | None":
        following = self._response.successor()
        if following is None:
            return None
        self._state.succeeded(is_trial=self._state.begin())
        return _SteerableResponse(following, self._state)


async def _first_event(events: AsyncGenerator[Event]) -> tuple[Event, AsyncGenerator[Event]]:
    """Wait for the first event, so that until then another backend can be tried."""
    try:
        return await anext(events), events
    except BaseException:
        await events.aclose()
        raise


def _renamed(request: Request, model: str) -> Request:
    return request if model == request.model else msgspec.structs.replace(request, model=model)


def _with_response(route: Route, request: RelayRequest) -> Route:
    """Return the part of the route that can continue what the request continues; all of it where the input is here, too."""
    if request.upstream is None:
        return route
    can_go_elsewhere = request.turn is not None and request.turn.whole_input is not None
    is_served_there = any(target.state.name == request.upstream for target in route.targets)
    return route if can_go_elsewhere and not is_served_there else route.only(request.upstream)


def _relaying(target: Target) -> RelayingBackend:
    assert target.state.relaying is not None
    return target.state.relaying


def _api(target: Target) -> UpstreamOfAnyPath | None:
    backend = target.state.backend
    return backend if isinstance(backend, UpstreamOfAnyPath) else None


def _key(route: Route, request: AnyRequest) -> bytes | None:
    if route.balance != "prefix" or isinstance(request, EmbeddingRequest | RerankRequest):
        return None
    return prefix_key(request)
