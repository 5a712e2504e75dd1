"""WebSockets for paths that an upstream answers: the handshake, with the key and the limits of this server around it.

The upstream is asked first, so a client whose connection it refuses gets the refusal in place of a handshake.
"""

import asyncio

from antiphon.backends.base import ForwardedSocket, ForwardingBackend
from antiphon.backends.settings import SocketSettings
from antiphon.protocol.errors import ApiError
from antiphon.protocol.forward import SocketRequest
from antiphon.server.endpoint import Shell
from antiphon.server.forwarding.addressing import Addressed, Addressing, headers_to_send, model_in_query, path_of
from antiphon.server.forwarding.passage import Passage
from antiphon.server.forwarding.socket_responses import SocketResponses
from antiphon.server.request.asgi import ClientGone, Receive, Send
from antiphon.server.request.call import Call
from antiphon.server.request.headers import encoded
from antiphon.server.request.parts import RequestParts
from antiphon.server.request.sockets import SocketSlots, cut_of

CONNECTION_PATH = "/v1/* (connection)"
"""The path that metrics show for these connections."""
RESPONSE_PATH = "/v1/* (websocket)"
"""The path that they show for each response."""
_SWITCHING = 101


class SocketForwarder:
    """Answers these connections of one process. ``max_bytes`` bounds one message of either side."""

    def __init__(
        self,
        shell: Shell,
        backend: ForwardingBackend,
        addressing: Addressing,
        requests: RequestParts,
        *,
        settings: SocketSettings,
        max_bytes: int,
    ) -> None:
        self._shell = shell
        self._backend = backend
        self._requests = requests
        self._addressing = addressing
        self._settings = settings
        self._max_bytes = max_bytes
        self.slots = SocketSlots(settings.max_open, settings.max_per_key)

    async def connect(self, call: Call, subprotocols: tuple[str, ...], receive: Receive, send: Send) -> None:
        """Answer a request for a WebSocket. ``ApiError`` before the handshake."""
        if not call.scope["path"].startswith("/v1/"):
            raise _unknown(call.scope["path"])
        principal = await self._requests.access.authenticate(call)
        model = call.note_model(model_in_query(call))
        sent = await self._addressing.find(call, principal, path_of(call), model, None)
        if sent is None:
            raise _unknown(call.scope["path"])
        with self.slots.one(principal):
            call.note["upstream"] = sent.destination.upstream
            upstream = await self._open(call, sent, subprotocols, receive)
            responses = SocketResponses(
                call,
                principal,
                model,
                self._requests,
                standard_headers=self._shell.standard_headers,
                observe=lambda response: self._shell.observe(response, RESPONSE_PATH),
            )
            await self._pass(call, upstream, responses, receive, send)

    async def _open(
        self, call: Call, sent: Addressed, subprotocols: tuple[str, ...], receive: Receive
    ) -> ForwardedSocket:
        """Return the upstream's side, open. ``ClientGone`` if the client leaves meanwhile."""
        request = SocketRequest(
            path=sent.renamed_path(),
            headers=headers_to_send(call),
            subprotocols=subprotocols,
            max_bytes=self._max_bytes,
        )
        opening = asyncio.ensure_future(self._backend.connect(sent.destination.upstream, request))
        leaving = asyncio.ensure_future(receive())
        try:
            await asyncio.wait({opening, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                # Before the handshake a client can send nothing: it has left, or the server ends.
                raise ClientGone
            return opening.result()
        finally:
            leaving.cancel()
            if opening.cancel():
                await asyncio.wait({opening})

    async def _pass(
        self, call: Call, upstream: ForwardedSocket, responses: SocketResponses, receive: Receive, send: Send
    ) -> None:
        passage = Passage(
            receive,
            send,
            upstream,
            responses,
            cut=cut_of(call),
            limit_s=self._settings.limit_s,
            idle_s=self._settings.idle_s,
        )
        error: BaseException | None = None
        try:
            headers = encoded({"x-request-id": call.request_id, **upstream.headers})
            await send({"type": "websocket.accept", "subprotocol": upstream.subprotocol, "headers": headers})
            call.status = _SWITCHING
            end = await passage.run()
            call.note |= {"close_code": end.code, "closed_by": "client" if end.by_client else "upstream or server"}
            if end.error is not None:
                error = end.error
                call.note_error(end.error)
        finally:
            await upstream.close(1001)
            await responses.aclose(error)
            call.note["responses"] = responses.num_ended


async def refuse_unknown_socket(call: Call, *_: object) -> None:
    """Refuse a WebSocket where there is no upstream: ``ApiError`` 404."""
    raise _unknown(call.scope["path"])


def _unknown(path: str) -> ApiError:
    return ApiError(
        404, f"There is no WebSocket on {path[:200]!r}; there is one on '/v1/responses'.", code="unknown_url"
    )
