"""WebSockets of one upstream, opened with its key: whole messages both ways, each side no faster than the other reads.

The package ``websockets`` is the client. It offers no compression, so a message cannot inflate, and it follows no redirect.
"""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from antiphon.backends.base import SocketClosed
from antiphon.backends.trace import propagated_headers
from antiphon.backends.upstream.failures import (
    UpstreamError,
    disconnected,
    error_from_answer,
    is_header_text,
    os_reason,
    protocol_error,
    timed_out,
    unreachable,
)
from antiphon.backends.upstream.secret import Secret
from antiphon.backends.upstream.settings import UpstreamSettings
from antiphon.backends.upstream.socket_events import read_event
from antiphon.protocol.errors import overloaded
from antiphon.protocol.forward import SocketMessage, SocketRequest

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection
    from websockets.exceptions import ConnectionClosed

_PING_S = 20.0
"""How often the upstream is pinged."""
_CLOSE_S = 2.0
_END_S = 0.5
"""How long all upstreams have to answer that this server ends."""
_SEND_S = 60.0
"""How long an upstream may take to read before it counts as lost."""
_PONG_S = 80.0
"""How long it may take to answer a ping. The answer is behind messages, which a client may take 60 s to read."""
_QUEUE = (0, 0)
"""Frames that may wait to be taken before reading stops, and those that are left when it goes on: each may be of the largest size."""
_NORMAL, _GOING_AWAY, _NO_CODE, _NO_PONG = 1000, 1001, 1005, 1011
_MASK = "****"


class UpstreamSocket:
    """One open connection; see ``ForwardedSocket``."""

    def __init__(self, connection: "ClientConnection", upstream: str, key: Secret | None) -> None:
        self._connection = connection
        self._upstream = upstream
        self._key = None if key is None else key.reveal()
        response = connection.response
        assert response is not None
        self.subprotocol: str | None = connection.subprotocol
        request_id = response.headers.get("x-request-id", "")
        self.headers: Mapping[str, str] = {"x-upstream-request-id": request_id} if is_header_text(request_id) else {}

    @property
    def is_open(self) -> bool:
        """Whether no side has closed it, as far as is known."""
        return self._connection.close_code is None

    async def receive(self) -> SocketMessage:
        data = await self.receive_data()
        return SocketMessage(data, read_event(data))

    async def receive_data(self) -> str | bytes:
        """Return the next message alone, for a caller that reads it itself. Raises as ``receive`` does."""
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415 - an optional package

        try:
            return self._masked(await self._connection.recv())
        except ConnectionClosed as closed:
            raise self._closed(closed) from None

    async def send(self, message: str | bytes) -> None:
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415 - an optional package

        try:
            async with asyncio.timeout(_SEND_S):
                await self._connection.send(message)
        except ConnectionClosed as closed:
            raise self._closed(closed) from None
        except TimeoutError:
            self._connection.transport.abort()
            error = timed_out(self._upstream, "while it was sent a message", _SEND_S)
            raise SocketClosed(_NORMAL, error=error) from None

    async def close(self, code: int, reason: str = "") -> None:
        await self._connection.close(code, reason)

    def _closed(self, closed: "ConnectionClosed") -> SocketClosed:
        """Return how it ended: as the upstream said, or by this side, because it ends or cannot read what was sent."""
        rcvd, sent = closed.rcvd, closed.sent
        if rcvd is not None and (sent is None or closed.rcvd_then_sent):
            code = _NORMAL if rcvd.code == _NO_CODE else rcvd.code
            return SocketClosed(code, cast("str", self._masked(rcvd.reason)))
        if sent is None:
            return SocketClosed(_NORMAL, error=disconnected(self._upstream))
        if sent.code in {_NORMAL, _GOING_AWAY}:
            return SocketClosed(_GOING_AWAY, "The server is ending.")
        if sent.code == _NO_PONG:
            return SocketClosed(_NORMAL, error=timed_out(self._upstream, "not even the answer to a ping", _PONG_S))
        what = sent.reason or f"a frame that cannot be read ({sent.code})"
        return SocketClosed(_NORMAL, error=protocol_error(self._upstream, what))

    def _masked(self, message: str | bytes) -> str | bytes:
        """Return the message without our key, which some upstreams repeat in an error; nearly always the same object."""
        if self._key is None:
            return message
        if isinstance(message, str):
            return message if self._key not in message else message.replace(self._key, _MASK)
        key = self._key.encode()
        return message if key not in message else message.replace(key, _MASK.encode())


class UpstreamSockets:
    """Opens the connections to one upstream, and closes those that are left at the end."""

    def __init__(self, settings: UpstreamSettings, key: Secret | None) -> None:
        self._settings = settings
        self._key = key
        self._is_closed = False
        self._open: set[ClientConnection] = set()
        self._num_opening = 0

    @property
    def num_open(self) -> int:
        """Connections that are being opened, are open, or are not yet seen to be closed."""
        return self._num_opening + sum(connection.close_code is None for connection in self._open)

    async def open(self, request: SocketRequest) -> UpstreamSocket:
        """Return a connection after its handshake. ``UpstreamError``: the upstream's own refusal, or why there is none.

        Redirects and refused credentials are a 502, as over HTTP.
        """
        self._check_room()
        self._num_opening += 1
        try:
            connection = await self._connect(request)
        finally:
            self._num_opening -= 1
        if self._is_closed:
            # The server ended during the handshake.
            connection.transport.abort()
            raise overloaded(1)
        self._open = {known for known in self._open if known.close_code is None} | {connection}
        return UpstreamSocket(connection, self._settings.name, self._key)

    async def _connect(self, request: SocketRequest) -> "ClientConnection":
        from websockets.exceptions import (  # noqa: PLC0415 - an optional package
            ConnectionClosed,
            InvalidStatus,
            InvalidURI,
            WebSocketException,
        )

        from antiphon.backends.upstream.client_connection import (  # noqa: PLC0415 - imports that package
            Connect,
            SlicedConnection,
        )

        settings, timeouts = self._settings, self._settings.timeouts
        headers = request.headers | dict(propagated_headers())
        agent = headers.pop("user-agent", None)
        headers |= {name.lower(): value for name, value in settings.headers.items()}
        if self._key is not None:
            headers["authorization"] = f"Bearer {self._key.reveal()}"
        patience_s = timeouts.connect_s + timeouts.first_byte_s
        try:
            return await Connect(
                "ws" + settings.base_url.rstrip("/").removeprefix("http") + request.path,
                additional_headers=headers,
                user_agent_header=agent,
                subprotocols=list(request.subprotocols) or None,  # type: ignore[arg-type] - a NewType of str
                compression=None,
                proxy=None,
                open_timeout=patience_s,
                ping_interval=_PING_S,
                ping_timeout=_PONG_S,
                close_timeout=_CLOSE_S,
                max_size=request.max_bytes,
                max_queue=_QUEUE,
                create_connection=SlicedConnection,
            )
        except InvalidStatus as refused:
            answer = refused.response
            raise _refusal(settings.name, answer.status_code, answer.headers, self._text_of(answer.body)) from None
        except InvalidURI:
            raise protocol_error(settings.name, "an address that is none") from None
        except TimeoutError:
            raise timed_out(settings.name, "before the answer", patience_s) from None
        except (WebSocketException, AssertionError) as error:
            # The package asserts that nothing comes before its request is sent.
            if isinstance(error, ConnectionClosed) or isinstance(error.__cause__, EOFError):
                raise disconnected(settings.name) from None
            raise protocol_error(settings.name, "an answer that opens no WebSocket") from None
        except OSError as error:
            raise unreachable(settings.name, os_reason(error)) from None

    async def aclose(self) -> None:
        """Close all, because this server ends. Idempotent."""
        self._is_closed = True
        closing = [asyncio.ensure_future(connection.close(_GOING_AWAY)) for connection in self._open]
        if closing:
            _, waiting = await asyncio.wait(closing, timeout=_END_S)
            for connection in self._open if waiting else ():
                connection.transport.abort()
            await asyncio.gather(*closing, return_exceptions=True)
        self._open.clear()

    def _check_room(self) -> None:
        if self._is_closed or self.num_open >= self._settings.max_connections:
            raise overloaded(1)

    def _text_of(self, body: bytes | bytearray) -> bytes:
        text = bytes(body)
        return text if self._key is None else text.replace(self._key.reveal().encode(), _MASK.encode())


def _refusal(upstream: str, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    if status < 300:  # noqa: PLR2004 - a success that is not the one that was asked for
        return protocol_error(upstream, f"the status {status} to a request for a WebSocket")
    return error_from_answer(upstream, status, headers, body)
