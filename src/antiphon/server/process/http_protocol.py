"""One HTTP connection: uvicorn's protocol over httptools, with bounds on headers, HTTP/1.0 and half-closed clients.

RFC 9112 (HTTP/1.1): a server does not send chunks to an HTTP/1.0 client. RFC 6585: 431 for header fields that are too large.
"""

import json
import socket
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from antiphon.server.logs import log
from antiphon.server.request.asgi import Receive, Send
from antiphon.server.request.call import CUT_CONNECTION

MAX_HEADERS = 200
MAX_HEAD_BYTES = 65_536
"""The URL and all header fields of one request, before anybody asks for a key."""

_FRAMING = 8
"""Bytes on the connection that each byte of a chunked body may take: a chunk of one byte takes six."""
_PROBE_FIRST_S, _PROBE_EVERY_S = 0.05, 0.25
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_COMMENT = b":\n\n"
"""A comment of the event-stream format; readers ignore it."""


class HttpProtocol(HttpToolsProtocol):
    """Refuses a request head past the bounds above with 431, while it is received."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._asgi = self.app
        self.app = self._app  # type: ignore[assignment]
        self._is_in_head = False
        self._is_refused = False
        self._is_half_closed = False
        self._num_headers = 0
        self._num_head_bytes = 0
        self._num_unread = 0

    # What the connection delivers.

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        was_in_head = self._is_in_head
        if not was_in_head and self._is_in_body():
            # The framing of a chunked body - sizes, extensions, trailers - is what ``on_body`` does not take off again.
            self._num_unread += len(data)
        super().data_received(data)
        if was_in_head and self._is_in_head:
            # ``on_header`` does not see a header before its end.
            self._num_head_bytes += len(data)
        if self._is_past_the_bounds():
            self._refuse()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Keep the connection for the answer when the client has sent all that it will send.

        A client that closed altogether looks the same until something is sent to it: then its side answers with a reset.
        """
        cycle = self._cycle()
        if cycle is None or cycle.response_complete or cycle.more_body:
            return None
        self._is_half_closed = True
        cycle.keep_alive = False
        self._send_probe()
        self.loop.call_later(_PROBE_FIRST_S, self._look_for_reset)
        return True

    # What the parser finds.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True
        self._num_headers = self._num_head_bytes = self._num_unread = 0

    def on_url(self, url: bytes) -> None:
        self._num_head_bytes += len(url)
        if not self._is_past_the_bounds():
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._num_headers += 1
        self._num_head_bytes += len(name) + len(value)
        if not self._is_past_the_bounds():
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._is_past_the_bounds():
            self._refuse()
            return
        self._is_in_head = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._is_refused:
            return
        self._num_unread = max(0, self._num_unread - _FRAMING * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._is_refused:
            super().on_message_complete()

    # Refusing.

    def _cycle(self) -> RequestResponseCycle | None:
        """Return the request that is answered, or was last; None before the first."""
        return self.cycle

    def _is_in_body(self) -> bool:
        cycle = self._cycle()
        return not self._is_in_head and cycle is not None and cycle.more_body

    def _is_past_the_bounds(self) -> bool:
        return max(self._num_head_bytes, self._num_unread) > MAX_HEAD_BYTES or self._num_headers > MAX_HEADERS

    def _refuse(self) -> None:
        if self._is_refused:
            return
        self._is_refused = True
        log.warning("request head refused", status=431, headers=self._num_headers, bytes=self._num_head_bytes)
        cycle = self._cycle()
        if cycle is None or cycle.response_complete:
            self.transport.write(
                raw_error(
                    "431 Request Header Fields Too Large",
                    f"The request's URL and headers are larger than {MAX_HEAD_BYTES} bytes or more than {MAX_HEADERS}.",
                    "headers_too_large",
                )
            )
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser cannot read, in OpenAI's envelope."""
        self.transport.write(raw_error("400 Bad Request", f"{msg} It is not HTTP/1.1.", "invalid_http"))
        self.transport.close()

    # Answering.

    async def _app(self, scope: Any, receive: Receive, send: Send) -> None:
        # uvicorn's object for this request; ``self.cycle`` may be that of the next one already (pipelining).
        cycle: RequestResponseCycle = send.__self__  # type: ignore[attr-defined]
        scope[CUT_CONNECTION] = partial(self._cut, cycle)
        if scope["http_version"] == "1.0":
            send = _without_chunks(cycle, send)
        await self._asgi(scope, receive, send)  # type: ignore[arg-type]

    def _cut(self, cycle: RequestResponseCycle) -> None:
        cycle.disconnected = True
        self.transport.abort()

    def _send_probe(self) -> None:
        """Send what no client heeds: before the answer an interim response, in an event stream a comment."""
        cycle = self.cycle
        if self.pipeline:
            # An earlier request is being answered; bytes in between would break its answer.
            return
        if not cycle.response_started:
            if cycle.scope["http_version"] != "1.0":
                self.transport.write(_CONTINUE)
        elif cycle.chunked_encoding:
            self.transport.write(b"%x\r\n%b\r\n" % (len(_COMMENT), _COMMENT))

    def _look_for_reset(self) -> None:
        """End a half-closed connection whose client has gone."""
        if self.transport.is_closing() or self.cycle.response_complete:
            return
        connection = self.transport.get_extra_info("socket")
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        else:
            self.loop.call_later(_PROBE_EVERY_S, self._look_for_reset)


def _without_chunks(cycle: RequestResponseCycle, send: Send) -> Send:
    """Send a body of unknown length as it is; its end is the end of the connection."""
    is_bare = False

    async def send_bare(message: Any) -> None:
        nonlocal is_bare
        if message["type"] == "http.response.start":
            is_bare = all(name != b"content-length" for name, _ in message["headers"])
            if is_bare:
                cycle.chunked_encoding = False
        elif is_bare:
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    return send_bare


def raw_error(status: str, message: str, code: str) -> bytes:
    """Return an error as a whole answer, for a connection whose request never reaches the application."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    body = json.dumps({"error": error}).encode()
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
