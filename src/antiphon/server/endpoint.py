"""The shell around every handler, of HTTP and of WebSockets: the origin check, errors in OpenAI's envelope, the log line, metrics."""

from collections.abc import Awaitable, Callable, Mapping

from antiphon.accounts import CLIENT_CLOSED_REQUEST
from antiphon.backends.trace import TRACE
from antiphon.protocol.errors import ApiError, server_fault
from antiphon.server.logs import log
from antiphon.server.request.asgi import ClientGone, Receive, Send
from antiphon.server.request.call import Call, Handler
from antiphon.server.request.capture import CAPTURED_PATHS, CaptureRing
from antiphon.server.request.headers import Scope, StandardHeaders
from antiphon.server.request.origin_check import OriginCheck
from antiphon.server.request.query import note_client_id
from antiphon.server.request.sockets import refuse_socket, take_key
from antiphon.server.tracing import Tracing

_TOO_LARGE = 413
CONSOLE = "/console"
Observe = Callable[[Call, str], None]
"""Counts and logs a request that is over; the text is the path that the metrics show."""


class Shell:
    """What all endpoints share: the check of Host and Origin, the standard headers, who observes the end, the capture, and the spans."""

    def __init__(
        self,
        origin_check: OriginCheck,
        standard_headers: StandardHeaders,
        observe: Observe,
        capture: CaptureRing | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.capture = capture
        self.tracing = tracing
        self.origin_check = origin_check
        self.standard_headers = standard_headers
        self.observe = observe


Connect = Callable[[Call, tuple[str, ...], Receive, Send], Awaitable[None]]
"""Answers a request for a WebSocket, to the connection's end: the call, the subprotocols that the client offers, and what receives
and sends. Until it accepts, an ``ApiError`` is the answer."""


class Endpoint:
    """An ASGI application for one path: a handler per method."""

    def __init__(self, shell: Shell, path: str, handlers: Mapping[str, Handler]) -> None:
        self._shell = shell
        self._path = path
        self._handlers = handlers
        self._is_console = path == CONSOLE or path.startswith(CONSOLE + "/")
        self._capture = shell.capture if path in CAPTURED_PATHS else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(self._shell.standard_headers, scope, receive, send)
        TRACE.set(call.trace)
        if self._shell.tracing is not None:
            self._shell.tracing.begin(call, self._path)
        if self._capture is not None and scope["method"] == "POST":
            self._capture.begin(call)
        try:
            await self._answer(call)
        finally:
            self._shell.observe(call, self._path)
            if self._shell.tracing is not None:
                self._shell.tracing.end(call)

    async def _answer(self, call: Call) -> None:
        try:
            host = call.header(b"host")
            self._shell.origin_check.check_host(host)
            self._shell.origin_check.check_origin(call.header(b"origin"), own_host=host if self._is_console else None)
            handler = self._handler(call)
            note_client_id(call)
            await handler(call)
        except ApiError as error:
            call.note_error(error)
            if error.status == _TOO_LARGE:
                await call.discard_body()
            await call.fail(error)
        except ClientGone:
            call.status = call.status or CLIENT_CLOSED_REQUEST
        except Exception:  # noqa: BLE001 - whatever it was, the client gets OpenAI's 500
            log.exception("fault", request_id=call.request_id, path=self._path)
            call.note["error"] = "server_error"
            if call.status is None:
                await call.fail(server_fault(call.request_id))

    def _handler(self, call: Call) -> Handler:
        method: str = call.scope["method"]
        if method in self._handlers:
            return self._handlers[method]
        if method == "HEAD" and "GET" in self._handlers:
            return self._handlers["GET"]
        if method == "OPTIONS" and call.header(b"access-control-request-method") is not None:
            return self._preflight
        raise ApiError(
            405,
            f"Not allowed to {method} on {call.scope['path']} (HINT: Perhaps you meant to use a different HTTP method?)",
            headers={"allow": ", ".join(sorted(self._handlers))},
        )

    async def _preflight(self, call: Call) -> None:
        asked = call.header(b"access-control-request-headers") or "*"
        headers = {
            "access-control-allow-methods": ", ".join(sorted({*self._handlers, "OPTIONS"})),
            "access-control-allow-headers": asked,
            "access-control-max-age": "600",
        }
        call.extra.update(headers)
        await call.respond(b"", status=204, headers=[])


class SocketEndpoint:
    """An ASGI application for WebSockets. ``path`` is the one that metrics show for connections."""

    def __init__(self, shell: Shell, path: str, connect: Connect) -> None:
        self._shell = shell
        self._path = path
        self._connect = connect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["method"] = "WEBSOCKET"
        subprotocols = take_key(scope)
        call = Call(self._shell.standard_headers, scope, receive, send)
        await receive()  # the request to connect
        try:
            self._shell.origin_check.check_host(call.header(b"host"))
            self._shell.origin_check.check_origin(call.header(b"origin"))
            note_client_id(call)
            await self._connect(call, subprotocols, receive, send)
        except ApiError as error:
            call.note_error(error)
            await _refuse(call, send, error)
        except (ClientGone, OSError):
            call.status = call.status or CLIENT_CLOSED_REQUEST
        except Exception:  # noqa: BLE001 - whatever it was, the client gets OpenAI's 500
            log.exception("fault", request_id=call.request_id, path=self._path)
            call.note["error"] = "server_error"
            await _refuse(call, send, server_fault(call.request_id))
        finally:
            self._shell.observe(call, self._path)


async def _refuse(call: Call, send: Send, error: ApiError) -> None:
    """Answer with an error in place of the handshake, where that is not over."""
    if call.status is None:
        call.status = error.status
        await refuse_socket(send, error, call.request_id)
