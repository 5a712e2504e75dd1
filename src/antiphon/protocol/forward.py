"""A request for a path that this server does not answer itself, on its way to another OpenAI-compatible API.

The other API validates it; here nothing is read but what chooses the API and what the ledger needs.
"""

from collections.abc import AsyncIterator
from typing import Literal

import msgspec

from antiphon.protocol.events import Usage


class ForwardRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to send on.

    ``path`` is what follows ``/v1`` with its query, percent-encoded as the client sent it. ``headers`` are those that go on,
    names in lower case. ``body`` is None where the client sent none. ``num_bytes`` is its size, None for a chunked body.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes | AsyncIterator[bytes] | None = None
    num_bytes: int | None = None


class SocketRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request for a WebSocket to send on.

    ``path`` and ``headers`` as in ``ForwardRequest``; ``subprotocols`` are those that the client offers, without any key.
    ``max_bytes`` bounds one message of the upstream.
    """

    path: str
    headers: dict[str, str]
    subprotocols: tuple[str, ...] = ()
    max_bytes: int


class SocketEvent(msgspec.Struct, frozen=True):
    """What the ledger needs of a message of an upstream: a response has begun or ended there, or was refused.

    ``usage`` is None where the response reports none.
    """

    what: Literal["begun", "ended", "refused"]
    object_id: str | None = None
    model: str | None = None
    usage: Usage | None = None
    is_failed: bool = False


class SocketMessage(msgspec.Struct, frozen=True):
    """A whole message, text as ``str``, and what it says of a response, if anything."""

    data: str | bytes
    event: SocketEvent | None = None


class ForwardOutcome(msgspec.Struct, frozen=True):
    """What was read of an answer; complete once its bytes are exhausted.

    ``object_id`` is the id of the object that the answer made or shows, such as ``file-...``. ``usage`` is None where the
    answer reports none.
    """

    model: str | None = None
    object_id: str | None = None
    usage: Usage | None = None
