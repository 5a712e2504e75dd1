"""``POST /v1/chat/completions``, ``/v1/completions`` and ``/v1/embeddings``.

The order of checks is OpenAI's: the key, the JSON, the model, the parameters, the limits. Then one of two ways: a validated
request goes to a backend, whose events are rendered; or, for a model of another API, the request's bytes are relayed.
"""

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

import msgspec

from antiphon.accounts import Kind, Principal
from antiphon.backends.base import Backend, RelayedAnswer, RelayingBackend
from antiphon.backends.caching import HEADER, CacheSettings, cache_use
from antiphon.protocol import check_content_type, decode_json, parse_chat, parse_completion, parse_embedding
from antiphon.protocol.caching import CacheUse
from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.embeddings import EmbeddingRequest
from antiphon.protocol.events import Completed, Event, Meter, Usage
from antiphon.protocol.relay import Operation, RelayRequest, parse_relay
from antiphon.protocol.rendering import (
    ChatBody,
    ChatStream,
    CompletionBody,
    CompletionStream,
    new_id,
    render_embeddings,
)
from antiphon.server.request.account import RequestAccount
from antiphon.server.request.answering import answer_stream, answer_whole
from antiphon.server.request.call import Call
from antiphon.server.request.departure import until_gone
from antiphon.server.request.headers import encoded
from antiphon.server.request.parts import RequestParts
from antiphon.server.request.reservation import (
    reservation_of_chat,
    reservation_of_completion,
    reservation_of_embedding,
    reservation_of_relay,
)
from antiphon.state import CompletionStore, StoredCompletion

Request = TypeVar("Request", ChatRequest, CompletionRequest, EmbeddingRequest)
Answer = Callable[[Call, Principal, bytes], Coroutine[Any, Any, None]]

_CACHE_HEADER = HEADER.encode()
_KINDS: Mapping[Operation, Kind] = {
    "chat/completions": "chat",
    "completions": "completion",
    "embeddings": "embedding",
}


class GenerationRoutes:
    """The handlers of the three endpoints that generate."""

    def __init__(
        self,
        backend: Backend,
        requests: RequestParts,
        *,
        cache: CacheSettings,
        store: CompletionStore,
    ) -> None:
        self._backend = backend
        self._requests = requests
        self._relaying = backend if isinstance(backend, RelayingBackend) else None
        self._cache = cache
        self._store = store

    async def chat_completions(self, call: Call) -> None:
        """Answer a conversation."""
        await self._serve(call, "chat/completions", self._chat)

    async def completions(self, call: Call) -> None:
        """Continue a text (legacy)."""
        await self._serve(call, "completions", self._completion)

    async def embeddings(self, call: Call) -> None:
        """Turn texts into vectors."""
        await self._serve(call, "embeddings", self._embedding)

    async def _serve(self, call: Call, operation: Operation, answer: Answer) -> None:
        async with self._requests.received(call, _KINDS[operation]) as asked:
            with self._requests.in_flight.one():
                if self._relaying is not None and asked.model and self._relaying.relays(asked.model):
                    work = self._relay(call, asked.principal, operation, asked.model, asked.body)
                else:
                    work = answer(call, asked.principal, asked.body)
                await until_gone(call, work)

    async def _parsed(self, call: Call, principal: Principal, body: bytes, parse: Callable[[Any], Request]) -> Request:
        """Decode and check a body. An unknown model is reported before any wrong parameter."""
        value: Any = await self._requests.bodies.work(body, decode_json, body, call.header(b"content-type"))
        self._requests.access.require_named_model(principal, value)
        request = await self._requests.bodies.work(body, parse, value)
        if recorded := request.recorded():
            call.note["recorded"] = recorded
        return msgspec.structs.replace(request, cache=self._cache_use(call, principal), priority=call.priority)

    def _cache_use(self, call: Call, principal: Principal) -> CacheUse | None:
        return cache_use(self._cache, call.header(_CACHE_HEADER), principal.account, principal.name)

    async def _chat(self, call: Call, principal: Principal, body: bytes) -> None:
        parse = partial(parse_chat, can_store=self._store.is_on)
        request = await self._parsed(call, principal, body, parse)
        reservation = reservation_of_chat(request)
        async with await self._requests.admissions.admit(
            call, principal, "chat", request.model, reservation
        ) as account:
            events = self._backend.chat(request)
            answer_id = new_id("chatcmpl")
            created = int(call.started_at)
            if request.store:
                events = self._stored(events, ChatBody(answer_id, created, request), principal, request)
            if request.stream:
                await answer_stream(call, account, events, ChatStream(answer_id, created, request))
            else:
                await answer_whole(call, account, events, ChatBody(answer_id, created, request))

    async def _stored(
        self, events: AsyncGenerator[Event], body: ChatBody, principal: Principal, request: ChatRequest
    ) -> AsyncGenerator[Event]:
        """Pass the events on, and store the completion before its last one."""
        async with aclosing(events):
            async for event in events:
                body.feed(event)
                if isinstance(event, Completed):
                    value = body.value()
                    await self._store.save(
                        StoredCompletion(
                            id=body.id,
                            account=principal.account,
                            model=value["model"],
                            metadata=request.metadata,
                            body=value,
                            messages=tuple(request.raw["messages"]),
                        )
                    )
                yield event

    async def _completion(self, call: Call, principal: Principal, body: bytes) -> None:
        request = await self._parsed(call, principal, body, parse_completion)
        reservation = reservation_of_completion(request)
        async with await self._requests.admissions.admit(
            call, principal, "completion", request.model, reservation
        ) as account:
            events = self._backend.complete(request)
            answer_id = new_id("cmpl")
            created = int(call.started_at)
            if request.stream:
                await answer_stream(call, account, events, CompletionStream(answer_id, created, request))
            else:
                await answer_whole(call, account, events, CompletionBody(answer_id, created, request))

    async def _embedding(self, call: Call, principal: Principal, body: bytes) -> None:
        request = await self._parsed(call, principal, body, parse_embedding)
        reservation = reservation_of_embedding(request)
        async with await self._requests.admissions.admit(
            call, principal, "embedding", request.model, reservation
        ) as account:
            result = await self._backend.embed(request)
            account.model = result.model
            if request.cache is not None:
                account.set_cache_status("hit" if result.cached_inputs == len(request.inputs) else "miss")
            account.meter = Meter(Usage(result.prompt_tokens), result.compute_s)
            account.spared = result.spared
            await call.respond(render_embeddings(request, result))

    async def _relay(self, call: Call, principal: Principal, operation: Operation, model: str, body: bytes) -> None:
        relaying = self._relaying
        assert relaying is not None
        check_content_type(call.header(b"content-type"))
        self._requests.access.require_model(principal, model)
        request = await self._requests.bodies.work(body, parse_relay, operation, body)
        # Embeddings are never streamed: the upstream will say so, in one piece.
        is_stream = request.stream and operation != "embeddings"
        request = msgspec.structs.replace(request, stream=is_stream, cache=self._cache_use(call, principal))
        reservation = reservation_of_relay(request)
        async with await self._requests.admissions.admit(
            call, principal, _KINDS[operation], model, reservation
        ) as account:
            answer = await relaying.relay(request)
            try:
                async with aclosing(answer):
                    account.set_cache_status(answer.outcome.cache)
                    await _pass_on(call, account, request, answer)
            finally:
                # Only once it is closed: an answer that others read along with ends later than its own request would.
                account.record_relayed(answer.outcome, request)


async def _pass_on(call: Call, account: RequestAccount, request: RelayRequest, answer: RelayedAnswer) -> None:
    headers = encoded(answer.headers)
    if request.stream:
        await call.stream(account.guarded(answer), headers)
    else:
        await call.respond(b"".join([piece async for piece in answer]), headers=headers)
