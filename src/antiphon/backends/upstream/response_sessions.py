"""Responses over the upstream's own WebSockets, for the WebSockets of clients.

A client's connection has connections of its own to the upstream, each with one response at a time: what breaks one ends no other,
and the upstream finds the response that a request continues in the connection that made it. An upstream that has
no such WebSocket is asked over HTTP.
"""

import asyncio
import time
from typing import Any

import msgspec

from antiphon.backends.upstream.failures import UpstreamError
from antiphon.backends.upstream.settings import UpstreamSettings
from antiphon.backends.upstream.socket import UpstreamSockets
from antiphon.backends.upstream.socket_answer import ResponseLine, SocketAnswer
from antiphon.backends.upstream.sse import MAX_FRAME_BYTES
from antiphon.protocol.forward import SocketRequest
from antiphon.protocol.relay import RelayRequest, SessionTurn

_ASK_AGAIN_S = 600.0
"""How long an upstream that opened no WebSocket is not asked for another."""
_BUSY, _FAULT, _MISSING = 429, 500, 501
_LIMIT_REACHED = "websocket_connection_limit_reached"
_GOING_AWAY = 1001


class ResponseSessions:
    """The connections to one upstream, by the client's connection that they are for."""

    def __init__(self, settings: UpstreamSettings, sockets: UpstreamSockets) -> None:
        self._settings = settings
        self._sockets = sockets
        self._lines: dict[str, list[ResponseLine]] = {}
        self._ask_at = 0.0

    async def relay(self, request: RelayRequest, turn: SessionTurn) -> SocketAnswer | None:
        """Return the answer with its first event received; None if the upstream has no WebSocket. Raises ``UpstreamError``."""
        if time.monotonic() < self._ask_at:
            return None
        while True:
            line = await self._line(request, turn)
            if line is None:
                return None
            answer = SocketAnswer(self._settings.name, line, self._settings.timeouts)
            was_fresh = line.is_fresh
            try:
                await answer.begin(_message(request, turn, has_previous=_previous(request) in line.made))
            except UpstreamError as error:
                await answer.aclose()
                line.is_fresh = False
                # The connection ended while it was idle, is out of order, or reached its age: nothing was answered on it.
                if was_fresh or not (error.kind == "disconnected" or error.code == _LIMIT_REACHED):
                    raise
                await line.socket.close(_GOING_AWAY)
            except BaseException:
                await answer.aclose()
                raise
            else:
                line.is_fresh = False
                line.waits_for = None
                return answer

    async def end(self, session: str) -> None:
        """Close the connections of a client that has left."""
        lines = self._lines.pop(session, [])
        await asyncio.gather(*(line.socket.close(_GOING_AWAY) for line in lines), return_exceptions=True)

    async def _line(self, request: RelayRequest, turn: SessionTurn) -> ResponseLine | None:
        """Return a connection for the request: the one that made what it continues, another idle one, or a new one."""
        lines = self._lines.setdefault(turn.session, [])
        previous = _previous(request)
        usable = [line for line in lines if line.is_usable and line.waits_for in {None, previous}]
        found = next((line for line in usable if previous in line.made), None) or next(iter(usable), None)
        spent = [line for line in lines if not (line.is_busy or line.is_usable)]
        lines[:] = [line for line in lines if line not in spent]
        if found is not None:
            found.is_busy = True
        await asyncio.gather(*(line.socket.close(_GOING_AWAY) for line in spent), return_exceptions=True)
        if found is not None:
            return found
        try:
            opened = await self._sockets.open(SocketRequest(path="/responses", headers={}, max_bytes=MAX_FRAME_BYTES))
        except UpstreamError as error:
            if not _says_no(error):
                raise
            self._ask_at = time.monotonic() + _ASK_AGAIN_S
            return None
        made = ResponseLine(opened)
        lines.append(made)
        return made


def http_request(request: RelayRequest, turn: SessionTurn) -> RelayRequest:
    """Return the request as a POST: with the input of what it continues, unless the upstream keeps that, and with what was queued."""
    fields = dict(request.fields)
    if turn.whole_input is not None and not turn.is_stored:
        fields.pop("previous_response_id", None)
        fields["input"] = turn.whole_input
    elif turn.queued_input is not None:
        fields["input"] = turn.queued_input
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
