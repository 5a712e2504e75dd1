"""``POST /v1/rerank``: which of some documents answer a question, and how well.

Not part of OpenAI's API; the request and the answer are Cohere's and Jina's, as llama.cpp and vLLM serve them too.
"""

from antiphon.accounts import Principal
from antiphon.backends.base import Backend, RelayingBackend
from antiphon.protocol import decode_json, parse_rerank
from antiphon.protocol.events import Meter, Usage
from antiphon.protocol.rendering import render_rerank
from antiphon.server.forwarding import Forwarder
from antiphon.server.request.call import Call
from antiphon.server.request.departure import until_gone
from antiphon.server.request.parts import RequestParts
from antiphon.server.request.reservation import reservation_of_rerank


class RerankRoutes:
    """A request for a model of an upstream is sent on as it is; the others are answered by ``backend``."""

    def __init__(self, backend: Backend, requests: RequestParts, forwarder: Forwarder) -> None:
        self._backend = backend
        self._requests = requests
        self._relaying = backend if isinstance(backend, RelayingBackend) else None
        self._forwarder = forwarder

    async def rerank(self, call: Call) -> None:
        """Rank documents."""
        async with self._requests.received(call, "rerank") as asked:
            if self._is_sent_on(asked.model):
                await self._forwarder.send_on(call, asked.principal, asked.body, asked.model)
                return
            with self._requests.in_flight.one():
                await until_gone(call, self._answer(call, asked.principal, asked.body))

    def _is_sent_on(self, model: str) -> bool:
        if self._relaying is not None and model and self._relaying.relays(model):
            return True
        return self._forwarder.has_default and not self._backend.serves(model)

    async def _answer(self, call: Call, principal: Principal, body: bytes) -> None:
        value = await self._requests.bodies.work(body, decode_json, body, call.header(b"content-type"))
        self._requests.access.require_named_model(principal, value)
        request = await self._requests.bodies.work(body, parse_rerank, value)
        reservation = reservation_of_rerank(request)
        async with await self._requests.admissions.admit(
            call, principal, "rerank", request.model, reservation
        ) as account:
            result = await self._backend.rerank(request)
            account.model = result.model
            account.meter = Meter(Usage(result.prompt_tokens), result.compute_s)
            await call.respond(render_rerank(request, result))
