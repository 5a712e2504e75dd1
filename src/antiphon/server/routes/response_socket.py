"""``GET /v1/responses`` as a WebSocket: the upgrade, and one ``response.create`` after another.

Key, host and origin are checked before the connection is accepted, and the key again for each request, which has limits, a usage
row and a log line of its own.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, cast

from antiphon.accounts import CLIENT_CLOSED_REQUEST, Principal
from antiphon.backends.base import Backend
from antiphon.backends.trace import TRACE
from antiphon.protocol import decode_json, problems
from antiphon.protocol.errors import ApiError, server_fault
from antiphon.protocol.responses.errors import own_words
from antiphon.server.endpoint import Shell
from antiphon.server.logs import log
from antiphon.server.request.asgi import ClientGone, Receive, Send
from antiphon.server.request.call import Call
from antiphon.server.request.headers import encoded
from antiphon.server.request.parts import RequestParts
from antiphon.server.request.query import refuse_query
from antiphon.server.request.reservation import reservation_of_chat
from antiphon.server.request.sockets import SocketSlots, cut_of, response_call
from antiphon.server.responses.answers import Answers, kept_response
from antiphon.server.responses.generation import turn_events, warm_up_events
from antiphon.server.responses.intake import ResponseIntake
from antiphon.server.responses.socket import ResponseSocket, bare
from antiphon.server.responses.socket_relaying import (
    Relayed,
    RelayedCreate,
    ResponseSocketRelay,
    Successor,
    with_queued,
)
from antiphon.server.responses.steering import RunningResponse
from antiphon.server.responses.turns import Turn
from antiphon.server.settings import ServerSettings
from antiphon.state import ResponseSettings

Json = dict[str, Any]
CONNECTION_PATH = "/v1/responses (connection)"
"""The path that metrics show for these connections."""
RESPONSE_PATH = "/v1/responses (websocket)"
"""The path that they show for each response."""
_ENVELOPE = {"type", "stream_id", "generate", "stream"}
_SWITCHING, _OK = 101, 200
_NOT_STEERED = (
    "This server makes the response itself, and takes no input while it does. "
    "Send the input with response.create when the response is over."
)


class ResponseSockets:
    """Answers the connections of one process."""

    def __init__(
        self,
        shell: Shell,
        backend: Backend,
        requests: RequestParts,
        *,
        intake: ResponseIntake,
        answers: Answers,
        relay: ResponseSocketRelay | None,
        settings: ResponseSettings,
        server_settings: ServerSettings,
    ) -> None:
        self._shell = shell
        self._backend = backend
        self._requests = requests
        self._intake = intake
        self._answers = answers
        self._relay = relay
        self._settings = settings
        self._max_bytes = server_settings.max_body_bytes
        self._slots = SocketSlots(settings.max_websockets, settings.max_websockets_per_key)

    async def connect(self, call: Call, _subprotocols: tuple[str, ...], receive: Receive, send: Send) -> None:
        """Answer a request for a WebSocket. ``ApiError`` before the handshake."""
        principal = await self._requests.access.authenticate(call)
        refuse_query(call)
        with self._slots.one(principal):
            await self._serve(call, receive, send)

    async def _serve(self, call: Call, receive: Receive, send: Send) -> None:
        socket = ResponseSocket(
            receive,
            send,
            partial(self._create, call),
            partial(self._decoded, call),
            cut=cut_of(call),
            limit_s=self._settings.websocket_limit_s,
            idle_s=self._settings.websocket_idle_s,
            max_bytes=self._max_bytes,
        )
        try:
            await send({"type": "websocket.accept", "headers": encoded({"x-request-id": call.request_id})})
            call.status = _SWITCHING
            await socket.serve()
        finally:
            call.note["responses"] = socket.num_responses
            if self._relay is not None:
                await self._relay.end(socket)

    @asynccontextmanager
    async def _decoded(self, connection: Call, data: bytes) -> AsyncGenerator[Any]:
        async with self._requests.bodies.hold(connection, data):
            yield await self._requests.bodies.work(data, decode_json, data, "application/json")

    async def _create(
        self, connection: Call, socket: ResponseSocket, event: Json, data: bytes, stream_id: str | None
    ) -> None:
        """Answer one request, and send what an upstream answers by itself after it. An error before a first event is raised."""
        answer = partial(self._answered, socket=socket, event=event, data=data, stream_id=stream_id)
        relayed = await self._one(connection, socket, data, answer)
        while relayed is not None and self._relay is not None:
            following = await self._relay.successor(socket, relayed)
            if following is None:
                return
            async with aclosing(following.answer):
                answer = partial(self._followed, relay=self._relay, socket=socket, following=following)
                relayed = await self._one(connection, socket, following.request.data, answer)

    async def _one(
        self,
        connection: Call,
        socket: ResponseSocket,
        data: bytes,
        answer: Callable[[Call], Awaitable[Relayed | None]],
    ) -> Relayed | None:
        """Answer as a call of its own, with a line in the log and a trace. ``data`` is shown as its request."""
        call = response_call(connection, self._shell.standard_headers)
        socket.num_responses += 1
        TRACE.set(call.trace)
        if self._shell.capture is not None:
            self._shell.capture.begin(call)
        try:
            await self._requests.bodies.keep_captured(call, data)
            relayed = await answer(call)
            call.status = call.status or _OK
        except ApiError as error:
            call.note_error(error)
            call.status = error.status
            raise own_words(error) from error
        except (ClientGone, asyncio.CancelledError):
            call.status = CLIENT_CLOSED_REQUEST
            raise
        except Exception:  # noqa: BLE001 - whatever it was, the client gets OpenAI's 500
            log.exception("fault", request_id=call.request_id, path=RESPONSE_PATH)
            call.status = 500
            raise server_fault(call.request_id) from None
        finally:
            self._shell.observe(call, RESPONSE_PATH)
        return relayed

    async def _followed(
        self, call: Call, *, relay: ResponseSocketRelay, socket: ResponseSocket, following: Successor
    ) -> Relayed | None:
        return await relay.follow(call, socket, following, partial(self._requests.access.authenticate, call))

    async def _answered(
        self, call: Call, *, socket: ResponseSocket, event: Json, data: bytes, stream_id: str | None
    ) -> Relayed | None:
        principal = await self._requests.access.authenticate(call)
        model = ""
        try:
            value, generates = _body_of(event)
            self._requests.access.require_named_model(principal, value)
            if self._relay is not None:
                model = str(value.get("model") or "")
                create = RelayedCreate(event, data, stream_id, generates)
                if (relayed := await self._relay.takes(call, principal, socket, create, model)) is not None:
                    return relayed
            queued = socket.steering.queued(value.get("previous_response_id"))
            if queued:
                value = with_queued(value, queued)
            request = await self._intake.parsed(call, data, value)
            model = request.chat.model
            turn = await self._intake.turn(call, request, principal.account, socket.recent.find)
            try:
                with self._requests.in_flight.one(), socket.steering.answering(turn.response_id, _running(stream_id)):
                    await self._generate(call, principal, socket, turn, stream_id, generates=generates)
                await socket.steering.taken_in(queued)
            finally:
                await turn.release()
        except ApiError as error:
            self._requests.admissions.record_refusal(call, principal, "chat", model, error)
            raise
        return None

    async def _generate(
        self,
        call: Call,
        principal: Principal,
        socket: ResponseSocket,
        turn: Turn,
        stream_id: str | None,
        *,
        generates: bool,
    ) -> None:
        state = self._answers.begin(call, turn)
        stream = self._answers.stream(state, turn)
        reservation = reservation_of_chat(turn.chat)
        async with await self._requests.admissions.admit(
            call, principal, "chat", turn.chat.model, reservation
        ) as account:
            course = turn_events(self._backend, turn) if generates else warm_up_events(self._backend, turn)
            async with aclosing(account.watch(course)) as events:
                first = await anext(events)
                frames = account.guarded(self._answers.frames(first, events, stream, turn), stream.error)
                num_bytes = 0
                async with aclosing(frames) as sent:
                    async for frame in sent:
                        num_bytes += len(frame)
                        if state.status in {"completed", "incomplete"}:
                            # Before the last event is sent: a client that has read it may continue at once.
                            socket.recent.add(kept_response(state, turn), num_bytes)
                        if call.trace.contents is not None:
                            call.trace.contents.add_answer(frame)
                        await socket.send(bare(frame, stream_id))


def _body_of(event: Json) -> tuple[Json, bool]:
    """Return the event as the body of a request, and whether an answer is to be generated. Raises ``ApiError`` 400."""
    generates = event.get("generate")
    if generates is not None and not isinstance(generates, bool):
        raise problems.wrong_type("generate", "a boolean", generates)
    if event.get("stream") not in {None, True}:
        raise problems.bad_request(
            "Over a WebSocket every response is a stream: leave 'stream' out.", "stream", "invalid_value"
        )
    if event.get("background"):
        raise problems.bad_request(
            "Background mode is not supported over a WebSocket.", "background", "unsupported_parameter"
        )
    body = {name: value for name, value in event.items() if name not in _ENVELOPE}
    options: Any = event.get("prompt_cache_options")
    prewarms = isinstance(options, dict) and cast("Json", options).get("prewarm") is True
    return body | {"stream": True}, generates is not False and not prewarms


def _running(stream_id: str | None) -> RunningResponse:
    return RunningResponse(stream_id, None, _NOT_STEERED)
