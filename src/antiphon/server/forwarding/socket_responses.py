"""The responses within a forwarded WebSocket: each has limits, a usage row and a log line of its own.

A client asks with ``response.create``. In a conversation by voice the upstream also begins responses by itself, when the
speaker pauses; such a response is counted when it begins.
"""

import json
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, cast

import msgspec

from antiphon.accounts import Principal
from antiphon.protocol.errors import ApiError, model_not_found
from antiphon.protocol.forward import SocketEvent
from antiphon.protocol.rendering import encode
from antiphon.server.request.account import RequestAccount
from antiphon.server.request.asgi import ClientGone
from antiphon.server.request.call import Call
from antiphon.server.request.headers import StandardHeaders
from antiphon.server.request.parts import RequestParts
from antiphon.server.request.reservation import TokenReservation
from antiphon.server.request.sockets import response_call
from antiphon.wire.token_estimate import CHARACTERS_PER_TOKEN

_CREATE = "response.create"
_OK, _FAILED = 200, 502
_MAX_RUNNING = 64


class _ClientEvent(msgspec.Struct):
    type: Any = None
    event_id: Any = None
    model: Any = None


class _Running(msgspec.Struct):
    """A response that was asked for. ``object_id`` is None until the upstream begins it."""

    call: Call
    account: RequestAccount
    stack: AsyncExitStack
    object_id: str | None = None


_client_event = msgspec.json.Decoder(_ClientEvent)


class SocketResponses:
    """Those of one connection. ``model`` is the one that its URL names, or the empty string.

    ``observe`` counts and logs a response that is over.
    """

    def __init__(
        self,
        connection: Call,
        principal: Principal,
        model: str,
        requests: RequestParts,
        *,
        standard_headers: StandardHeaders,
        observe: Callable[[Call], None],
    ) -> None:
        self._connection = connection
        self._requests = requests
        self._principal = principal
        self._model = model
        self._standard_headers = standard_headers
        self._observe = observe
        self._running: list[_Running] = []
        self.num_ended = 0

    @property
    def num_running(self) -> int:
        """Responses that were asked for, or that run."""
        return len(self._running)

    @asynccontextmanager
    async def taken(self, message: str | bytes) -> AsyncGenerator[bytes | None]:
        """Take in a message of the client, and count its bytes as held until the block ends.

        Yield the error to send in place of passing it on, None for nothing to refuse.
        """
        with self._requests.bodies.holding() as hold:
            yield await self._take(message, hold)

    async def _take(self, message: str | bytes, hold: Callable[[int], None]) -> bytes | None:
        event: _ClientEvent | None = None
        try:
            hold(len(message))
            if self._principal.models is not None:
                await self._check_models(message)
            with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                event = _client_event.decode(message)
            if event is not None and event.type == _CREATE:
                model = event.model if isinstance(event.model, str) else self._model
                await self._begin(model, len(message) // CHARACTERS_PER_TOKEN)
        except ApiError as error:
            return _error_event(error, event)
        return None

    async def received(self, event: SocketEvent) -> None:
        """Take in what a message of the upstream says of a response. ``ApiError`` for one that the limits do not allow."""
        if event.what == "begun":
            waiting = next((each for each in self._running if each.object_id is None), None)
            if waiting is None:
                await self._begin(event.model or self._model, 0)
                waiting = self._running[-1]
            waiting.object_id = event.object_id
            return
        running = self._find(event)
        if running is not None:
            self._running.remove(running)
            status = _FAILED if event.is_failed else _OK
            running.account.record_forwarded(status, event.model or running.call.note.get("model"), event.usage)
            running.call.status = status
            await self._end(running, None)

    async def aclose(self, error: BaseException | None) -> None:
        """End those that still run, because the connection does. ``error``: why, None for a client that left."""
        while self._running:
            await self._end(self._running.pop(), error or ClientGone())

    async def _check_models(self, message: str | bytes) -> None:
        """Refuse a model that the key may not use, wherever the message names it."""
        data = message.encode() if isinstance(message, str) else message
        await self._requests.bodies.check_values(data)
        for name in await self._requests.bodies.work(data, _models_in, data):
            if not self._principal.may_use(name):
                raise model_not_found(name[:200])

    def _check_room(self) -> None:
        if len(self._running) >= _MAX_RUNNING:
            raise ApiError(
                429,
                f"This connection has {_MAX_RUNNING} responses that are not over; wait for them first.",
                type="requests",
                code="rate_limit_exceeded",
            )

    async def _begin(self, model: str, num_tokens: int) -> None:
        call = response_call(self._connection, self._standard_headers)
        call.note |= {name: self._connection.note[name] for name in ("key", "upstream")}
        model = call.note_model(model)
        try:
            async with AsyncExitStack() as stack:
                self._check_room()
                stack.enter_context(self._requests.in_flight.one())
                reservation = TokenReservation(num_tokens, 0)
                admitted = await self._requests.admissions.admit(call, self._principal, "other", model, reservation)
                account = await stack.enter_async_context(admitted)
                self._running.append(_Running(call, account, stack.pop_all()))
        except ApiError as error:
            self._requests.admissions.record_refusal(call, self._principal, "other", model, error)
            call.note_error(error)
            call.status = error.status
            self._observe(call)
            raise

    async def _end(self, running: _Running, error: BaseException | None) -> None:
        self.num_ended += 1
        try:
            await running.stack.__aexit__(None if error is None else type(error), error, None)
        finally:
            running.call.status = running.call.status or running.account.status
            self._observe(running.call)

    def _find(self, event: SocketEvent) -> _Running | None:
        """Return the response that is over: by its id; an error is about the oldest that has not begun."""
        if event.what == "refused":
            return next((each for each in self._running if each.object_id is None), None)
        named = (each for each in self._running if each.object_id == event.object_id)
        return next(named, None) or next(iter(self._running), None)


def _models_in(data: bytes) -> list[str]:
    """Return every name of a model in a JSON text: a voice, a transcription and a tool may each have one of its own."""
    found: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        found.extend(value for name, value in pairs if name == "model" and isinstance(value, str))

    with suppress(ValueError, RecursionError):
        json.loads(data, object_pairs_hook=note)
    return found


def _error_event(error: ApiError, event: _ClientEvent | None) -> bytes:
    """Return an error as Realtime and Responses write it: the first has ids of events, the second a status."""
    body = cast("dict[str, Any]", error.body()["error"])
    given = None if event is None or not isinstance(event.event_id, str) else event.event_id
    return encode(
        {
            "type": "error",
            "event_id": "event_" + secrets.token_hex(12),
            "status": error.status,
            "error": body | {"event_id": given} | ({"headers": dict(error.headers)} if error.headers else {}),
        }
    )
