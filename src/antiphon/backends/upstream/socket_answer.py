"""A response that comes over a WebSocket of the upstream: its events, what steers it, and the response that may follow it.

Input that steers a response (``response.steer``) is answered on the same connection, also after the response's last event. The
upstream takes accepted input into a response that it begins by itself, or keeps it until the client's next request.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from antiphon.backends.base import RelayOutcome, SocketClosed
from antiphon.backends.upstream.chunks import ErrorChunk
from antiphon.backends.upstream.failures import (
    UpstreamError,
    disconnected,
    error_from_answer,
    error_from_chunk,
    protocol_error,
    timed_out,
)
from antiphon.backends.upstream.response_inspector import STEERING, ResponseInspector
from antiphon.backends.upstream.settings import Timeouts
from antiphon.backends.upstream.socket import UpstreamSocket
from antiphon.backends.upstream.sse import MalformedStream

_MAX_AGE_S = 3000.0
"""Connections are used for new responses until then; OpenAI ends them after an hour."""
_MAX_REMEMBERED = 16
_GOING_AWAY = 1001
_CREATED = "response.created"


class _Response(msgspec.Struct):
    id: Any = None


class _First(msgspec.Struct):
    """What may come first: the event that begins a response, or an error in its place."""

    type: Any = None
    status: Any = None
    response: _Response | None = None


class _Steer(msgspec.Struct):
    id: Any = None


class _Steered(msgspec.Struct):
    """What the upstream says of input that steers."""

    type: Any = None
    steer: _Steer | None = None


_first = msgspec.json.Decoder(_First)
_steered = msgspec.json.Decoder(_Steered)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class ResponseLine:
    """One connection to the upstream: whether a response runs on it, and the ids of the latest that it made.

    ``waits_for`` is the response for whose continuation the upstream keeps input here.
    """

    def __init__(self, socket: UpstreamSocket) -> None:
        self.socket = socket
        self.made: deque[str] = deque(maxlen=_MAX_REMEMBERED)
        self.waits_for: str | None = None
        self.is_busy = True
        self.is_fresh = True
        self._opened_at = time.monotonic()

    @property
    def is_usable(self) -> bool:
        return not self.is_busy and self.socket.is_open and time.monotonic() - self._opened_at < _MAX_AGE_S


class _OpenSteers:
    """How much of the input that was sent to steer a response is not settled."""

    def __init__(self, num_sent: int = 0) -> None:
        self.num_sent = num_sent
        """Not acknowledged yet."""
        self.num_accepted = 0
        """Accepted, and not taken in yet."""

    def __bool__(self) -> bool:
        return self.num_sent + self.num_accepted > 0

    def note(self, data: bytes) -> bool:
        """Take in what a message says of them; returns whether the upstream keeps input for the client's next request."""
        if STEERING not in data:
            return False
        try:
            event = _steered.decode(data)
        except _UNREADABLE:
            return False
        has_id = event.steer is not None and event.steer.id is not None
        if event.type == "response.steer.accepted":
            self.num_accepted += min(self.num_sent, 1)
            self.num_sent = max(0, self.num_sent - 1)
        elif event.type == "response.steer.pending" or (event.type == "response.steer.failed" and has_id):
            self.num_accepted = max(0, self.num_accepted - 1)
        elif event.type == "response.steer.failed":
            self.num_sent = max(0, self.num_sent - 1)
        return event.type == "response.steer.pending"


class SocketAnswer:
    """A relayed stream whose events come over a WebSocket; each is given on as a server-sent event with the same data."""

    headers: Mapping[str, str] = {"content-type": "text/event-stream"}

    def __init__(self, upstream: str, line: ResponseLine, timeouts: Timeouts) -> None:
        self._upstream = upstream
        self._line = line
        self._timeouts = timeouts
        self._inspector = ResponseInspector()
        self._first = b""
        self._steers = _OpenSteers()
        self._created: bytes | None = None
        """The event that begins the response after this one."""
        self._has_successor = False
        self._has_ended = False
        self._is_refused = False
        self._is_closed = False

    @property
    def outcome(self) -> RelayOutcome:
        return self._inspector.outcome

    async def begin(self, message: bytes) -> None:
        """Send the request, and wait for the first event."""
        first_byte_s = self._timeouts.first_byte_s
        try:
            async with asyncio.timeout(first_byte_s):
                await self._line.socket.send(message.decode())
                while not self._inspector.has_begun:
                    data = _bytes_of(await self._line.socket.receive_data())
                    self._check_first(data)
                    self._first += self._feed(data)
        except TimeoutError:
            raise timed_out(self._upstream, "before the first event", first_byte_s) from None
        except SocketClosed as closed:
            raise self._failure(closed) from None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        piece = self._first
        while True:
            if piece:
                yield piece
            if self._inspector.has_finished and not self._steers:
                break
            data = await self._receive()
            if data is None:
                break
            piece = self._feed(data)
        self._has_ended = True

    async def steer(self, message: str) -> bool:
        """Send input for the response while it runs; False if it is over. What becomes of the input is among the events."""
        if self._has_ended or self._is_closed:
            return False
        self._steers.num_sent += 1
        try:
            await self._line.socket.send(message)
        except SocketClosed:
            # The reader of the events learns how the connection ended.
            return True
        return True

    def successor(self) -> "SocketAnswer | None":
        """Return the response that the upstream began after this one by itself, None if there is none. It takes over the connection."""
        if self._created is None:
            return None
        following = SocketAnswer(self._upstream, self._line, self._timeouts)
        following._steers = _OpenSteers(self._steers.num_sent)
        following._first = following._feed(self._created)
        self._created = None
        self._remember()
        return following

    async def aclose(self) -> None:
        """Free the connection after a whole response, unless another one follows; else close it, which ends the upstream's work.

        Idempotent.
        """
        if self._is_closed:
            return
        self._is_closed = True
        if self._has_successor:
            return
        is_over = self._inspector.has_finished and not self._inspector.has_more
        try:
            if self._steers or not (is_over or self._is_refused):
                await self._line.socket.close(_GOING_AWAY)
            elif is_over:
                self._remember()
        finally:
            self._line.is_busy = False

    def _remember(self) -> None:
        if (made := self.outcome.object_id) is not None:
            self._line.made.append(made)

    async def _receive(self) -> bytes | None:
        """Return the next message; None if the response is over and nothing more comes of it."""
        patience_s = self._timeouts.between_bytes_s
        try:
            async with asyncio.timeout(patience_s):
                data = _bytes_of(await self._line.socket.receive_data())
        except (TimeoutError, SocketClosed) as error:
            if self._inspector.has_finished:
                return None
            if isinstance(error, SocketClosed):
                raise self._failure(error) from None
            raise timed_out(self._upstream, "within the answer", patience_s) from None
        if self._inspector.has_finished and _kind_of(data) == _CREATED:
            self._created = data
            self._has_successor = True
            self._steers.num_accepted = 0
            return None
        return data

    def _feed(self, data: bytes) -> bytes:
        """Return what goes on of a message, as a frame."""
        if self._steers and self._steers.note(data):
            self._line.waits_for = self.outcome.object_id
        # Line ends within JSON are blanks; within an event each line needs the name of the field.
        lines = data.splitlines() if b"\n" in data or b"\r" in data else (data,)
        try:
            frames = self._inspector.feed(b"data: " + b"\ndata: ".join(lines) + b"\n\n")
        except MalformedStream as error:
            raise protocol_error(self._upstream, str(error)) from None
        except ErrorChunk as chunk:
            raise error_from_chunk(self._upstream, chunk.error) from None
        if self._inspector.has_more:
            # What the upstream sends after a response is over belongs to no response: the connection cannot be used again.
            self._steers = _OpenSteers()
        return frames

    def _check_first(self, data: bytes) -> None:
        """Raise the error that comes in place of a response, with the status that it would have over HTTP.

        Raise too for what comes late of a response that the connection made before: it is not in order any more.
        """
        try:
            first = _first.decode(data)
        except _UNREADABLE:
            first = _First("response.")
        if first.type == "error" and isinstance(first.status, int):
            self._is_refused = True
            raise error_from_answer(self._upstream, first.status, {}, data)
        if self._line.is_fresh or not isinstance(first.type, str) or not first.type.startswith("response."):
            return
        response_id = None if first.response is None else first.response.id
        if first.type != _CREATED or response_id in self._line.made:
            raise disconnected(self._upstream)

    def _failure(self, closed: SocketClosed) -> UpstreamError:
        return closed.error if isinstance(closed.error, UpstreamError) else disconnected(self._upstream)


def _bytes_of(message: str | bytes) -> bytes:
    return message.encode() if isinstance(message, str) else message


def _kind_of(data: bytes) -> Any:
    try:
        return _first.decode(data).type
    except _UNREADABLE:
        return None
