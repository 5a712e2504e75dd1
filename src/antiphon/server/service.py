"""What all handlers share: settings, who may ask, who answers, what is counted."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import msgspec

from antiphon.accounts import Accounts, Principal
from antiphon.backends.base import AliasingBackend, Backend, RelayedAnswer, RelayingBackend
from antiphon.backends.caching import HEADER, CacheSettings, cache_use
from antiphon.protocol.caching import CacheUse
from antiphon.protocol.errors import model_not_found, overloaded
from antiphon.protocol.relay import Operation, RelayRequest, model_named, parse_relay
from antiphon.server.logs import log
from antiphon.server.metrics import Metrics
from antiphon.server.request.call import Call
from antiphon.server.request.faults import Faults, FaultSettings
from antiphon.server.request.origin_check import OriginCheck
from antiphon.server.settings import ServerSettings

_CACHE_HEADER = HEADER.encode()


class Service:
    """The server's state; one per process. ``backend`` is owned by whoever made it."""

    def __init__(
        self,
        settings: ServerSettings,
        accounts: Accounts,
        backend: Backend,
        *,
        organization: str,
        cache: CacheSettings | None = None,
        faults: FaultSettings | None = None,
    ) -> None:
        self.settings = settings
        self._cache = cache or CacheSettings()
        self.faults = Faults(faults)
        self.organization = organization
        self.accounts = accounts
        self.backend = backend
        self._can_relay = isinstance(backend, RelayingBackend)
        self._aliasing = backend if isinstance(backend, AliasingBackend) else None
        self.origin_check = OriginCheck(
            host=settings.host, allowed_hosts=settings.allowed_hosts, cors_origins=settings.cors_origins
        )
        self.metrics = Metrics(self)
        self.num_in_flight = 0
        self.encode = msgspec.json.Encoder().encode

    async def authenticate(self, call: Call) -> Principal:
        """Return who asks; ``ApiError`` 401 as OpenAI words it."""
        principal = await self.accounts.authenticate(call.header(b"authorization"))
        call.note["key"] = principal.name
        return principal

    def may_use(self, principal: Principal, model: str) -> bool:
        """Whether the key's list of models has this one."""
        return principal.may_use(model)

    def require_model(self, principal: Principal, model: str) -> None:
        """404 for a model that is not served, or not to this key: the same words, so that nothing is given away."""
        if not (self.backend.serves(model) and self.may_use(principal, model)):
            raise model_not_found(model)

    def counted_as(self, model: str) -> str:
        """Return the name under which the limits count a request for ``model``."""
        return self._aliasing.counted_as(model) if self._aliasing is not None else model

    def cache_use(self, call: Call, principal: Principal) -> CacheUse | None:
        """Return how the request uses the response cache, by its header or its key; None: not at all."""
        return cache_use(self._cache, call.header(_CACHE_HEADER), principal.account, principal.name)

    @contextmanager
    def in_flight(self) -> Generator[None]:
        """Count a request while it is in work; 503 at once past ``max_requests``."""
        if self.num_in_flight >= self.settings.max_requests:
            raise overloaded(retry_after_s=1)
        self.num_in_flight += 1
        self.metrics.in_flight.inc()
        try:
            yield
        finally:
            self.num_in_flight -= 1
            self.metrics.in_flight.dec()

    def relayed(self, operation: Operation, body: bytes) -> RelayRequest | None:
        """Return the request to relay where its model is another API's, None where a backend here answers it."""
        if not self._can_relay:
            return None
        # Read leniently: what is wrong with a request for a model of this machine is for its own parser to say.
        model = model_named(body)
        if model is None or not cast("RelayingBackend", self.backend).relays(model):
            return None
        request = parse_relay(operation, body)
        # Embeddings are never streamed: the API that is asked will say so, in one piece.
        return msgspec.structs.replace(request, stream=False) if operation == "embeddings" else request

    async def relay(self, request: RelayRequest) -> RelayedAnswer:
        """Pass a request on; only for what ``relayed`` returned."""
        return await cast("RelayingBackend", self.backend).relay(request)

    def observe(self, call: Call, path: str) -> None:
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
        (log.debug if path in {"/health", "/metrics"} else log.info)("request", **fields)
