"""One WebSocket connection: uvicorn's protocol over the package ``websockets``, with an orderly end.

At shutdown the application gets the message ``antiphon.shutdown`` and closes the connection itself, once the response
that runs is over. A client that does not read is cut off: closing would wait until it has read all. What a client sends is read
in slices, between which other connections get their turn: one read may bring tens of thousands of small messages.
"""

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from antiphon.server.process.http_protocol import raw_error
from antiphon.server.request.asgi import SHUTDOWN
from antiphon.server.request.call import CUT_CONNECTION

_SLICE = 16_384
"""Bytes that are read at once: 2,300 of the smallest messages, which take about 5 ms."""


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Tells the application of a shutdown, lets it cut the connection, and reads in slices."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._unread = bytearray()
        self._message = bytearray()
        """The fragments so far of a message that is not whole yet."""
        self._is_scheduled = False

    def data_received(self, data: bytes) -> None:
        self._unread += data
        if not self._is_scheduled:
            self._read_slice()

    def handle_cont(self, event: Frame) -> None:
        """Append a fragment to those before it: a list of millions of small ones would take many times their bytes."""
        if not self._message:
            self._message += b"".join(self.frames)
            self.frames = []
        self._message += event.data
        if event.fin:
            self.frames = [bytes(self._message)]
            self._message.clear()
            self.send_receive_event_to_app()

    async def receive(self) -> Any:
        message = await super().receive()
        self._read_on()
        return message

    def _read_slice(self) -> None:
        self._is_scheduled = False
        data = bytes(self._unread[:_SLICE])
        del self._unread[:_SLICE]
        super().data_received(data)
        if not self.handshake_initiated:
            self._refuse()
        self._read_on()

    def _refuse(self) -> None:
        """Answer a request for a WebSocket that cannot be read. It came whole, so waiting for more is of no use."""
        message = "The request for a WebSocket is invalid: it has a body, or headers that cannot be read."
        self.transport.write(raw_error("400 Bad Request", message, "invalid_http"))
        self.transport.close()

    def _read_on(self) -> None:
        """Go on with what was received, unless the application has messages to take first."""
        if self._is_scheduled or self.transport.is_closing():
            return
        if self._unread:
            self.transport.pause_reading()
            if not self.read_paused:
                self._is_scheduled = True
                self.loop.call_soon(self._read_slice)
        elif not self.read_paused:
            self.transport.resume_reading()

    async def run_asgi(self) -> None:
        self.scope[CUT_CONNECTION] = self.transport.abort  # type: ignore[literal-required, typeddict-unknown-key]
        await super().run_asgi()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            # Refusing is an answer, too: without this uvicorn logs that there was none.
            self.handshake_complete = True
        self._read_on()

    def shutdown(self) -> None:
        if self.handshake_complete and not self.close_sent:
            message: Any = {"type": SHUTDOWN}
            self.queue.put_nowait(message)
        elif self.handshake_initiated:
            super().shutdown()
        else:
            self.transport.close()

    def keepalive_timeout(self) -> None:
        if self.read_paused or self._unread:
            # The application has messages to take first, and the client's answer may be behind them.
            assert self.ping_timeout is not None
            self.pong_timer = self.loop.call_later(self.ping_timeout, self.keepalive_timeout)
            return
        super().keepalive_timeout()
        self.transport.abort()
