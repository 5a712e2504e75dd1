"""One HTTP request: what handlers read from it and how they answer it."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

import msgspec

from antiphon.accounts import BatchBilling, Principal
from antiphon.backends.trace import RequestTrace
from antiphon.protocol.errors import ApiError
from antiphon.protocol.priority import Priority
from antiphon.server.request.asgi import ClientGone, Receive, Send
from antiphon.server.request.headers import Headers, Scope, StandardHeaders, encoded, header

JSON_HEADER = (b"content-type", b"application/json")
STREAM_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
CUT_CONNECTION = "antiphon.cut_connection"
"""The scope's key for a function that closes the connection at once; absent under other servers (``ray_serve.py``)."""

_MAX_DISCARDED = 64 * 1024 * 1024
_DISCARD_S = 3.0
_MAX_NAME = 200
_MAX_MESSAGE = 500
"""Characters of a model's name and of an error's message in the log line."""


class Call:
    """A request with its id, and exactly one answer.

    ``extra`` holds headers for every answer from here on (rate limits). ``note`` holds fields for the request's log line.
    ``status`` is None until the answer has begun, and ``is_answered`` is true once all of it is sent. ``is_recorded`` is true once something will write the usage row. ``trace`` is
    what backends note on the request.
    ``principal`` and ``billing`` are set for a request of a batch, which comes from this server itself.
    """

    __slots__ = (
        "_has_body_ended",
        "_receive",
        "_send",
        "_standard_headers",
        "billing",
        "extra",
        "is_answered",
        "is_recorded",
        "note",
        "principal",
        "request_id",
        "scope",
        "span",
        "started",
        "started_at",
        "status",
        "trace",
    )

    def __init__(self, standard_headers: StandardHeaders, scope: Scope, receive: Receive, send: Send) -> None:
        self._standard_headers = standard_headers
        self.scope = scope
        self._receive = receive
        self._has_body_ended = False
        self._send = send
        # A proxy in front of this server may have chosen the id already (``server/ray_serve.py``).
        self.request_id: str = scope.get("antiphon.request_id") or "req_" + secrets.token_hex(16)
        self.started = time.perf_counter()
        self.started_at = time.time()
        self.status: int | None = None
        self.is_answered = False
        self.is_recorded = False
        self.principal: Principal | None = None
        self.billing: BatchBilling | None = None
        self.extra: dict[str, str] = {}
        self.note: dict[str, Any] = {}
        self.trace = RequestTrace()
        self.span: Any = None
        """The request's span of OpenTelemetry, where tracing is on."""

    @property
    def priority(self) -> Priority:
        """Whether other requests go before this one."""
        return "interactive" if self.billing is None else "batch"

    def header(self, name: bytes) -> str | None:
        """Return the first request header ``name`` (lower case) or None."""
        return header(self.scope, name)

    def path_param(self, name: str) -> str:
        """Return the part of the path that the route names."""
        return self.scope["path_params"][name]

    def elapsed_s(self) -> float:
        """Return the seconds since the request arrived."""
        return time.perf_counter() - self.started

    async def receive(self) -> MutableMapping[str, Any]:
        """Return the next ASGI message: a piece of the body, or that the client has disconnected."""
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._has_body_ended = True
        return message

    async def discard_body(self) -> None:
        """Read what is left of the body, within bounds, and drop it.

        A client that is still sending when the connection closes is reset by the system and never sees the answer.
        """
        num_bytes = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_S):
                while not self._has_body_ended and num_bytes < _MAX_DISCARDED:
                    num_bytes += len((await self.receive()).get("body", b""))

    async def wait_disconnect(self) -> None:
        """Return when the client has disconnected. Call only after the body has been read."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def respond(self, body: bytes, *, status: int = 200, headers: Headers | None = None) -> None:
        """Send a whole answer; JSON unless ``headers`` name another content type."""
        if self.trace.contents is not None:
            self.trace.contents.add_answer(body)
        sent = headers if headers is not None else [JSON_HEADER]
        length = (b"content-length", str(len(body)).encode())
        await self._start(status, [*sent, length])
        await self._end(body)

    async def respond_json(self, value: Any, *, status: int = 200) -> None:
        """Send ``value`` as a JSON body."""
        await self.respond(_encode(value), status=status)

    async def fail(self, error: ApiError) -> None:
        """Send an error in OpenAI's envelope."""
        await self.respond(_encode(error.body()), status=error.status, headers=[JSON_HEADER, *encoded(error.headers)])

    async def pass_on(self, status: int, headers: Headers, pieces: AsyncIterator[bytes]) -> None:
        """Send an answer of another server as it comes. A failure within it closes the connection: no byte is added."""
        await self._start(status, headers)
        try:
            async for piece in pieces:
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        except ApiError as error:
            self.note_error(error)
            self.cut()
            raise ClientGone from error
        await self._end(b"")

    async def stream(self, frames: AsyncIterator[bytes], headers: Headers = STREAM_HEADERS) -> None:
        """Send server-sent events as they arrive; the caller handles errors inside ``frames``."""
        await self._start(200, headers)
        contents = self.trace.contents
        async for frame in frames:
            if contents is not None:
                contents.add_answer(frame)
            await self._send({"type": "http.response.body", "body": frame, "more_body": True})
        await self._end(b"")

    def note_model(self, model: str | None) -> str:
        """Put the model that is asked for into the log line and return it; the empty string means None."""
        if model:
            self.note["model"] = model[:_MAX_NAME]
        return model or ""

    def note_error(self, error: ApiError) -> None:
        """Put the error into the log line: its code, parameter and message."""
        self.note["error"] = error.code or error.type
        if error.param is not None:
            self.note["param"] = error.param
        self.note["message"] = error.message[:_MAX_MESSAGE]
        self.trace.message = self.note["message"]

    def cut(self) -> None:
        """Close the connection without finishing the answer, where the server allows that."""
        close: Callable[[], None] | None = self.scope.get(CUT_CONNECTION)
        if close is not None:
            close()

    async def _start(self, status: int, headers: Headers) -> None:
        if self.status is not None:
            raise ClientGone
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *self._standard()]})

    async def _end(self, body: bytes) -> None:
        # Said first: servers report a disconnect as soon as the answer is sent.
        self.is_answered = True
        await self._send({"type": "http.response.body", "body": body})

    def _standard(self) -> Headers:
        standard = self._standard_headers.of(self.request_id, self.elapsed_s(), self.header(b"origin"))
        return encoded({**standard, **self.extra})


Handler = Callable[[Call], Awaitable[None]]
"""Answers a request, or raises ``ApiError``."""

_encode = msgspec.json.Encoder().encode
