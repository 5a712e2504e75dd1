"""The body of a request that is sent on: its beginning, read to find the model, and the rest, passed on as it comes."""

import asyncio
from collections.abc import AsyncIterator, Callable

from antiphon.protocol.errors import ApiError
from antiphon.server.forwarding.multipart import ModelField
from antiphon.server.request.asgi import ClientGone
from antiphon.server.request.call import Call

_MAX_HEAD = 32 * 1024 * 1024
"""How much of a form is read to find its model: a recording and the fields around it."""


class Upload:
    """One body. Read ``head`` first, then iterate once: the head, then the rest.

    ``max_bytes`` bounds the whole. ``sent`` is set once the last byte has been taken. ``is_limited``: the key may use certain
    models only, so the whole form is read, for a second model that the upstream might take instead of the first.
    """

    def __init__(self, call: Call, max_bytes: int, *, is_limited: bool = False) -> None:
        self._call = call
        self._is_limited = is_limited
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._has_more = True
        self.head = bytearray()
        self.sent = asyncio.Event()
        self.is_gone = False
        self.error: ApiError | None = None
        announced = call.header(b"content-length")
        self.num_bytes = int(announced) if announced is not None and announced.isdigit() else None
        """The size of the whole, None for a chunked body."""
        if self.num_bytes is not None and self.num_bytes > max_bytes:
            raise self._too_large()

    async def read_model(self, content_type: str, hold: Callable[[int], None]) -> str | None:
        """Read the form until its field ``model`` has come, and return it; None for a form without one.

        ``hold`` counts the bytes that are kept for it.
        """
        field = ModelField(content_type)
        while self._has_more and not (field.is_found or field.is_over) and len(self.head) < _MAX_HEAD:
            piece = await self._receive()
            hold(len(piece))
            field.feed(piece)
            self.head += piece
        self._field = field
        return field.model

    def rename(self, model: str) -> None:
        """Put another model into the form; only after ``read_model`` returned one."""
        written = self._field.renamed(bytes(self.head), model)
        if self.num_bytes is not None:
            self.num_bytes += len(written) - len(self.head)
        self.head = bytearray(written)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self.head:
            yield bytes(self.head)
        self.head.clear()
        try:
            while self._has_more:
                if piece := await self._receive():
                    if self._is_limited:
                        self._field.feed(piece)
                    yield piece
        except ClientGone:
            # The client of the upstream would take it for a failure of the connection.
            self.is_gone = True
            raise
        except ApiError as error:
            self.error = error
            raise
        self.sent.set()

    async def _receive(self) -> bytes:
        message = await self._call.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece: bytes = message.get("body", b"")
        self._has_more = message.get("more_body", False)
        self._num_bytes += len(piece)
        if self._num_bytes > self._max_bytes:
            raise self._too_large()
        return piece

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"The request body is larger than {self._max_bytes} bytes, the limit of this server for bodies that are sent on "
            "(max_forward_bytes in [gateway]).",
            code="request_too_large",
            headers={"connection": "close"},
        )
