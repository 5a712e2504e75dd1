"""Responses over the upstream's own WebSockets, for the WebSockets of clients.

A client's connection has connections of its own to the upstream, each with one response at a time: what breaks one ends no other,
and the upstream finds the response that a request continues in the connection that made it. An upstream that has
no such WebSocket is asked over HTTP.
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
from antiphon.backends.upstream.response_inspector import ResponseInspector
from antiphon.backends.upstream.settings import Timeouts, UpstreamSettings
from antiphon.backends.upstream.socket import UpstreamSocket, UpstreamSockets
from antiphon.backends.upstream.sse import MAX_FRAME_BYTES, MalformedStream
from antiphon.protocol.forward import SocketRequest
from antiphon.protocol.relay import RelayRequest, SessionTurn

_ASK_AGAIN_S = 600.0
"""How long an upstream that opened no WebSocket is not asked for another."""
_MAX_AGE_S = 3000.0
"""Connections are used for new responses until then; OpenAI ends them after an hour."""
_MAX_REMEMBERED = 16
_BUSY, _FAULT, _MISSING = 429, 500, 501
_LIMIT_REACHED = "websocket_connection_limit_reached"
_GOING_AWAY = 1001


class _Refused(msgspec.Struct):
    """An error in place of a response."""

    type: Any = None
    status: Any = None


_refused = msgspec.json.Decoder(_Refused)


class _Line:
    """One connection to the upstream: whether a response runs on it, and the ids of the latest that it made."""

    def __init__(self, socket: UpstreamSocket) -> None:
        self.socket = socket
        self.made: deque[str] = deque(maxlen=_MAX_REMEMBERED)
        self.is_busy = True
        self.is_fresh = True
        self._opened_at = time.monotonic()

    @property
    def is_usable(self) -> bool:
        return not self.is_busy and self.socket.is_open and time.monotonic() - self._opened_at < _MAX_AGE_S


class ResponseSessions:
    """The connections to one upstream, by the client's connection that they are for."""

    def __init__(self, settings: UpstreamSettings, sockets: UpstreamSockets) -> None:
        self._settings = settings
        self._sockets = sockets
        self._lines: dict[str, list[_Line]] = {}
        self._ask_at = 0.0

    async def relay(self, request: RelayRequest, turn: SessionTurn) -> "SocketAnswer | None":
        """Return the answer with its first event received; None if the upstream has no WebSocket. Raises ``UpstreamError``."""
        if time.monotonic() < self._ask_at:
            return None
        while True:
            line = await self._line(request, turn)
            if line is None:
                return None
            answer = SocketAnswer(self._settings.name, line, self._settings.timeouts)
            try:
                await answer.begin(_message(request, turn, has_previous=_previous(request) in line.made))
            except UpstreamError as error:
                await answer.aclose()
                # The connection ended while it was idle, or reached its age: nothing was answered on it.
                if line.is_fresh or not (error.kind == "disconnected" or error.code == _LIMIT_REACHED):
                    raise
                await line.socket.close(_GOING_AWAY)
            except BaseException:
                await answer.aclose()
                raise
            else:
                line.is_fresh = False
                return answer

    async def end(self, session: str) -> None:
        """Close the connections of a client that has left."""
        lines = self._lines.pop(session, [])
        await asyncio.gather(*(line.socket.close(_GOING_AWAY) for line in lines), return_exceptions=True)

    async def _line(self, request: RelayRequest, turn: SessionTurn) -> _Line | None:
        """Return a connection for the request: the one that made what it continues, another idle one, or a new one."""
        lines = self._lines.setdefault(turn.session, [])
        lines[:] = [line for line in lines if line.is_busy or line.is_usable]
        usable = [line for line in lines if not line.is_busy]
        previous = _previous(request)
        found = next((line for line in usable if previous in line.made), None) or next(iter(usable), None)
        if found is not None:
            found.is_busy = True
            return found
        try:
            opened = await self._sockets.open(SocketRequest(path="/responses", headers={}, max_bytes=MAX_FRAME_BYTES))
        except UpstreamError as error:
            if not _says_no(error):
                raise
            self._ask_at = time.monotonic() + _ASK_AGAIN_S
            return None
        made = _Line(opened)
        lines.append(made)
        return made


class SocketAnswer:
    """A relayed stream whose events come over a WebSocket; each is given on as a server-sent event with the same data."""

    headers: Mapping[str, str] = {"content-type": "text/event-stream"}

    def __init__(self, upstream: str, line: _Line, timeouts: Timeouts) -> None:
        self._upstream = upstream
        self._line = line
        self._timeouts = timeouts
        self._inspector = ResponseInspector()
        self._first = b""

    @property
    def outcome(self) -> RelayOutcome:
        return self._inspector.outcome

    async def begin(self, message: bytes) -> None:
        """Send the request, and wait for the first event."""
        try:
            await self._line.socket.send(message.decode())
        except SocketClosed as closed:
            raise self._failure(closed) from None
        while not self._inspector.has_begun:
            self._first += await self._next(self._timeouts.first_byte_s, "before the first event")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        piece = self._first
        while True:
            if piece:
                yield piece
            if self._inspector.has_finished:
                return
            piece = await self._next(self._timeouts.between_bytes_s, "within the answer")

    async def aclose(self) -> None:
        """Free the connection after a whole response; else close it, which ends the upstream's work. Idempotent."""
        line = self._line
        if not line.is_busy:
            return
        if not self._inspector.has_finished:
            await line.socket.close(_GOING_AWAY)
        elif (made := self.outcome.object_id) is not None:
            line.made.append(made)
        line.is_busy = False

    async def _next(self, patience_s: float, phase: str) -> bytes:
        try:
            async with asyncio.timeout(patience_s):
                received = await self._line.socket.receive_data()
        except TimeoutError:
            raise timed_out(self._upstream, phase, patience_s) from None
        except SocketClosed as closed:
            raise self._failure(closed) from None
        data = received.encode() if isinstance(received, str) else received
        self._check_refusal(data)
        # Line ends within JSON are blanks; within an event each line needs the name of the field.
        frame = b"data: " + b"\ndata: ".join(data.splitlines()) + b"\n\n"
        try:
            return self._inspector.feed(frame)
        except MalformedStream as error:
            raise protocol_error(self._upstream, str(error)) from None
        except ErrorChunk as chunk:
            raise error_from_chunk(self._upstream, chunk.error) from None

    def _check_refusal(self, data: bytes) -> None:
        """Raise the error that comes in place of a response, with the status that it would have over HTTP."""
        if self._inspector.has_begun:
            return
        try:
            refused = _refused.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        if refused.type == "error" and isinstance(refused.status, int):
            raise error_from_answer(self._upstream, refused.status, {}, data)

    def _failure(self, closed: SocketClosed) -> UpstreamError:
        return closed.error if isinstance(closed.error, UpstreamError) else disconnected(self._upstream)


def http_request(request: RelayRequest, turn: SessionTurn) -> RelayRequest:
    """Return the request as a POST: with the input of what it continues, unless the upstream keeps that."""
    fields = dict(request.fields)
    if turn.whole_input is not None and not turn.is_stored:
        fields.pop("previous_response_id", None)
        fields["input"] = turn.whole_input
    return msgspec.structs.replace(request, fields=fields)


def _message(request: RelayRequest, turn: SessionTurn, *, has_previous: bool) -> bytes:
    if not has_previous:
        request = http_request(request, turn)
    more = {"type": _raw("response.create"), "model": _raw(request.model)}
    if not turn.generates:
        more["generate"] = _raw(False)
    fields = {name: value for name, value in request.fields.items() if name not in {"stream", "type"}}
    return msgspec.json.encode({**more, **fields, "model": more["model"]})


def _previous(request: RelayRequest) -> str | None:
    text = request.fields.get("previous_response_id")
    value: Any = None if text is None else msgspec.json.decode(text)
    return value if isinstance(value, str) else None


def _says_no(error: UpstreamError) -> bool:
    """Whether a refused handshake means that there is no WebSocket; what it says of our key, HTTP will say, too."""
    if error.kind == "answered":
        return error.status == _MISSING or (error.status < _FAULT and error.status != _BUSY)
    return error.kind in {"credentials", "protocol", "disconnected"}


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
