"""The package ``websockets`` as the client of an upstream: no redirect is followed, and what comes is read in slices."""

import asyncio
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

_SLICE = 16_384
"""Bytes that are read at once, as on the client's side (``server/process/websocket_protocol.py``)."""


class SlicedConnection(ClientConnection):
    """Lets other connections have their turn between slices: one read may bring tens of thousands of small messages."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._unread = bytearray()
        self._is_scheduled = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # Messages were taken: the rest of what was read comes before anything new.
        self.recv_messages.resume = self._read_on

    def data_received(self, data: bytes) -> None:
        self._unread += data
        if not self._is_scheduled:
            self._read_slice()

    def _read_slice(self) -> None:
        self._is_scheduled = False
        data = bytes(self._unread[:_SLICE])
        del self._unread[:_SLICE]
        super().data_received(data)
        self._read_on()

    def _read_on(self) -> None:
        if self._is_scheduled or self.transport.is_closing():
            return
        if self._unread:
            self.transport.pause_reading()
            if not self.recv_messages.paused:
                self._is_scheduled = True
                self.loop.call_soon(self._read_slice)
        elif not self.recv_messages.paused:
            self.transport.resume_reading()


class Connect(connect):
    """Opens a connection at the address of the settings, for which the key is, and nowhere else."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc
