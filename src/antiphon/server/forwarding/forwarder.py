"""Sends a request on to an upstream, with the key, limits and ledger of this server around it."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing

from antiphon.accounts import Principal
from antiphon.backends.base import ForwardedAnswer, ForwardingBackend
from antiphon.protocol.errors import ApiError
from antiphon.protocol.forward import ForwardRequest
from antiphon.protocol.relay import only_model
from antiphon.server.forwarding.addressing import (
    Addressed,
    Addressing,
    headers_to_send,
    model_in_query,
    one_model,
    path_of,
)
from antiphon.server.forwarding.choice import HEADER, ids_in_path
from antiphon.server.forwarding.upload import Upload
from antiphon.server.request.account import RequestAccount
from antiphon.server.request.asgi import ClientGone
from antiphon.server.request.call import Call, Handler
from antiphon.server.request.departure import until_gone
from antiphon.server.request.headers import encoded
from antiphon.server.request.parts import RequestParts
from antiphon.server.request.reservation import TokenReservation
from antiphon.state import UpstreamObject, UpstreamObjects
from antiphon.wire.token_estimate import CHARACTERS_PER_TOKEN

_HEADER = HEADER.encode()
_NOT_SUCCESS = 300
_OF_A_COLLECTION = 3
"""Slashes in the path of an object of its own, such as ``/chat/completions/chatcmpl-...``."""


class Forwarder:
    """Sends requests on. ``addressing`` is None where there is no upstream."""

    def __init__(
        self,
        backend: ForwardingBackend | None,
        addressing: Addressing | None,
        requests: RequestParts,
        *,
        objects: UpstreamObjects,
        max_bytes: int,
    ) -> None:
        self._backend = backend
        self._requests = requests
        self._addressing = addressing
        self._objects = objects
        self._max_bytes = max_bytes

    @property
    def has_default(self) -> bool:
        """Whether a request that names nothing known is sent on all the same."""
        return self._addressing is not None and self._addressing.has_default

    def before(self, handler: Handler) -> Handler:
        """Return a handler that sends a request on if its header names an upstream, or its path an upstream's object."""
        addressing = self._addressing
        if addressing is None:
            return handler

        async def handle(call: Call) -> None:
            is_for_upstream = call.scope["path"].startswith("/v1/") and (
                call.header(_HEADER) is not None
                or (call.scope.get("path_params") and await addressing.names_known_object(call))
            )
            await (self._forward(call, _no_default) if is_for_upstream else handler(call))

        return handle

    def otherwise(self, unknown: Handler) -> Handler:
        """Return a handler for paths that this server does not have: it sends on what an upstream may have."""
        if self._addressing is None:
            return unknown

        async def handle(call: Call) -> None:
            if call.scope["path"].startswith("/v1/"):
                await self._forward(call, unknown)
            else:
                await unknown(call)

        return handle

    async def remember(self, object_id: str | None, upstream: str, principal: Principal) -> None:
        """Remember that an upstream made an object for this account."""
        if object_id is not None:
            await self._objects.save(UpstreamObject(object_id, upstream, principal.account))

    async def owners(self, ids: Sequence[str], principal: Principal) -> list[str]:
        """Return the upstreams of those of the objects that are known and this account's."""
        known = await self._objects.find(ids)
        return [each.upstream for each in known.values() if each.account == principal.account]

    async def send_on(self, call: Call, principal: Principal, body: bytes, model: str) -> None:
        """Send a request whose JSON body has been read to its model's upstream."""
        assert self._addressing is not None
        with self._requests.in_flight.one():
            sent = await self._addressing.find(call, principal, path_of(call), model, body)
            await self._send(call, principal, sent, _no_default)

    async def _forward(self, call: Call, unknown: Handler) -> None:
        principal = await self._requests.access.authenticate(call)
        path = path_of(call)
        model = ""
        try:
            with self._requests.in_flight.one(), self._requests.bodies.holding() as hold:
                async with AsyncExitStack() as stack:
                    in_query = model_in_query(call)
                    body: bytes | Upload | None = None
                    in_body = None
                    if _is_json(call):
                        body = await stack.enter_async_context(self._requests.bodies.read(call))
                        in_body = await self._requests.bodies.work(body, only_model, body)
                    elif _has_body(call):
                        body = Upload(call, self._max_bytes, is_limited=principal.models is not None)
                        in_body = await body.read_model(call.header(b"content-type") or "", hold)
                    model = call.note_model(one_model(in_query, in_body or ""))
                    assert self._addressing is not None
                    sent = await self._addressing.find(call, principal, path, model, body)
                    await self._send(call, principal, sent, unknown)
        except ApiError as error:
            if call.scope["method"] == "POST":
                self._requests.admissions.record_refusal(call, principal, "other", model, error)
            raise

    async def _send(self, call: Call, principal: Principal, sent: Addressed | None, unknown: Handler) -> None:
        if sent is None:
            await unknown(call)
            return
        body = await self._requests.bodies.work(sent.body if isinstance(sent.body, bytes) else b"", sent.renamed_body)
        work = self._exchange(call, principal, sent, body)
        if isinstance(body, Upload):
            try:
                await until_gone(call, work, after=body.sent)
            except ApiError:
                if body.is_gone:
                    raise ClientGone from None
                if body.error is not None:
                    raise body.error from None
                raise
        else:
            await until_gone(call, work)

    async def _exchange(self, call: Call, principal: Principal, sent: Addressed, body: bytes | Upload | None) -> None:
        assert self._backend is not None
        upstream = sent.destination.upstream
        request = ForwardRequest(
            method=call.scope["method"],
            path=sent.renamed_path(),
            headers=headers_to_send(call),
            body=body.__aiter__() if isinstance(body, Upload) else body,
            num_bytes=body.num_bytes if isinstance(body, Upload) else None,
        )
        call.note["upstream"] = upstream
        if request.method != "POST":
            await self._pass_on(call, principal, upstream, request)
            return
        num_read = len(body) if isinstance(body, bytes) else 0
        reservation = TokenReservation(num_read // CHARACTERS_PER_TOKEN, 0)
        async with await self._requests.admissions.admit(call, principal, "other", sent.model, reservation) as account:
            await self._pass_on(call, principal, upstream, request, (account, sent.model))

    async def _pass_on(
        self,
        call: Call,
        principal: Principal,
        upstream: str,
        request: ForwardRequest,
        counted: tuple[RequestAccount, str] | None = None,
    ) -> None:
        assert self._backend is not None
        answer = await self._backend.forward(upstream, request)
        try:
            async with aclosing(answer):
                await call.pass_on(
                    answer.status, encoded(answer.headers), self._observed(answer, request, principal, upstream)
                )
        finally:
            if counted is not None:
                account, sent_model = counted
                account.record_forwarded(answer.status, answer.outcome.model or sent_model, answer.outcome.usage)

    async def _observed(
        self, answer: ForwardedAnswer, request: ForwardRequest, principal: Principal, upstream: str
    ) -> AsyncGenerator[bytes]:
        """Yield the answer's bytes. An object is remembered before its client can name it, and forgotten once it is deleted.

        What a request only reads or changes is not this account's by that: it may have been made elsewhere.
        """
        is_saved = answer.status >= _NOT_SUCCESS or request.method not in {"POST", "DELETE"}
        named = ids_in_path(request.path)
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            async for piece in answer:
                if not is_saved and answer.outcome.object_id is not None:
                    is_saved = True
                    await self.remember(answer.outcome.object_id, upstream, principal)
                yield piece
            return
        last = b""
        async for piece in answer:
            if last:
                yield last
            last = piece
        if request.method == "DELETE":
            # What is deleted below another object, such as a file in a vector store, still exists by itself.
            if not is_saved and len(named) == 1 and request.path.count("/") <= _OF_A_COLLECTION:
                await self._objects.forget(named[0])
        elif not is_saved and answer.outcome.object_id not in named:
            await self.remember(answer.outcome.object_id, upstream, principal)
        if last:
            yield last


def _is_json(call: Call) -> bool:
    """Whether the body is JSON that can be read here: not one that is compressed, which goes on as it is."""
    content_type = (call.header(b"content-type") or "").lower()
    is_plain = (call.header(b"content-encoding") or "identity").strip().lower() in {"", "identity"}
    return (
        _has_body(call)
        and is_plain
        and (not content_type or content_type.startswith(("application/json", "text/json")))
    )


def _has_body(call: Call) -> bool:
    length = call.header(b"content-length")
    return call.header(b"transfer-encoding") is not None or (length is not None and length.strip() != "0")


async def _no_default(call: Call) -> None:
    raise ApiError(404, f"No object found at {call.scope['path'][:200]}.", code="not_found")
