"""The parts of a running server that its routes are made of; one set per process."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from antiphon.accounts import Accounts
from antiphon.backends.base import AliasingBackend, Backend, ForwardingBackend, PartStatistics, ResponseRelayingBackend
from antiphon.backends.caching import CacheSettings
from antiphon.backends.settings import GatewaySettings
from antiphon.batches import BatchSettings
from antiphon.files import FileSettings
from antiphon.server.batches.parts import BatchParts
from antiphon.server.console.parts import ConsoleOptions, ConsoleParts
from antiphon.server.endpoint import Shell
from antiphon.server.file_parts import FileParts
from antiphon.server.forwarding import Addressing, Forwarder
from antiphon.server.logs import log
from antiphon.server.metrics import Metrics
from antiphon.server.request.access import Access
from antiphon.server.request.admissions import Admissions
from antiphon.server.request.body import RequestBodies
from antiphon.server.request.call import Call
from antiphon.server.request.faults import Faults, FaultSettings
from antiphon.server.request.headers import StandardHeaders
from antiphon.server.request.in_flight import InFlight
from antiphon.server.request.live import LiveRequests
from antiphon.server.request.origin_check import OriginCheck
from antiphon.server.request.parts import RequestParts
from antiphon.server.responses.parts import ResponseParts
from antiphon.server.responses.relaying import ResponseRelay
from antiphon.server.responses.socket_relaying import ResponseSocketRelay
from antiphon.server.settings import ServerSettings
from antiphon.server.tracing import Tracing
from antiphon.state import CompletionStore, ResponseSettings, UpstreamObjects
from antiphon.vector_stores import VectorStoreSettings
from antiphon.webhooks import Deliveries, WebhookSender, WebhookSettings

_QUIET = frozenset({"/health", "/metrics"})
_CONSOLE_PAGES = ("/console",)
"""Paths whose requests are logged at debug level only: probes, and an open page."""


class ServiceOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of the parts. ``home`` is the folder for the content of files, unless ``files`` names a bucket."""

    organization: str
    home: Path
    cache: CacheSettings = CacheSettings()
    faults: FaultSettings = FaultSettings()
    responses: ResponseSettings = ResponseSettings()
    gateway: GatewaySettings = GatewaySettings()
    webhooks: WebhookSettings = WebhookSettings()
    files: FileSettings = FileSettings()
    vector_stores: VectorStoreSettings = VectorStoreSettings()
    console: ConsoleOptions = ConsoleOptions()
    batches: BatchSettings = BatchSettings()


class Service:
    """Puts the parts together. The caller owns ``accounts``, ``backend`` and ``upstreams`` and closes them.

    ``upstreams`` sends requests of any path on; None: ``backend`` does, if it can.
    """

    def __init__(
        self,
        settings: ServerSettings,
        accounts: Accounts,
        backend: Backend,
        options: ServiceOptions,
        *,
        upstreams: ForwardingBackend | None = None,
    ) -> None:
        self.settings = settings
        self.accounts = accounts
        self.backend = backend
        self.cache = options.cache
        self.access = Access(accounts, backend)
        self.live = LiveRequests()
        self.console = ConsoleParts(options.console, accounts, backend, self.live)
        counted_as: Callable[[str], str] = (
            backend.counted_as if isinstance(backend, AliasingBackend) else lambda model: model
        )
        self.admissions = Admissions(accounts, Faults(options.faults), counted_as, self.live)
        self.bodies = RequestBodies(settings.max_body_bytes, log_bodies=settings.log_prompts)
        self.metrics = Metrics(self._parts, accounts.statistics)
        self.in_flight = InFlight(settings.max_requests, self.metrics.in_flight)
        self.requests = RequestParts(self.access, self.admissions, self.in_flight, self.bodies)
        self.upstreams = upstreams or (backend if isinstance(backend, ForwardingBackend) else None)
        self.upstream_objects = UpstreamObjects(accounts.engine)
        self.gateway = options.gateway
        self.addressing = self._addressing(options.gateway)
        self.forwarder = self._forwarder(options.gateway)
        self.webhooks = WebhookSender(options.webhooks, Deliveries(accounts.engine))
        self.storage = FileParts(
            options.files, options.vector_stores, accounts, backend, counted_as=counted_as, home=options.home
        )
        self.completions = CompletionStore(accounts.engine, options.responses)
        self.responses = ResponseParts(
            options.responses,
            accounts,
            backend,
            access=self.access,
            bodies=self.bodies,
            vector_stores=self.storage.vector_stores,
        )
        origin_check = OriginCheck(
            host=settings.host, allowed_hosts=settings.allowed_hosts, cors_origins=settings.cors_origins
        )
        headers = StandardHeaders(options.organization, origin_check)
        tracing = Tracing() if settings.tracing else None
        self.shell = Shell(origin_check, headers, self._observe, self.console.capture, tracing)
        self.batches = BatchParts(
            options.batches,
            accounts,
            access=self.access,
            files=self.storage.files,
            headers=headers,
            upstreams=self.upstreams,
            webhooks=self.webhooks,
            max_line_bytes=settings.max_body_bytes,
        )

    def _forwarder(self, gateway: GatewaySettings) -> Forwarder:
        return Forwarder(
            self.upstreams,
            self.addressing,
            self.requests,
            objects=self.upstream_objects,
            max_bytes=gateway.max_forward_bytes,
        )

    def _addressing(self, gateway: GatewaySettings) -> Addressing | None:
        if self.upstreams is None or not self.upstreams.upstreams:
            return None
        return Addressing(
            self.upstreams,
            access=self.access,
            bodies=self.bodies,
            objects=self.upstream_objects,
            default=gateway.default_upstream,
        )

    def response_relay(self) -> ResponseRelay | None:
        """Return what relays requests for responses to upstreams; None for a backend that relays nothing."""
        if not isinstance(self.backend, ResponseRelayingBackend):
            return None
        return ResponseRelay(self.backend, self.requests, self.forwarder)

    def response_socket_relay(self) -> ResponseSocketRelay | None:
        """Return what does the same for requests over WebSockets."""
        if not isinstance(self.backend, ResponseRelayingBackend):
            return None
        return ResponseSocketRelay(self.backend, self.requests, self.forwarder)

    def end_feeds(self) -> None:
        """End the streams of open pages, for which a server that ends need not wait."""
        self.console.close()

    def _parts(self) -> Sequence[PartStatistics]:
        sent = [PartStatistics("webhooks", {}, self.webhooks.statistics())] if self.webhooks.is_on else []
        return [*self.backend.statistics(), *sent]

    def start(self) -> None:
        """Begin what runs without a request. Call it in the event loop, once."""
        self.storage.start()
        self.batches.runner.start()
        self.webhooks.start()

    async def aclose(self) -> None:
        """Stop what runs in the background. The caller closes ``backend`` and ``accounts`` after it."""
        await self.batches.runner.aclose()
        await self.responses.aclose()
        await self.webhooks.aclose()
        await self.storage.aclose()

    def _observe(self, call: Call, path: str) -> None:
        """Count a request that is over and write its log line."""
        status = call.status or 0
        self.metrics.observe_request(path, status, call.elapsed_s())
        fields: dict[str, Any] = {
            "method": call.scope["method"],
            "path": call.scope["path"],
            "status": status,
            "duration_ms": round(call.elapsed_s() * 1000, 1),
            "request_id": call.request_id,
            **call.note,
        }
        (log.debug if path in _QUIET or path.startswith(_CONSOLE_PAGES) else log.info)("request", **fields)
