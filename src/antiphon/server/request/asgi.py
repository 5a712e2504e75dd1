"""Names for the ASGI interface's pieces."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
SHUTDOWN = "antiphon.shutdown"
"""Type of the message by which the protocol of a WebSocket says that the server ends."""


class ClientGone(Exception):  # noqa: N818 - an event of the connection, not an error
    """The client closed the connection, so there is no one to answer."""
