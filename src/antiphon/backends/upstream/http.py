"""HTTP to one upstream: a connection pool, a timeout for each phase, and errors as ``UpstreamError``."""

import asyncio
import contextlib
import io
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from antiphon.backends.trace import propagated_headers
from antiphon.backends.upstream.failures import (
    UpstreamError,
    disconnected,
    error_from_answer,
    os_reason,
    protocol_error,
    timed_out,
    unreachable,
)
from antiphon.backends.upstream.rate_limit_window import LIMIT_HEADERS, RateLimitWindow
from antiphon.backends.upstream.secret import Secret
from antiphon.backends.upstream.settings import UpstreamSettings
from antiphon.protocol.errors import overloaded
from antiphon.protocol.forward import ForwardRequest

_MAX_ERROR_BYTES = 64 * 1024
_ERROR_BODY_S = 10.0
"""An error is reported with what has come of its text by then."""
_MAX_LINE = 64 * 1024
_OK = 200
_NOT_MODIFIED = 304
_LAST_ERROR = 600
_OUR_FAULTS = (401, 403, 407)
_MAX_REMEMBERED = 10_000
"""Models whose rate limits are remembered; behind a wildcard route clients can name any number."""
_LAST_BYTES_S = 0.2
_LARGE = 1 << 20


class UpstreamAnswer:
    """A successful answer that is being read. Closing it before its end closes the connection, which ends the work."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        settings: UpstreamSettings,
        on_close: Callable[[], None],
        key: Secret | None,
    ) -> None:
        timeouts = settings.timeouts
        self._on_close = on_close
        self._key = key
        self._is_closed = False
        self._response = response
        self._upstream = settings.name
        # Many servers send the head of a stream at once and its first event when the prompt is read.
        self._wait_s = timeouts.first_byte_s
        self._first_byte_s, self._between_bytes_s = timeouts.first_byte_s, timeouts.between_bytes_s
        self._event_before: float | None = None
        self._max_bytes = settings.max_answer_bytes
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self.content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def read_some(self) -> bytes:
        """Return the bytes received since the last call, waiting for some; empty at the end."""
        content = self._response.content
        try:
            self._check_event_time()
            # The first event commonly comes with the head: bytes that are here already need no timeout.
            data = content.read_nowait()
            if not data:
                async with asyncio.timeout(self._wait_s):
                    data = await content.readany()
        except TimeoutError:
            if self._event_before is not None:
                raise timed_out(self._upstream, "before the first event", self._first_byte_s) from None
            raise timed_out(self._upstream, "within the answer", self._wait_s) from None
        except (aiohttp.ClientError, OSError):
            raise disconnected(self._upstream) from None
        self._wait_s = self._between_bytes_s
        return data

    def _check_event_time(self) -> None:
        """Raise ``TimeoutError`` if only comments came for too long."""
        if self._event_before is not None:
            self._wait_s = self._event_before - asyncio.get_running_loop().time()
            if self._wait_s <= 0:
                raise TimeoutError

    def expect_event(self) -> None:
        """Bound the time until ``event_came`` by ``first_byte_s`` from now, whatever comments come before the event."""
        self._event_before = asyncio.get_running_loop().time() + self._first_byte_s

    def event_came(self) -> None:
        """Bound the time between bytes from now on."""
        self._event_before = None
        self._wait_s = self._between_bytes_s

    async def read_all(self) -> bytes:
        """Return the rest, decompressed; ``UpstreamError`` 502 if that is more than ``max_answer_bytes``."""
        pieces: list[bytes] = []
        size = 0
        while piece := await self.read_some():
            size += len(piece)
            if size > self._max_bytes:
                raise protocol_error(self._upstream, f"an answer of more than {self._max_bytes} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    async def read_end(self) -> bytes:
        """Return what comes within a moment after the last event; empty if nothing does, or the connection is lost."""
        with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(_LAST_BYTES_S):
                return await self._response.content.readany()
        return b""

    async def read_head(self) -> bytes:
        """Return the beginning of an answer that is an error: what comes of 64 KiB in a few seconds."""
        head = b""
        with contextlib.suppress(TimeoutError, UpstreamError):
            async with asyncio.timeout(_ERROR_BODY_S):
                while len(head) < _MAX_ERROR_BYTES and (more := await self.read_some()):
                    head += more
        return head[:_MAX_ERROR_BYTES]

    def masked(self, text: bytes) -> bytes:
        """Return an upstream's error text without our key, which some upstreams repeat."""
        return text if self._key is None else text.replace(self._key.reveal().encode(), b"****")

    async def finish(self) -> None:
        """Wait briefly for the end of an answer whose last event has come, so that its connection can be reused."""
        content = self._response.content
        with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(_LAST_BYTES_S):
                while not content.at_eof():
                    await content.readany()

    def close(self) -> None:
        """Give the connection back to the pool if the answer is complete, else close it. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self._response.close()
            self._on_close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Http:
    """Requests to one upstream, with its key. Made on first use, because a pool belongs to an event loop."""

    def __init__(self, settings: UpstreamSettings, key: Secret | None) -> None:
        self._settings = settings
        self._key = key
        self._session: aiohttp.ClientSession | None = None
        self._is_closed = False
        self._windows: dict[str, RateLimitWindow] = {}
        self.num_running = 0
        self.num_requests = 0
        self.num_failed = 0

    async def post(self, path: str, body: bytes, model: str) -> UpstreamAnswer:
        """Send JSON to ``path`` below the base URL; returns with the head of a successful answer.

        The rate limits that the answer reports are remembered for ``model``.
        """
        return await self._request("POST", self._settings.base_url.rstrip("/") + path, body, model)

    def wait_s(self, model: str) -> float:
        """Return the seconds until the upstream's rate limits for ``model`` allow another request; 0 for now."""
        window = self._windows.get(model)
        return window.wait_s(time.monotonic()) if window is not None else 0.0

    async def get(self, path: str) -> bytes:
        """Return the whole body of a successful answer."""
        async with await self._request("GET", self._settings.base_url.rstrip("/") + path, None) as answer:
            return await answer.read_all()

    async def post_to_root(self, path: str, body: bytes) -> bytes:
        """Send JSON to a path next to ``/v1`` instead of below it; returns the body."""
        root = self._settings.base_url.rstrip("/").removesuffix("/v1")
        async with await self._request("POST", root + path, body) as answer:
            return await answer.read_all()

    async def forward(self, request: ForwardRequest) -> UpstreamAnswer:
        """Send a request for any path; returns with the head of the answer, be it an error, its body as it is encoded.

        Refused credentials and redirects raise ``UpstreamError`` 502, as everywhere.
        """
        self.num_running += 1
        self.num_requests += 1
        try:
            response = await self._send_on(request)
            answer = UpstreamAnswer(response, self._settings, self._closed_one, self._key)
        except BaseException:
            self._closed_one()
            self.num_failed += 1
            raise
        status = response.status
        is_redirect = 300 <= status < 400 and status != _NOT_MODIFIED  # noqa: PLR2004 - the range of redirects
        if status in _OUR_FAULTS or not _OK <= status < _LAST_ERROR or is_redirect:
            self.num_failed += 1
            async with answer:
                raise await self._refusal(response, answer)
        return answer

    async def aclose(self) -> None:
        self._is_closed = True
        if self._session is not None:
            await self._session.close()

    async def _request(self, method: str, url: str, body: bytes | None, model: str | None = None) -> UpstreamAnswer:
        self.num_running += 1
        self.num_requests += 1
        try:
            response = await self._send(method, url, body)
            answer = UpstreamAnswer(response, self._settings, self._closed_one, self._key)
        except BaseException:
            self._closed_one()
            self.num_failed += 1
            raise
        if model is not None and any(name in response.headers for name in LIMIT_HEADERS):
            if len(self._windows) >= _MAX_REMEMBERED:
                self._windows.clear()
            self._windows.setdefault(model, RateLimitWindow()).learn(response.headers, time.monotonic())
        if response.status != _OK:
            self.num_failed += 1
            async with answer:
                raise await self._refusal(response, answer)
        return answer

    def _closed_one(self) -> None:
        self.num_running -= 1

    async def _send(self, method: str, url: str, body: bytes | None) -> aiohttp.ClientResponse:
        timeouts = self._settings.timeouts
        # A large body is written in pieces, so that it does not block the event loop.
        data = io.BytesIO(body) if body is not None and len(body) >= _LARGE else body
        headers = propagated_headers()
        async with self._as_failures():
            # aiohttp has a timeout for connecting; it has none for the head of the answer alone.
            async with asyncio.timeout(timeouts.connect_s + timeouts.first_byte_s):
                return await self._open().request(method, url, data=data, headers=headers, allow_redirects=False)

    async def _send_on(self, request: ForwardRequest) -> aiohttp.ClientResponse:
        first_byte_s = self._settings.timeouts.first_byte_s
        loop = asyncio.get_running_loop()
        body = request.body

        async def pieces(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            async for piece in body:
                # A large body takes its time; what is bounded is the time without a byte.
                deadline.reschedule(loop.time() + first_byte_s)
                yield piece

        headers = request.headers | dict(propagated_headers())
        if request.num_bytes is not None:
            headers["content-length"] = str(request.num_bytes)
        data = body if body is None or isinstance(body, bytes) else pieces(body)
        url = URL(self._settings.base_url.rstrip("/") + request.path, encoded=True)
        async with self._as_failures():
            async with asyncio.timeout(self._settings.timeouts.connect_s + first_byte_s) as deadline:
                return await self._open().request(
                    request.method,
                    url,
                    data=data,
                    headers=headers,
                    allow_redirects=False,
                    auto_decompress=False,
                )

    @contextlib.asynccontextmanager
    async def _as_failures(self) -> AsyncGenerator[None]:
        """Turn what aiohttp raises before the head of an answer into ``UpstreamError``."""
        name, timeouts = self._settings.name, self._settings.timeouts
        try:
            yield
        except aiohttp.ConnectionTimeoutError:
            raise unreachable(name, f"no connection within {timeouts.connect_s:g} s") from None
        except TimeoutError:
            raise timed_out(name, "before the answer", timeouts.first_byte_s) from None
        except aiohttp.ClientConnectorError as error:
            raise unreachable(name, os_reason(error.os_error)) from None
        except aiohttp.ClientResponseError:
            raise protocol_error(name, "a malformed HTTP answer") from None
        except (aiohttp.ClientError, OSError):
            raise disconnected(name) from None

    async def _refusal(self, response: aiohttp.ClientResponse, answer: UpstreamAnswer) -> UpstreamError:
        head = await answer.read_head()
        return error_from_answer(self._settings.name, response.status, response.headers, answer.masked(head))

    def _open(self) -> aiohttp.ClientSession:
        if self._is_closed:
            raise overloaded(1)
        if self._session is None:
            settings = self._settings
            headers = {"content-type": "application/json", "accept-encoding": "identity"}
            headers |= {name.lower(): value for name, value in settings.headers.items()}
            if self._key is not None:
                headers["authorization"] = f"Bearer {self._key.reveal()}"
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=settings.max_connections, keepalive_timeout=settings.keepalive_s),
                timeout=aiohttp.ClientTimeout(total=None, connect=settings.timeouts.connect_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=headers,
                read_bufsize=_MAX_LINE,
            )
        return self._session
