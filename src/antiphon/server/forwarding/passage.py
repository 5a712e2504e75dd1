"""Passes the messages of a WebSocket on, both ways, until one side closes it.

Each side is read no faster than the other takes. A message is held whole, so one side holds a few of the largest at most;
those of the client count with the request bodies in memory.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

import msgspec

from antiphon.backends.base import ForwardedSocket, SocketClosed
from antiphon.protocol.errors import ApiError
from antiphon.server.forwarding.socket_responses import SocketResponses
from antiphon.server.request.asgi import SHUTDOWN, ClientGone, Receive, Send

_SEND_S = 60.0
"""How long a client may take to read before it is cut off."""
_LEAVE_S = 10.0
"""How long a client may take to leave a connection that was closed."""
_MESSAGES_AT_ONCE = 32
"""Messages in a row after which other connections get their turn: many small ones may have come together."""
_MAX_REASON_BYTES = 123
_NORMAL, _GOING_AWAY, _POLICY, _FAULT = 1000, 1001, 1008, 1011
_UNSENDABLE = frozenset({1004, 1005, 1006, 1015})
"""Codes that name what happened and are never sent (RFC 6455, 7.4.1)."""


class SocketEnd(msgspec.Struct, frozen=True):
    """How a connection ends. ``by_client``: it is closed already. ``error`` is for the log and the ledger."""

    code: int
    reason: str = ""
    by_client: bool = False
    error: ApiError | None = None


class Passage:
    """One connection, accepted already. ``limit_s``: how long it may last; ``idle_s``: how long no side may send anything."""

    def __init__(
        self,
        receive: Receive,
        send: Send,
        upstream: ForwardedSocket,
        responses: SocketResponses,
        *,
        cut: Callable[[], None],
        limit_s: float,
        idle_s: float,
    ) -> None:
        self._receive = receive
        self._send = send
        self._upstream = upstream
        self._responses = responses
        self._cut = cut
        self._limit_s = limit_s
        self._idle_s = idle_s
        self._loop = asyncio.get_running_loop()
        self._active_at = self._loop.time()
        self._news = asyncio.Event()
        self._is_ending = False

    async def run(self) -> SocketEnd:
        """Pass messages on until the end, close both sides, and return how it ended."""
        ways = [asyncio.ensure_future(self._to_upstream()), asyncio.ensure_future(self._to_client())]
        end = SocketEnd(_GOING_AWAY, "client disconnected", by_client=True)
        try:
            end = await self._watch(ways)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            await self._close(end)
        return end

    async def _watch(self, ways: "Sequence[asyncio.Future[SocketEnd]]") -> SocketEnd:
        ends_at = self._loop.time() + self._limit_s
        while True:
            now = self._loop.time()
            for way in ways:
                if way.done():
                    return way.result()
            if self._is_ending and not self._responses.num_running:
                return SocketEnd(_GOING_AWAY, "The server is ending.")
            if now >= ends_at:
                return SocketEnd(_GOING_AWAY, f"The connection lasted {self._limit_s / 60:g} minutes, the limit.")
            idle_at = self._active_at + self._idle_s
            if now >= idle_at and not self._responses.num_running:
                return SocketEnd(_GOING_AWAY, f"No message came for {self._idle_s:g} s.")
            self._news.clear()
            news = asyncio.ensure_future(self._news.wait())
            left = ends_at - now if now >= idle_at else min(ends_at, idle_at) - now
            await asyncio.wait({*ways, news}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            news.cancel()

    async def _to_upstream(self) -> SocketEnd:
        num = 0
        while True:
            message = await self._receive()
            kind = message["type"]
            if kind == "websocket.disconnect":
                return SocketEnd(message.get("code") or _NORMAL, message.get("reason") or "", by_client=True)
            if kind == SHUTDOWN:
                self._is_ending = True
                self._news.set()
                continue
            text = message.get("text")
            data: str | bytes = text if isinstance(text, str) else message.get("bytes") or b""
            self._active_at = self._loop.time()
            try:
                async with self._responses.taken(data) as refusal:
                    if refusal is None:
                        await self._upstream.send(data)
                    else:
                        await self._send_on(refusal.decode())
            except SocketClosed as closed:
                return _end_of(closed)
            except ClientGone:
                return SocketEnd(_GOING_AWAY, "client disconnected", by_client=True)
            num += 1
            if num % _MESSAGES_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _to_client(self) -> SocketEnd:
        num = 0
        while True:
            try:
                message = await self._upstream.receive()
                self._active_at = self._loop.time()
                if message.event is not None:
                    await self._responses.received(message.event)
                    self._news.set()
                await self._send_on(message.data)
            except SocketClosed as closed:
                return _end_of(closed)
            except ClientGone:
                return SocketEnd(_GOING_AWAY, "client disconnected", by_client=True)
            except ApiError as error:
                # The upstream began a response by itself that the key's limits do not allow.
                return SocketEnd(_POLICY, error.message, error=error)
            num += 1
            if num % _MESSAGES_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _send_on(self, data: str | bytes) -> None:
        """Send a message to the client. Raises ``ClientGone`` where nobody reads any more."""
        name = "text" if isinstance(data, str) else "bytes"
        try:
            async with asyncio.timeout(_SEND_S):
                await self._send({"type": "websocket.send", name: data})
        except TimeoutError:
            self._cut()
            raise ClientGone from None
        except OSError as error:
            raise ClientGone from error

    async def _close(self, end: SocketEnd) -> None:
        code = _NORMAL if end.code in _UNSENDABLE else end.code
        reason = _shortened(end.reason)
        if end.by_client:
            await self._upstream.close(_GOING_AWAY if end.code == 1006 else code, reason)  # noqa: PLR2004 - it was lost
            return
        closing = asyncio.ensure_future(self._upstream.close(_NORMAL if end.error is not None else code, reason))
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_SEND_S):
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
        self._loop.call_later(_LEAVE_S, self._cut)
        await closing


def _end_of(closed: SocketClosed) -> SocketEnd:
    if closed.error is None:
        return SocketEnd(closed.code, closed.reason)
    return SocketEnd(_FAULT, closed.error.message, error=closed.error)


def _shortened(reason: str) -> str:
    """Return what of a reason fits into a frame that closes, in whole characters."""
    return reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
