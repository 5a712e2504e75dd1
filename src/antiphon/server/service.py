"""The parts of a running server that its routes are made of; one set per process."""

import asyncio
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from antiphon.accounts import Accounts
from antiphon.backends.base import AliasingBackend, Backend, ForwardingBackend, PartStatistics, ResponseRelayingBackend
from antiphon.backends.caching import CacheSettings
from antiphon.backends.settings import GatewaySettings
from antiphon.batches import BatchSettings, BatchStore
from antiphon.files import FileSettings, FileStore, FileSweeper, UploadStore, make_blob_store
from antiphon.server.batches import BatchRunner, LineRunner
from antiphon.server.batches.tools import BatchTools
from antiphon.server.batches.upstream_batches import UpstreamBatches
from antiphon.server.console.parts import ConsoleOptions, ConsoleParts
from antiphon.server.endpoint import Shell
from antiphon.server.forwarding import Forwarder
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
from antiphon.server.request.multipart import MultipartForms
from antiphon.server.request.origin_check import OriginCheck
from antiphon.server.responses.answers import Answers
from antiphon.server.responses.file_search import FileSearch
from antiphon.server.responses.intake import ResponseIntake
from antiphon.server.responses.jobs import Jobs
from antiphon.server.responses.mcp.servers import McpServers
from antiphon.server.responses.relaying import ResponseRelay
from antiphon.server.responses.sealing import Sealer
from antiphon.server.responses.server_tool import OpenTool, ServerTools
from antiphon.server.responses.turns import Turns
from antiphon.server.settings import ServerSettings
from antiphon.server.tracing import Tracing
from antiphon.server.vector_embedding import ServerEmbedding
from antiphon.state import CompletionStore, ConversationStore, ResponseSettings, ResponseStore, UpstreamObjects
from antiphon.vector_stores import VectorStores, VectorStoreSettings
from antiphon.webhooks import Deliveries, WebhookSender, WebhookSettings

_QUIET = frozenset({"/health", "/metrics"})
_CONSOLE_PAGES = ("/console",)
"""Paths whose requests are logged at debug level only: probes, and an open page."""


class Service:
    """Puts the parts together. The caller owns ``accounts``, ``backend`` and ``upstreams`` and closes them.

    ``upstreams`` sends requests of any path on; None: ``backend`` does, if it can.
    ``home`` is the folder for the content of files, unless ``files`` names a bucket.
    """

    def __init__(
        self,
        settings: ServerSettings,
        accounts: Accounts,
        backend: Backend,
        *,
        organization: str,
        home: Path,
        cache: CacheSettings | None = None,
        faults: FaultSettings | None = None,
        responses: ResponseSettings | None = None,
        gateway: GatewaySettings | None = None,
        webhooks: WebhookSettings | None = None,
        upstreams: ForwardingBackend | None = None,
        files: FileSettings | None = None,
        vector_stores: VectorStoreSettings | None = None,
        console: ConsoleOptions | None = None,
        batches: BatchSettings | None = None,
    ) -> None:
        self.settings = settings
        self.accounts = accounts
        self.backend = backend
        self.cache = cache or CacheSettings()
        self.access = Access(accounts, backend)
        self.live = LiveRequests()
        self.console = ConsoleParts(console or ConsoleOptions(), accounts, backend, self.live)
        self.admissions = Admissions(
            accounts,
            Faults(faults),
            backend.counted_as if isinstance(backend, AliasingBackend) else lambda model: model,
            self.live,
        )
        self.bodies = RequestBodies(settings.max_body_bytes, log_bodies=settings.log_prompts)
        self.metrics = Metrics(self._parts, accounts.statistics)
        self.in_flight = InFlight(settings.max_requests, self.metrics.in_flight)
        self.response_settings = responses or ResponseSettings()
        self.responses = ResponseStore(accounts.engine, self.response_settings)
        self.completions = CompletionStore(accounts.engine, self.response_settings)
        self.conversations = ConversationStore(accounts.engine)
        gateway = gateway or GatewaySettings()
        self.forwarder = Forwarder(
            upstreams or (backend if isinstance(backend, ForwardingBackend) else None),
            access=self.access,
            admissions=self.admissions,
            in_flight=self.in_flight,
            bodies=self.bodies,
            objects=UpstreamObjects(accounts.engine),
            default=gateway.default_upstream,
            max_bytes=gateway.max_forward_bytes,
        )
        file_settings = files or FileSettings()
        self.files = FileStore(accounts.engine, make_blob_store(file_settings, home), file_settings)
        self.uploads = UploadStore(self.files)
        self.file_sweeper = FileSweeper(self.files, self.uploads)
        store_settings = vector_stores or VectorStoreSettings()
        self.vector_stores = VectorStores(
            self.files,
            home,
            ServerEmbedding(backend, accounts, store_settings.embedding_model),
            store_settings,
        )
        self.forms = MultipartForms()
        self.response_relay = (
            ResponseRelay(
                backend,
                access=self.access,
                admissions=self.admissions,
                in_flight=self.in_flight,
                bodies=self.bodies,
                forwarder=self.forwarder,
            )
            if isinstance(backend, ResponseRelayingBackend)
            else None
        )
        self.batch_settings = batches or BatchSettings()
        self.batches = BatchStore(accounts.engine, secrets.token_hex(16), lease_s=self.batch_settings.lease_s)
        self.webhooks = WebhookSender(webhooks or WebhookSettings(), Deliveries(accounts.engine))
        self.sealer = Sealer(accounts.derive_key("sealed reasoning"))
        self.jobs = Jobs(self.responses)
        mcp = McpServers(self.response_settings)
        openers: dict[str, OpenTool] = {"file_search": FileSearch(self.vector_stores).open}
        tools = ServerTools(openers | {"mcp": mcp.open} if mcp.is_on else openers)
        self.turns = Turns(
            backend,
            self.responses,
            self.conversations,
            self.sealer,
            tools=tools,
            max_tool_calls=self.response_settings.max_tool_calls,
        )
        self.intake = ResponseIntake(
            self.access,
            self.bodies,
            self.turns,
            tools,
            hosted_tools=self.response_settings.hosted_tools,
            can_store=self.responses.is_on,
        )
        self.answers = Answers(self.responses, self.conversations, self.sealer)
        origin_check = OriginCheck(
            host=settings.host, allowed_hosts=settings.allowed_hosts, cors_origins=settings.cors_origins
        )
        headers = StandardHeaders(organization, origin_check)
        self.shell = Shell(
            origin_check, headers, self._observe, self.console.capture, Tracing() if settings.tracing else None
        )
        self.batch_runner = BatchRunner(
            BatchTools(
                settings=self.batch_settings,
                accounts=accounts,
                store=self.batches,
                files=self.files,
                lines=LineRunner(accounts, headers, self.batch_settings.price_factor),
                access=self.access,
                upstreams=UpstreamBatches(upstreams or (backend if isinstance(backend, ForwardingBackend) else None)),
                slots=asyncio.Semaphore(self.batch_settings.concurrency),
                max_line_bytes=settings.max_body_bytes,
                webhooks=self.webhooks,
            )
        )

    def end_feeds(self) -> None:
        """End the streams of open pages, for which a server that ends need not wait."""
        self.console.close()

    def _parts(self) -> Sequence[PartStatistics]:
        sent = [PartStatistics("webhooks", {}, self.webhooks.statistics())] if self.webhooks.is_on else []
        return [*self.backend.statistics(), *sent]

    def start(self) -> None:
        """Begin what runs without a request. Call it in the event loop, once."""
        self.file_sweeper.start()
        self.batch_runner.start()
        self.webhooks.start()
        self.vector_stores.start()

    async def aclose(self) -> None:
        """Stop what runs in the background. The caller closes ``backend`` and ``accounts`` after it."""
        await self.batch_runner.aclose()
        await self.jobs.aclose()
        await self.webhooks.aclose()
        await self.vector_stores.aclose()
        await self.file_sweeper.aclose()
        await self.files.blobs.aclose()

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
