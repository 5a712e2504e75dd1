"""One WebSocket connection: uvicorn's protocol over the package ``websockets``, with an orderly end.

At shutdown the application gets the message ``antiphon.shutdown`` and closes the connection itself, once the response
that runs is over. A client that does not read is cut off: closing would wait until it has read all.
"""

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from antiphon.server.request.asgi import SHUTDOWN
from antiphon.server.request.call import CUT_CONNECTION


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Tells the application of a shutdown, and lets it cut the connection."""

    async def run_asgi(self) -> None:
        self.scope[CUT_CONNECTION] = self.transport.abort  # type: ignore[literal-required, typeddict-unknown-key]
        await super().run_asgi()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            # Refusing is an answer, too: without this uvicorn logs that there was none.
            self.handshake_complete = True

    def shutdown(self) -> None:
        if self.handshake_complete and not self.close_sent:
            message: Any = {"type": SHUTDOWN}
            self.queue.put_nowait(message)
        else:
            super().shutdown()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()
