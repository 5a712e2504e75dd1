"""Reads a request's body within its limits, and does the work on large ones away from the event loop."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar, cast

import msgspec

from antiphon.protocol import decode_json, problems
from antiphon.protocol.errors import ApiError, overloaded
from antiphon.protocol.responses.mcp_fields import without_secrets
from antiphon.protocol.shapes import Object
from antiphon.server.logs import log
from antiphon.server.request.asgi import ClientGone
from antiphon.server.request.call import Call
from antiphon.server.request.json_values import MAX_VALUES, has_more_values

T = TypeVar("T")

LARGE_BYTES = 100_000
"""A larger body is decoded in a thread; a smaller one takes less than about 2 ms on the event loop."""
_MAX_BODIES = 8
"""How many bodies of the largest allowed size may be in memory at once."""


class RequestBodies:
    """Reads bodies. ``max_bytes`` bounds one body; all bodies in memory together may have eight times as many bytes.

    One thread works on large bodies, one after another: with one such thread Python's interpreter lock leaves the event loop
    about half of the processor, with several it leaves less.
    """

    def __init__(self, max_bytes: int, *, log_bodies: bool = False) -> None:
        self._max_bytes = max_bytes
        self._log_bodies = log_bodies
        self.num_bytes_held = 0
        """The size of all bodies in memory."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="large body")

    @asynccontextmanager
    async def read(self, call: Call) -> AsyncGenerator[bytes]:
        """Give the whole body, and count its bytes as held until the block ends.

        Raises ``ClientGone`` when the client leaves before the body's end. ``ApiError``: 413 for too many bytes or too many
        JSON values, 415 for a compressed body (OpenAI documents none), 503 while other bodies take up the memory.
        """
        _check_encoding(call)
        announced = call.header(b"content-length")
        if announced is not None and announced.isdigit() and int(announced) > self._max_bytes:
            raise self._too_large()
        chunks: list[bytes] = []
        num_bytes = 0
        try:
            has_more = True
            while has_more:
                message = await call.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                chunk: bytes = message.get("body", b"")
                self._check_room(num_bytes, len(chunk))
                num_bytes += len(chunk)
                self.num_bytes_held += len(chunk)
                chunks.append(chunk)
                has_more = message.get("more_body", False)
            body = chunks.pop() if len(chunks) == 1 else b"".join(chunks)
            chunks.clear()
            await self.keep_captured(call, body)
            await self.check_values(body)
            await self._log(call, body)
            yield body
        finally:
            self.num_bytes_held -= num_bytes

    async def read_object(self, call: Call, table: Object, *, optional: bool = False) -> dict[str, Any]:
        """Return a body that is a JSON object as ``table`` describes it; an empty body where it is ``optional``: ``{}``.

        Raises as ``read`` does, and ``ApiError`` 400 for anything else.
        """
        async with self.read(call) as body:
            if optional and not body.strip():
                return {}
            value: Any = await self.work(body, decode_json, body, call.header(b"content-type"))
            if not isinstance(value, dict):
                raise problems.wrong_type("body", "an object", value)
            await self.work(body, _check, table, value)
            return cast("dict[str, Any]", value)

    async def keep_captured(self, call: Call, body: bytes) -> None:
        """Keep the body for the console, if the request is captured."""
        contents = call.trace.contents
        if contents is not None:
            await self.work(body, lambda: contents.set_request(shown_body(body)))

    @asynccontextmanager
    async def hold(self, call: Call, body: bytes) -> AsyncGenerator[None]:
        """Count a body that came in another way than as a request's, and check it as ``read`` does, until the block ends."""
        self._check_room(0, len(body))
        self.num_bytes_held += len(body)
        try:
            await self.check_values(body)
            await self._log(call, body)
            yield
        finally:
            self.num_bytes_held -= len(body)

    @contextmanager
    def holding(self) -> Generator[Callable[[int], None]]:
        """Yield what counts further bytes of a body as held until the block ends; it raises ``ApiError`` 503 without room."""
        held = 0

        def hold(num_bytes: int) -> None:
            nonlocal held
            if self.num_bytes_held + num_bytes > _MAX_BODIES * self._max_bytes:
                raise overloaded(retry_after_s=1)
            held += num_bytes
            self.num_bytes_held += num_bytes

        try:
            yield hold
        finally:
            self.num_bytes_held -= held

    async def _log(self, call: Call, body: bytes) -> None:
        if self._log_bodies:
            shown = await self.work(body, lambda: shown_body(body).decode(errors="backslashreplace"))
            log.debug("body", request_id=call.request_id, body=shown)

    async def work(self, body: bytes, function: Callable[..., T], *args: Any) -> T:
        """Return ``function(*args)``, computed in the thread for large bodies if ``body`` is large."""
        if len(body) <= LARGE_BYTES:
            return function(*args)
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def _check_room(self, num_before: int, num_more: int) -> None:
        if num_before + num_more > self._max_bytes:
            raise self._too_large()
        if self.num_bytes_held + num_more > _MAX_BODIES * self._max_bytes:
            raise overloaded(retry_after_s=1)

    async def check_values(self, body: bytes) -> None:
        """Raise ``ApiError`` 413 for a body with too many JSON values to decode."""
        if len(body) > LARGE_BYTES and await self.work(body, has_more_values, body, MAX_VALUES):
            raise ApiError(
                413,
                f"The request body has more than {MAX_VALUES:,} JSON values, the limit of this server. "
                "Send fewer messages, inputs or token ids in one request.",
                code="request_too_large",
            )

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"The request body is larger than {self._max_bytes} bytes, the limit of this server.",
            code="request_too_large",
            headers={"connection": "close"},
        )


def _check(table: Object, value: Any) -> None:
    table.check(value, "")
    table.refuse(value, "")


def shown_body(body: bytes) -> bytes:
    """Return a body for the log and the console: tokens and headers that are meant for an MCP server are not shown."""
    if b"mcp" not in body:
        return body
    try:
        return msgspec.json.encode(without_secrets(msgspec.json.decode(body)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return b"[a body that is not JSON and names MCP is not shown]"


def _check_encoding(call: Call) -> None:
    encoding = call.header(b"content-encoding")
    if encoding is None or encoding.strip().lower() in {"", "identity"}:
        return
    raise ApiError(
        415,
        f"Unsupported content encoding: {encoding!r}. Send the body uncompressed, without 'Content-Encoding'.",
        code="unsupported_content_encoding",
        headers={"accept-encoding": "identity"},
    )
