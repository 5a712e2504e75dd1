"""Responses of an upstream for a client's WebSocket: events pass as the upstream wrote them, and what was said is remembered."""

from collections.abc import Sequence
from contextlib import aclosing
from typing import Any, cast

import msgspec

from antiphon.accounts import Principal
from antiphon.backends.base import RelayedAnswer, ResponseRelayingBackend
from antiphon.backends.upstream.sse import DONE, payloads
from antiphon.protocol.errors import ApiError
from antiphon.protocol.relay import RelayRequest, SessionTurn, parse_relay
from antiphon.protocol.rendering import encode, response_error_frame
from antiphon.server.forwarding import Forwarder
from antiphon.server.request.account import RequestAccount
from antiphon.server.request.call import Call
from antiphon.server.request.parts import RequestParts
from antiphon.server.request.reservation import reservation_of_relay
from antiphon.server.responses.socket import RelayedResponse, ResponseSocket, in_lane
from antiphon.state import KeptResponse

Json = dict[str, Any]
_ENVELOPE = ("type", "stream_id", "generate", "stream")
_LAST = ('"response.completed"', '"response.incomplete"')
_LAST_BYTES = tuple(word.encode() for word in _LAST)
_TRUE = msgspec.Raw(b"true")


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
    ) -> bool:
        """Answer the request if its model's upstreams have the endpoint, and what it continues is there; False if not.

        A response or conversation that this server keeps is continued here, by chat completions of the upstream.
        """
        if not model or not await self._backend.relays_responses(model):
            return False
        previous = request.event.get("previous_response_id")
        known = socket.recent.find_relayed(previous) if isinstance(previous, str) else None
        names = [] if known is not None else _names(request.event)
        owners = await self._forwarder.owners(names, principal) if names else []
        if len(owners) < len(names):
            return False
        relayed = await self._requests.bodies.work(request.data, self._request, socket, request, known)
        if known is not None:
            relayed = msgspec.structs.replace(relayed, upstream=known.upstream)
        elif owners:
            relayed = msgspec.structs.replace(relayed, upstream=owners[0])
        call.note_model(model)
        with self._requests.in_flight.one():
            await self._relay(call, principal, socket, request, relayed)
        return True

    def _request(self, socket: ResponseSocket, request: "RelayedCreate", known: RelayedResponse | None) -> RelayRequest:
        """Return the request to relay. Work in proportion to the conversation."""
        relayed = parse_relay("responses", request.data)
        fields = {name: value for name, value in relayed.fields.items() if name not in _ENVELOPE}
        if not request.passes_cache_options:
            fields.pop("prompt_cache_options", None)
        whole = None
        if known is not None:
            said = [item for item in known.response.items if not _is_reference(item)]
            whole = msgspec.Raw(encode([*said, *_items_of(request.event)]))
        turn = SessionTurn(
            session=socket.id,
            whole_input=whole,
            is_stored=known is None or known.is_stored,
            generates=request.generates,
        )
        return msgspec.structs.replace(relayed, fields={**fields, "stream": _TRUE}, stream=True, turn=turn)

    async def _relay(
        self, call: Call, principal: Principal, socket: ResponseSocket, request: "RelayedCreate", relayed: RelayRequest
    ) -> None:
        reservation = reservation_of_relay(relayed)
        async with await self._requests.admissions.admit(
            call, principal, "chat", relayed.model, reservation
        ) as account:
            answer = await self._backend.relay(relayed)
            try:
                async with aclosing(answer):
                    await self._keep_owner(principal, request, answer)
                    await self._send(call, principal, socket, request, (account, answer))
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
            return response_error_frame(error, answer.outcome.next_sequence_number)

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
        if not isinstance(body.get("id"), str) or not _are_items(body.get("output")):
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
            input=tuple(_items_of(request.event)),
            history=() if known is None else known.response.items,
        )
        is_stored = request.event.get("store") is not False and body.get("store") is not False
        outcome = answer.outcome
        return RelayedResponse(response, outcome.upstream, is_stored=is_stored and outcome.object_id is not None)


class RelayedCreate(msgspec.Struct, frozen=True):
    """A ``response.create``: decoded, its bytes, its lane. ``passes_cache_options``: they say more than that this is a warm-up."""

    event: Json
    data: bytes
    stream_id: str | None
    generates: bool
    passes_cache_options: bool


def _names(event: Json) -> list[str]:
    conversation: Any = event.get("conversation")
    if isinstance(conversation, dict):
        conversation = cast("Json", conversation).get("id")
    return [name for name in (event.get("previous_response_id"), conversation) if isinstance(name, str)]


def _items_of(event: Json) -> Sequence[Json]:
    """Return the input of a request as items; anything else is for the upstream to refuse."""
    given: Any = event.get("input")
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    return [{"type": "message", **item} for item in cast("list[Json]", given)] if _are_items(given) else []


def _is_reference(item: Json) -> bool:
    """Whether an item says nothing by itself: reasoning of which only the upstream has the contents."""
    return item.get("type") == "reasoning" and not (item.get("encrypted_content") or item.get("content"))


def _are_items(given: Any) -> bool:
    return isinstance(given, list) and all(isinstance(item, dict) for item in cast("list[Any]", given))
