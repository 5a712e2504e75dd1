"""Responses of an upstream for a client's WebSocket: events pass as the upstream wrote them, and what was said is remembered."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, cast

import msgspec

from antiphon.accounts import Principal
from antiphon.backends.base import RelayedAnswer, ResponseRelayingBackend, SteerableAnswer
from antiphon.backends.upstream.sse import DONE, payloads
from antiphon.protocol.errors import ApiError, model_not_found
from antiphon.protocol.relay import RelayRequest, SessionTurn, parse_relay
from antiphon.protocol.rendering import encode, response_error_frame
from antiphon.server.forwarding import Forwarder
from antiphon.server.request.account import RequestAccount
from antiphon.server.request.call import Call
from antiphon.server.request.parts import RequestParts
from antiphon.server.request.reservation import reservation_of_relay
from antiphon.server.responses.socket import RelayedResponse, ResponseSocket, in_lane
from antiphon.server.responses.steering import RunningResponse, Steer, are_items, items_of
from antiphon.state import KeptResponse

Json = dict[str, Any]
_ENVELOPE = ("type", "stream_id", "generate", "stream")
_LAST = ('"response.completed"', '"response.incomplete"')
_LAST_BYTES = tuple(word.encode() for word in _LAST)
_TRUE = msgspec.Raw(b"true")
_NOT_STEERED = (
    "The upstream of this response is reached over HTTP, where a response that runs takes no input. "
    "Send the input with response.create when the response is over."
)


class _Last(msgspec.Struct):
    """The event that ends a response."""

    type: Any = None
    response: Any = None


_last = msgspec.json.Decoder(_Last)


class ResponseSocketRelay:
    """Takes the requests of WebSockets whose model's upstreams have the endpoint."""

    def __init__(self, backend: ResponseRelayingBackend, requests: RequestParts, forwarder: Forwarder) -> None:
        self._backend = backend
        self._requests = requests
        self._forwarder = forwarder

    async def end(self, socket: ResponseSocket) -> None:
        """Close what upstreams hold open for a client that has left."""
        await self._backend.end_session(socket.id)

    async def takes(
        self, call: Call, principal: Principal, socket: ResponseSocket, request: "RelayedCreate", model: str
    ) -> "Relayed | None":
        """Answer the request if its model's upstreams have the endpoint, and what it continues is there; None if not.

        A response or conversation that this server keeps is continued here, by chat completions of the upstream.
        """
        if not model or not await self._backend.relays_responses(model):
            return None
        previous = request.event.get("previous_response_id")
        known = socket.recent.find_relayed(previous) if isinstance(previous, str) else None
        names = [] if known is not None else _names(request.event)
        owners = await self._forwarder.owners(names, principal) if names else []
        if len(owners) < len(names):
            return None
        queued = socket.steering.queued(previous)
        if queued:
            request = msgspec.structs.replace(request, event=with_queued(request.event, queued))
        relayed = await self._requests.bodies.work(request.data, self._request, socket, request, known, bool(queued))
        if known is not None:
            relayed = msgspec.structs.replace(relayed, upstream=known.upstream)
        elif owners:
            relayed = msgspec.structs.replace(relayed, upstream=owners[0])
        call.note_model(model)

        async def begin() -> RelayedAnswer:
            answer = await self._backend.relay(relayed)
            await socket.steering.taken_in(queued)
            return answer

        with self._requests.in_flight.one():
            return await self._relay(call, principal, socket, request, (relayed, begin))

    async def successor(self, socket: ResponseSocket, relayed: "Relayed") -> "Successor | None":
        """Return what follows a response that is over; close it. Without it, the client gets back the input that nothing takes in."""
        request, answer = relayed.request, relayed.answer
        following = None if answer is None else answer.successor()
        if answer is None or following is None:
            await self._give_back(socket, request.stream_id)
            return None
        try:
            steers = socket.steering.accepted(request.stream_id)
            data = b"".join(steer.data for steer in steers)
            previous = answer.outcome.object_id
            made = await self._requests.bodies.work(data, _continued, request, relayed.asked, previous, steers)
        except BaseException:
            await following.aclose()
            raise
        return Successor(following, *made)

    async def follow(
        self,
        call: Call,
        socket: ResponseSocket,
        following: "Successor",
        authenticate: Callable[[], Awaitable[Principal]],
    ) -> "Relayed":
        """Send the response that an upstream has begun by itself. It is admitted as a request of its own."""
        request, asked = following.request, following.asked
        call.note_model(asked.model)

        async def begin() -> RelayedAnswer:
            await socket.steering.taken_in(socket.steering.accepted(request.stream_id))
            return following.answer

        try:
            principal = await authenticate()
            try:
                if not principal.may_use(asked.model):
                    raise model_not_found(asked.model)
                with self._requests.in_flight.one():
                    return await self._relay(call, principal, socket, request, (asked, begin))
            except ApiError as error:
                self._requests.admissions.record_refusal(call, principal, "chat", asked.model, error)
                raise
        except ApiError:
            await self._give_back(socket, request.stream_id)
            raise

    async def _give_back(self, socket: ResponseSocket, stream_id: str | None) -> None:
        for event in socket.steering.lost(stream_id, 0):
            await socket.send(in_lane(event, stream_id))
        await socket.steering.settle()

    def _request(
        self, socket: ResponseSocket, request: "RelayedCreate", known: RelayedResponse | None, has_queued: bool
    ) -> RelayRequest:
        """Return the request to relay. Work in proportion to the conversation."""
        relayed = parse_relay("responses", request.data)
        fields = {name: value for name, value in relayed.fields.items() if name not in _ENVELOPE}
        options: Any = request.event.get("prompt_cache_options")
        if isinstance(options, dict) and isinstance(cast("Json", options).get("prewarm"), bool):
            # ``generates`` says it, in the words of each upstream.
            del fields["prompt_cache_options"]
            if rest := {name: value for name, value in cast("Json", options).items() if name != "prewarm"}:
                fields["prompt_cache_options"] = msgspec.Raw(encode(rest))
        whole = None
        if known is not None:
            said = [item for item in known.response.items if not _is_reference(item)]
            whole = msgspec.Raw(encode([*said, *items_of(request.event.get("input"))]))
        turn = SessionTurn(
            session=socket.id,
            whole_input=whole,
            queued_input=msgspec.Raw(encode(request.event["input"])) if has_queued else None,
            is_stored=known is None or known.is_stored,
            generates=request.generates,
        )
        return msgspec.structs.replace(relayed, fields={**fields, "stream": _TRUE}, stream=True, turn=turn)

    async def _relay(
        self,
        call: Call,
        principal: Principal,
        socket: ResponseSocket,
        request: "RelayedCreate",
        begun: tuple[RelayRequest, Callable[[], Awaitable[RelayedAnswer]]],
    ) -> "Relayed":
        relayed, begin = begun
        reservation = reservation_of_relay(relayed)
        async with await self._requests.admissions.admit(
            call, principal, "chat", relayed.model, reservation
        ) as account:
            answer = await begin()
            try:
                async with aclosing(answer):
                    await self._keep_owner(principal, request, answer)
                    steered = answer if isinstance(answer, SteerableAnswer) else None
                    send_on = None if steered is None else steered.steer
                    running = RunningResponse(request.stream_id, send_on, _NOT_STEERED)
                    with socket.steering.answering(answer.outcome.object_id, running):
                        await self._send(call, principal, socket, request, (account, answer))
                    return Relayed(steered, request, relayed)
            finally:
                account.record_relayed(answer.outcome, relayed)

    async def _keep_owner(self, principal: Principal, request: "RelayedCreate", answer: RelayedAnswer) -> None:
        outcome = answer.outcome
        if request.event.get("store") is not False and outcome.upstream is not None:
            await self._forwarder.remember(outcome.object_id, outcome.upstream, principal)

    async def _send(
        self,
        call: Call,
        principal: Principal,
        socket: ResponseSocket,
        request: "RelayedCreate",
        running: tuple[RequestAccount, RelayedAnswer],
    ) -> None:
        account, answer = running

        def failed(error: ApiError) -> bytes:
            number = answer.outcome.next_sequence_number
            lost = socket.steering.lost(request.stream_id, number)
            return b"".join(map(_frame, lost)) + response_error_frame(error, number + len(lost))

        async with aclosing(account.guarded(answer, failed)) as pieces:
            async for piece in pieces:
                for frame, event in payloads(piece):
                    if event is None or event.lstrip().startswith(DONE):
                        continue
                    if any(word in event for word in _LAST_BYTES):
                        # Before the last event is sent: a client that has read it may continue at once.
                        kept = await self._requests.bodies.work(
                            event, self._kept, principal, socket, request, event, answer
                        )
                        if kept is not None:
                            socket.recent.add_relayed(kept, len(event) + len(request.data))
                    if call.trace.contents is not None:
                        call.trace.contents.add_answer(frame + b"\n\n")
                    await socket.steering.note(event, request.stream_id)
                    await socket.send(in_lane(event, request.stream_id))

    def _kept(
        self,
        principal: Principal,
        socket: ResponseSocket,
        request: "RelayedCreate",
        event: bytes,
        answer: RelayedAnswer,
    ) -> RelayedResponse | None:
        """Return the response that an event ends, for a request that continues it; None for another event."""
        try:
            last = _last.decode(event)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        body: Any = last.response
        if f'"{last.type}"' not in _LAST or not isinstance(body, dict):
            return None
        body = cast("Json", body)
        if not isinstance(body.get("id"), str) or not are_items(body.get("output")):
            return None
        previous = request.event.get("previous_response_id")
        known = socket.recent.find_relayed(previous) if isinstance(previous, str) else None
        if previous is not None and known is None:
            # It continues what only the upstream has, so what was said before is not known here.
            return None
        response = KeptResponse(
            id=body["id"],
            account=principal.account,
            body={"status": "completed", **body},
            input=tuple(items_of(request.event.get("input"))),
            history=() if known is None else known.response.items,
        )
        is_stored = request.event.get("store") is not False and body.get("store") is not False
        outcome = answer.outcome
        return RelayedResponse(response, outcome.upstream, is_stored=is_stored and outcome.object_id is not None)


class RelayedCreate(msgspec.Struct, frozen=True):
    """A ``response.create``: decoded, its bytes, its lane."""

    event: Json
    data: bytes
    stream_id: str | None
    generates: bool


class Relayed(msgspec.Struct, frozen=True):
    """A response that was relayed, as it was asked for. ``answer`` is None if nothing can follow it by itself."""

    answer: SteerableAnswer | None
    request: RelayedCreate
    asked: RelayRequest


class Successor(msgspec.Struct, frozen=True):
    """A response that an upstream began by itself, and the requests that would have asked for it."""

    answer: SteerableAnswer
    request: RelayedCreate
    asked: RelayRequest


def with_queued(event: Json, queued: Sequence[Steer]) -> Json:
    """Return a request with the input before its own that an upstream kept for it; an input that is none stays, to be refused."""
    given: Any = event.get("input")
    if not (given is None or isinstance(given, str) or are_items(given)):
        return event
    return {**event, "input": [*(item for steer in queued for item in steer.items), *items_of(given)]}


def _continued(
    request: RelayedCreate, asked: RelayRequest, previous: str | None, steers: Sequence[Steer]
) -> tuple[RelayedCreate, RelayRequest]:
    """Return a request with the settings of the one before, for the input that steered its response."""
    new: Json = {"previous_response_id": previous, "input": [item for steer in steers for item in steer.items]}
    event = {**request.event, **new}
    fields = {**asked.fields, **{name: msgspec.Raw(encode(value)) for name, value in new.items()}}
    data = encode({"type": "response.steer", **new})
    return (
        msgspec.structs.replace(request, event=event, data=data, generates=True),
        msgspec.structs.replace(asked, fields=fields),
    )


def _frame(event: bytes) -> bytes:
    return b"data: " + event + b"\n\n"


def _names(event: Json) -> list[str]:
    conversation: Any = event.get("conversation")
    if isinstance(conversation, dict):
        conversation = cast("Json", conversation).get("id")
    return [name for name in (event.get("previous_response_id"), conversation) if isinstance(name, str)]


def _is_reference(item: Json) -> bool:
    """Whether an item says nothing by itself: reasoning of which only the upstream has the contents."""
    return item.get("type") == "reasoning" and not (item.get("encrypted_content") or item.get("content"))
