"""One HTTP request in flight: what handlers read and how they answer."""

import secrets
import time
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from antiphon.protocol import decode_json
from antiphon.protocol.errors import ApiError
from antiphon.server.logs import log
from antiphon.server.request.asgi import ClientGone, Receive, Send
from antiphon.server.request.body import read_body
from antiphon.server.request.headers import Headers, Scope, encoded, header

if TYPE_CHECKING:
    from antiphon.server.service import Service

JSON_HEADER = (b"content-type", b"application/json")
STREAM_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Call:
    """A request with its id, and exactly one answer.

    ``extra`` are headers for every answer from here on (rate limits); ``note`` is what the log line and the ledger say of
    the request. ``status`` is None until the answer has begun. ``is_recorded`` says that its usage row is taken care of.
    """

    __slots__ = (
        "_receive",
        "_send",
        "extra",
        "is_recorded",
        "note",
        "request_id",
        "scope",
        "service",
        "started",
        "started_at",
        "status",
    )

    def __init__(self, service: "Service", scope: Scope, receive: Receive, send: Send) -> None:
        self.service = service
        self.scope = scope
        self._receive = receive
        self._send = send
        # Named by whoever stands before us where that is who answers with the id (``server/ray_serve.py``).
        self.request_id: str = scope.get("antiphon.request_id") or "req_" + secrets.token_hex(16)
        self.started = time.perf_counter()
        self.started_at = time.time()
        self.status: int | None = None
        self.is_recorded = False
        self.extra: dict[str, str] = {}
        self.note: dict[str, Any] = {}

    def header(self, name: bytes) -> str | None:
        """Return the first request header of that name (lower case) or None."""
        return header(self.scope, name)

    def path_param(self, name: str) -> str:
        """Return a part of the path that the route names."""
        return self.scope["path_params"][name]

    def elapsed_s(self) -> float:
        """Return the seconds since the request arrived."""
        return time.perf_counter() - self.started

    async def body(self) -> bytes:
        """Read the body, within the limit of the settings."""
        body = await read_body(self.scope, self._receive, self.service.settings.max_body_bytes)
        if self.service.settings.log_prompts:
            log.debug("body", request_id=self.request_id, body=body.decode(errors="backslashreplace"))
        return body

    def decode(self, body: bytes) -> Any:
        """Decode a JSON body; every way in which it can be wrong is an ``ApiError``."""
        return decode_json(body, self.header(b"content-type"))

    async def wait_disconnect(self) -> None:
        """Return when the client has left. Call only after the body has been read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def respond(self, body: bytes, *, status: int = 200, headers: Headers | None = None) -> None:
        """Send a whole answer; JSON unless ``headers`` name another content type."""
        sent = headers if headers is not None else [JSON_HEADER]
        length = (b"content-length", str(len(body)).encode())
        await self._start(status, [*sent, length])
        await self._send({"type": "http.response.body", "body": body})

    async def fail(self, error: ApiError) -> None:
        """Send an error in OpenAI's envelope."""
        await self.respond(
            self.service.encode(error.body()), status=error.status, headers=[JSON_HEADER, *encoded(error.headers)]
        )

    async def stream(self, frames: AsyncIterator[bytes], headers: Headers = STREAM_HEADERS) -> None:
        """Send server-sent events as they come; the caller has taken care of errors inside ``frames``."""
        await self._start(200, headers)
        async for frame in frames:
            await self._send({"type": "http.response.body", "body": frame, "more_body": True})
        await self._send({"type": "http.response.body", "body": b""})

    async def _start(self, status: int, headers: Headers) -> None:
        if self.status is not None:
            raise ClientGone
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *self._standard()]})

    def _standard(self) -> Headers:
        standard: Mapping[str, str] = {
            "x-request-id": self.request_id,
            "openai-processing-ms": str(round(self.elapsed_s() * 1000)),
            "openai-version": "2020-10-01",
            "openai-organization": self.service.organization,
            **self.extra,
        }
        origin = self.header(b"origin")
        if origin is not None and self.service.origin_check.allows_origin(origin):
            standard = {
                **standard,
                "access-control-allow-origin": origin,
                "access-control-expose-headers": "*",
                "vary": "origin",
            }
        return encoded(standard)
