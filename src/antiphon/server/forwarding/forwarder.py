"""Sends a request on to an upstream, with the key, limits and ledger of this server around it."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec

from antiphon.accounts import Principal
from antiphon.backends.base import Destination, ForwardedAnswer, ForwardingBackend
from antiphon.protocol.errors import ApiError
from antiphon.protocol.forward import ForwardRequest
from antiphon.protocol.relay import model_named
from antiphon.server.forwarding.choice import HEADER, checked_path, ids_in_body, ids_in_path
from antiphon.server.forwarding.upload import Upload
from antiphon.server.request.access import Access
from antiphon.server.request.account import RequestAccount
from antiphon.server.request.admissions import Admissions
from antiphon.server.request.asgi import ClientGone
from antiphon.server.request.body import RequestBodies
from antiphon.server.request.call import Call, Handler
from antiphon.server.request.departure import until_gone
from antiphon.server.request.headers import encoded
from antiphon.server.request.in_flight import InFlight
from antiphon.server.request.query import query_parameters
from antiphon.server.request.reservation import TokenReservation
from antiphon.state import UpstreamObject, UpstreamObjects
from antiphon.wire.token_estimate import CHARACTERS_PER_TOKEN

_HEADER = HEADER.encode()
_DROPPED = frozenset(
    {
        # Of this connection, or written anew for the next one.
        *("host", "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect"),
        *("content-length", "accept-encoding", "proxy-authorization", "proxy-connection"),
        # This server's: the client's key and account are not the upstream's.
        *(
            "authorization",
            "api-key",
            "x-api-key",
            "cookie",
            "openai-organization",
            "openai-project",
            "origin",
            "referer",
        ),
    }
)
_OURS = "x-antiphon-"
_NOT_SUCCESS = 300
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode = msgspec.json.Encoder().encode


class _Sent(msgspec.Struct):
    """A request that is ready to go: where, which model is asked for, and the body."""

    destination: Destination
    model: str
    body: bytes | Upload | None


class Forwarder:
    """Sends requests on. ``default`` is the upstream for paths that name neither a model nor a known object; None: there is none."""

    def __init__(
        self,
        backend: ForwardingBackend | None,
        *,
        access: Access,
        admissions: Admissions,
        in_flight: InFlight,
        bodies: RequestBodies,
        objects: UpstreamObjects,
        default: str | None,
        max_bytes: int,
    ) -> None:
        self._backend = backend if backend is not None and backend.upstreams else None
        self._access = access
        self._admissions = admissions
        self._in_flight = in_flight
        self._bodies = bodies
        self._objects = objects
        self._default = default
        self._max_bytes = max_bytes

    @property
    def has_default(self) -> bool:
        """Whether a request that names nothing known is sent on all the same."""
        return self._backend is not None and self._default is not None

    def before(self, handler: Handler) -> Handler:
        """Return a handler that sends a request on if its header names an upstream, or its path an upstream's object."""
        if self._backend is None:
            return handler

        async def handle(call: Call) -> None:
            is_ours = not call.scope["path"].startswith("/v1/")
            named = call.header(_HEADER)
            if is_ours or (named is None and not (call.scope.get("path_params") and await self._known(call))):
                await handler(call)
            else:
                await self._forward(call, _no_default)

        return handle

    def otherwise(self, unknown: Handler) -> Handler:
        """Return a handler for paths that this server does not have: it sends on what an upstream may have."""
        if self._backend is None:
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
        path = _path_of(call)
        with self._in_flight.one():
            await self._send(
                call, principal, path, await self._addressed(call, principal, path, model, body), _no_default
            )

    async def _known(self, call: Call) -> dict[str, UpstreamObject]:
        ids = ids_in_path(call.scope["path"])
        return await self._objects.find(ids) if ids else {}

    async def _forward(self, call: Call, unknown: Handler) -> None:
        principal = await self._access.authenticate(call)
        path = _path_of(call)
        model = ""
        try:
            with self._in_flight.one():
                content_type = call.header(b"content-type") or ""
                if call.scope["method"] in {"GET", "HEAD", "DELETE"}:
                    model = dict(query_parameters(call)).get("model", "")
                    sent = await self._addressed(call, principal, path, model, None)
                    await self._send(call, principal, path, sent, unknown)
                elif content_type.lower().startswith(("application/json", "text/json")) or not content_type:
                    async with self._bodies.read(call) as body:
                        model = call.note_model(await self._bodies.work(body, model_named, body))
                        sent = await self._addressed(call, principal, path, model, body)
                        await self._send(call, principal, path, sent, unknown)
                else:
                    with self._bodies.holding() as hold:
                        upload = Upload(call, self._max_bytes)
                        model = call.note_model(await upload.read_model(content_type, hold))
                        sent = await self._addressed(call, principal, path, model, upload)
                        await self._send(call, principal, path, sent, unknown)
        except ApiError as error:
            if call.scope["method"] == "POST":
                self._admissions.record_refusal(call, principal, "other", model, error)
            raise

    async def _addressed(
        self, call: Call, principal: Principal, path: str, model: str, body: bytes | Upload | None
    ) -> _Sent | None:
        """Return where the request goes, None if nobody is known to answer it.

        ``ApiError`` 404 for another account's object, for a model that the key may not use, and for an upstream that does
        not exist.
        """
        assert self._backend is not None
        known = await self._named_objects(principal, path, body)
        owner = self._named_upstream(call) or next((each.upstream for each in known), None)
        found = self._backend.destination(model) if model else None
        if model and (not principal.may_use(model) or (owner or found or self._default) is None):
            self._access.require_model(principal, model)
        if found is None and owner is None:
            owner = self._default
        if owner is not None:
            found = Destination(owner, found.model if found is not None and found.upstream == owner else None)
        if found is not None and principal.models is not None and not known and not model:
            raise ApiError(
                403,
                "This key is limited to certain models, and this request names none, so it is not sent on.",
                code="model_required",
            )
        return None if found is None else _Sent(found, model, body)

    async def _named_objects(
        self, principal: Principal, path: str, body: bytes | Upload | None
    ) -> Sequence[UpstreamObject]:
        """Return the upstreams' objects that a request names; ``ApiError`` 404 if one is another account's."""
        ids = ids_in_path(path)
        if isinstance(body, bytes):
            ids += await self._bodies.work(body, ids_in_body, body)
        known = await self._objects.find(ids) if ids else {}
        for each in known.values():
            if each.account != principal.account:
                raise ApiError(404, f"No object found with id '{each.id}'.", code="not_found")
        return list(known.values())

    def _named_upstream(self, call: Call) -> str | None:
        assert self._backend is not None
        named = call.header(_HEADER)
        if named is not None and named not in self._backend.upstreams:
            names = ", ".join(self._backend.upstreams)
            raise ApiError(
                404, f"There is no upstream {named[:100]!r}. Upstreams: {names}.", param=HEADER, code="unknown_upstream"
            )
        return named

    async def _send(self, call: Call, principal: Principal, path: str, sent: _Sent | None, unknown: Handler) -> None:
        if sent is None:
            await unknown(call)
            return
        body = await self._bodies.work(sent.body if isinstance(sent.body, bytes) else b"", _renamed, sent)
        work = self._exchange(call, principal, path, sent, body)
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

    async def _exchange(
        self, call: Call, principal: Principal, path: str, sent: _Sent, body: bytes | Upload | None
    ) -> None:
        assert self._backend is not None
        upstream = sent.destination.upstream
        request = ForwardRequest(
            method=call.scope["method"],
            path=path,
            headers=_headers_of(call),
            body=body.__aiter__() if isinstance(body, Upload) else body,
            num_bytes=body.num_bytes if isinstance(body, Upload) else None,
        )
        call.note["upstream"] = upstream
        if request.method != "POST":
            await self._pass_on(call, principal, upstream, request)
            return
        num_read = len(body) if isinstance(body, bytes) else 0
        reservation = TokenReservation(num_read // CHARACTERS_PER_TOKEN, 0)
        async with await self._admissions.admit(call, principal, "other", sent.model, reservation) as account:
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
        if request.method == "DELETE" and not is_saved and named:
            await self._objects.forget(named[-1])
        elif not is_saved and answer.outcome.object_id not in named:
            await self.remember(answer.outcome.object_id, upstream, principal)
        if last:
            yield last


def _path_of(call: Call) -> str:
    return checked_path(call.scope.get("raw_path") or call.scope["path"].encode(), call.scope["query_string"])


async def _no_default(call: Call) -> None:
    raise ApiError(404, f"No object found at {call.scope['path'][:200]}.", code="not_found")


def _headers_of(call: Call) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in call.scope["headers"]:
        name = raw_name.decode("latin-1").lower()
        if name not in _DROPPED and not name.startswith(_OURS):
            value = raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _renamed(sent: _Sent) -> bytes | Upload | None:
    """Return the body with the model's name at the upstream; the very bytes where the names are the same."""
    name = sent.destination.model
    if name is None or name == sent.model or not sent.model:
        return sent.body
    if isinstance(sent.body, Upload):
        sent.body.rename(name)
        return sent.body
    if sent.body is None:
        return None
    return _encode({**_fields.decode(sent.body), "model": msgspec.Raw(_encode(name))})
