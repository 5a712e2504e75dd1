"""Antiphon on a Ray cluster: ``serve run antiphon.server.ray_serve:application config=antiphon.toml``.

Two deployments. ``Engines``: replicas that each run the configured models, as many as the load asks for; ``Front``: the
whole API - keys, limits, ledger, upstreams - behind Ray Serve's proxies. A front asks the replica whose prefix cache has the
beginning of the conversation (``PrefixRouter``). The only module that imports Ray.
"""

# Ray is an extra: where it is not installed, its types are unknown.
# pyright: basic, reportMissingImports=false
import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import ray
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from antiphon.backends.base import Countable
from antiphon.backends.local.backend import LocalBackend
from antiphon.backends.replicated import (
    Description,
    EventBatch,
    Refusal,
    ReplicaLost,
    ReplicaService,
    ReplicatedBackend,
)
from antiphon.backends.routing.balance import Load, by_outstanding, by_prefix
from antiphon.config import read_layers
from antiphon.errors import ConfigError
from antiphon.models.progress import ignore
from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.embeddings import EmbeddingRequest, EmbeddingResult
from antiphon.protocol.rerank import RerankRequest, RerankResult
from antiphon.server.app import create_app
from antiphon.server.configuration import SECTIONS, Configuration, load_configuration
from antiphon.server.logs import configure_logs
from antiphon.server.process.server_parts import ServerParts, fetch_models, make_local, served_names
from antiphon.server.request.asgi import Receive, Send

T = TypeVar("T")
Settings = Mapping[str, Mapping[str, Any]]

ENGINES, FRONT = "Engines", "Front"
_ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - Serve decides where its proxies listen; see ``_front_configuration``


class PrefixRouter(RequestRouter):
    """Chooses replicas by the key that is a call's first argument, in that key's order; by load for calls without a key."""

    turn = 0

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        key = pending_request.args[0] if pending_request is not None and pending_request.args else None
        loads = [
            Load(str(replica.replica_id), 1.0, self.replica_queue_len_cache.get(replica.replica_id) or 0)
            for replica in candidate_replicas
        ]
        self.turn += 1
        order = by_prefix(loads, key, self.turn) if key else by_outstanding(loads, self.turn)
        return [[candidate_replicas[place]] for place in order]


class Engines:
    """One replica: the configured models, with the processors that Ray gave it."""

    async def __init__(self, settings: Settings) -> None:
        configuration = _with_threads(_configuration(settings), _assigned_processors())
        configure_logs(configuration.server.log_level, configuration.server.log_format)
        files = await asyncio.to_thread(fetch_models, configuration, ignore)
        self._backend: LocalBackend = make_local(configuration, files)
        self._service = ReplicaService(self._backend)
        await self._backend.start()

    async def stream(self, _: bytes, request: ChatRequest | CompletionRequest) -> AsyncGenerator[EventBatch | Refusal]:
        """See ``ReplicaService.stream``; the key was for the router."""
        messages = self._service.stream(request)
        try:
            async for message in messages:
                yield message
        finally:
            await messages.aclose()

    async def embed(self, _: bytes, request: EmbeddingRequest) -> EmbeddingResult | Refusal:
        return await self._service.embed(request)

    async def rerank(self, _: bytes, request: RerankRequest) -> RerankResult | Refusal:
        return await self._service.rerank(request)

    async def count_tokens(self, _: bytes, request: Countable) -> int | Refusal:
        return await self._service.count_tokens(request)

    async def describe(self, _: bytes) -> Description:
        return self._service.describe()

    async def check_health(self) -> None:
        """Called by Ray, which replaces a replica that raises. The replica itself restarts an engine that crashed."""
        health = self._backend.health()
        if health.state == "down":
            raise RuntimeError(health.detail)

    async def __del__(self) -> None:
        await self._backend.aclose()


class RayCaller:
    """A ``ReplicaCaller`` over the handle of ``Engines``."""

    def __init__(self, handle: "DeploymentHandle[Any]") -> None:
        self._handle = handle
        self._streams = handle.options(stream=True)

    async def stream(
        self, key: bytes, request: ChatRequest | CompletionRequest
    ) -> AsyncGenerator[EventBatch | Refusal]:
        answer: Any = self._streams.stream.remote(key, request)
        try:
            async for message in answer:
                yield message
        except (RayActorError, RayServeException) as error:
            raise ReplicaLost(str(error)) from error
        finally:
            answer.cancel()

    async def embed(self, request: EmbeddingRequest) -> EmbeddingResult | Refusal:
        return await _answer(self._handle.embed.remote(b"", request))

    async def rerank(self, request: RerankRequest) -> RerankResult | Refusal:
        return await _answer(self._handle.rerank.remote(b"", request))

    async def count_tokens(self, request: Countable) -> int | Refusal:
        return await _answer(self._handle.count_tokens.remote(b"", request))

    async def describe(self) -> Description:
        return await _answer(self._handle.describe.remote(b""))


async def _answer(response: Awaitable[Any]) -> Any:
    try:
        return await response
    except (RayActorError, RayServeException) as error:
        raise ReplicaLost(str(error)) from error


class FrontApp:
    """The API as an ASGI application that starts and ends with its lifespan."""

    def __init__(self, settings: Settings) -> None:
        self._configuration = _front_configuration(settings)
        self._parts: ServerParts | None = None
        self._app: Any = None

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await self._app(*_under_serves_id(scope, send, receive))

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._open()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if self._parts is not None:
            await self._parts.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _open(self) -> None:
        configuration = self._configuration
        configure_logs(configuration.server.log_level, configuration.server.log_format)
        handle = serve.get_deployment_handle(ENGINES)
        backend = ReplicatedBackend(RayCaller(handle), served_names(configuration))
        self._parts = await ServerParts.over(configuration, backend)
        await self._parts.start()
        self._app = create_app(self._parts.service)


def _under_serves_id(scope: Any, send: Send, receive: Receive) -> tuple[Any, Receive, Send]:
    """Use the request id that Serve's proxy assigns and sends itself, so that an answer does not carry two."""
    given = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), None)
    if given is None:
        return scope, receive, send

    async def send_without_id(message: Any) -> None:
        if message["type"] == "http.response.start":
            headers = [header for header in message["headers"] if header[0] != b"x-request-id"]
            message = {**message, "headers": headers}
        await send(message)

    return {**scope, "antiphon.request_id": given}, receive, send_without_id


def _configuration(settings: Settings) -> Configuration:
    """Return the same configuration on every node, except for the folder of its data, which each node chooses."""
    home = {name: value for name, value in os.environ.items() if name == "ANTIPHON_HOME"}
    return load_configuration(environ=home, options=settings)


def _front_configuration(settings: Settings) -> Configuration:
    """Return the configuration of a front. It can be reached from anywhere, so it refuses to start without keys."""
    configuration = _configuration(settings)
    return replace(configuration, server=msgspec.structs.replace(configuration.server, host=_ANY_ADDRESS))


def _with_threads(configuration: Configuration, num_processors: int) -> Configuration:
    threads = {"threads": num_processors, "batch_threads": num_processors}
    return replace(
        configuration,
        engine={**threads, **configuration.engine},
        embedding_engine={**threads, **configuration.embedding_engine},
    )


def _assigned_processors() -> int:
    return max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))


def _settings(arguments: Mapping[str, Any]) -> Settings:
    known = ("config", "settings", "engines", "front")
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise ConfigError(f"unknown argument {unknown[0]!r} of the application", hint=f"it takes {', '.join(known)}")
    file = arguments.get("config")
    return read_layers(SECTIONS, file=None if file is None else Path(file), options=arguments.get("settings"))


def application(arguments: dict[str, Any]) -> serve.Application:
    """Return the application for ``serve run``, ``serve build`` and a Serve configuration's ``import_path``.

    ``arguments``: ``config``, a TOML file on the machine where this is called; ``settings``, the same sections as tables,
    which win over it; settings in the environment count there, too, and nowhere else. ``engines``, ``front``: options of Ray
    Serve for the two deployments (``autoscaling_config``, ``ray_actor_options``, ...), as its own configuration may give them
    under ``deployments``. Raises ``ConfigError`` for what cannot be meant.
    """
    settings = _settings(arguments)
    configuration = _front_configuration(settings)

    def build() -> FrontApp:
        return FrontApp(settings)

    engines: dict[str, Any] = {
        "max_ongoing_requests": 64,
        "autoscaling_config": {"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 16},
        "request_router_config": RequestRouterConfig(request_router_class=PrefixRouter),
    }
    front: dict[str, Any] = {"max_ongoing_requests": configuration.server.max_requests}
    bound = serve.deployment(Engines, name=ENGINES, **engines | arguments.get("engines", {})).bind(settings)
    return serve.deployment(serve.ingress(build)(), name=FRONT, **front | arguments.get("front", {})).bind(bound)
