"""``POST /v1/rerank``: which of some documents answer a question, and how well.

Not part of OpenAI's API; the request and the answer are Cohere's and Jina's, as llama.cpp and vLLM serve them too.
"""

from antiphon.accounts import Principal
from antiphon.backends.base import Backend, RelayingBackend
from antiphon.protocol import decode_json, parse_rerank
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import Meter, Usage
from antiphon.protocol.relay import model_named
from antiphon.protocol.rendering import render_rerank
from antiphon.server.forwarding import Forwarder
from antiphon.server.request.access import Access
from antiphon.server.request.admissions import Admissions
from antiphon.server.request.body import RequestBodies
from antiphon.server.request.call import Call
from antiphon.server.request.departure import until_gone
from antiphon.server.request.in_flight import InFlight
from antiphon.server.request.query import refuse_query
from antiphon.server.request.reservation import reservation_of_rerank


class RerankRoutes:
    """A request for a model of an upstream is sent on as it is; the others are answered by ``backend``."""

    def __init__(
        self,
        backend: Backend,
        forwarder: Forwarder,
        *,
        access: Access,
        admissions: Admissions,
        in_flight: InFlight,
        bodies: RequestBodies,
    ) -> None:
        self._backend = backend
        self._relaying = backend if isinstance(backend, RelayingBackend) else None
        self._forwarder = forwarder
        self._access = access
        self._admissions = admissions
        self._in_flight = in_flight
        self._bodies = bodies

    async def rerank(self, call: Call) -> None:
        """Rank documents."""
        principal = await self._access.authenticate(call)
        model = ""
        try:
            refuse_query(call)
            async with self._bodies.read(call) as body:
                model = call.note_model(await self._bodies.work(body, model_named, body))
                if self._is_sent_on(model):
                    await self._forwarder.send_on(call, principal, body, model)
                    return
                with self._in_flight.one():
                    await until_gone(call, self._answer(call, principal, body))
        except ApiError as error:
            self._admissions.record_refusal(call, principal, "rerank", model, error)
            raise

    def _is_sent_on(self, model: str) -> bool:
        if self._relaying is not None and model and self._relaying.relays(model):
            return True
        return self._forwarder.has_default and not self._backend.serves(model)

    async def _answer(self, call: Call, principal: Principal, body: bytes) -> None:
        value = await self._bodies.work(body, decode_json, body, call.header(b"content-type"))
        self._access.require_named_model(principal, value)
        request = await self._bodies.work(body, parse_rerank, value)
        reservation = reservation_of_rerank(request)
        async with await self._admissions.admit(call, principal, "rerank", request.model, reservation) as account:
            result = await self._backend.rerank(request)
            account.model = result.model
            account.meter = Meter(Usage(result.prompt_tokens), result.compute_s)
            await call.respond(render_rerank(request, result))
