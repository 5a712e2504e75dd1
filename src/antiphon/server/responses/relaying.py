"""Responses of an upstream that has the endpoint: the request and the answer pass as bytes, and the response stays there."""

from contextlib import aclosing
from typing import Any, cast

import msgspec

from antiphon.accounts import Principal
from antiphon.backends.base import RelayedAnswer, ResponseRelayingBackend
from antiphon.protocol import check_content_type
from antiphon.protocol.errors import ApiError
from antiphon.protocol.relay import RelayRequest, parse_relay
from antiphon.protocol.rendering import response_error_frame
from antiphon.server.forwarding import Forwarder
from antiphon.server.request.account import RequestAccount
from antiphon.server.request.call import Call
from antiphon.server.request.departure import until_gone
from antiphon.server.request.headers import encoded
from antiphon.server.request.parts import ReceivedRequest, RequestParts
from antiphon.server.request.reservation import reservation_of_relay


class _Continued(msgspec.Struct):
    """What a request continues: a response, a conversation by id or as an object."""

    previous_response_id: Any = None
    conversation: Any = None
    store: Any = None


_continued = msgspec.json.Decoder(_Continued)


class ResponseRelay:
    """Takes the requests for responses that an upstream answers itself."""

    def __init__(self, backend: ResponseRelayingBackend, requests: RequestParts, forwarder: Forwarder) -> None:
        self._backend = backend
        self._requests = requests
        self._forwarder = forwarder

    async def takes(self, call: Call, asked: ReceivedRequest) -> bool:
        """Answer the request if its model's upstream has the endpoint, and what it continues is there; False if not.

        A response or conversation that this server keeps is continued here, by chat completions of the upstream.
        """
        principal, body = asked.principal, asked.body
        if not await self._is_relayed(principal, asked.model):
            return False
        continued = await self._requests.bodies.work(body, _read, body)
        upstream = None
        if continued is None:
            return False
        if names := _names(continued):
            owners = await self._forwarder.owners(names, principal)
            if len(owners) < len(names):
                return False
            upstream = owners[0]
        check_content_type(call.header(b"content-type"))
        request = await self._requests.bodies.work(body, parse_relay, "responses", body)
        request = msgspec.structs.replace(request, upstream=upstream)
        with self._requests.in_flight.one():
            await until_gone(call, self._relay(call, principal, request, is_kept=continued.store is not False))
        return True

    async def takes_whole(self, call: Call, asked: ReceivedRequest) -> bool:
        """Answer a request for a neighbouring path (``compact``, ``input_tokens``) in the same way; False if not."""
        if not await self._is_relayed(asked.principal, asked.model):
            return False
        await self._forwarder.send_on(call, asked.principal, asked.body, asked.model)
        return True

    async def _is_relayed(self, principal: Principal, model: str) -> bool:
        return bool(model) and principal.may_use(model) and await self._backend.relays_responses(model)

    async def _relay(self, call: Call, principal: Principal, request: RelayRequest, *, is_kept: bool) -> None:
        reservation = reservation_of_relay(request)
        async with await self._requests.admissions.admit(
            call, principal, "chat", request.model, reservation
        ) as account:
            answer = await self._backend.relay(request)
            try:
                async with aclosing(answer):
                    outcome = answer.outcome
                    if is_kept and outcome.upstream is not None:
                        await self._forwarder.remember(outcome.object_id, outcome.upstream, principal)
                    await _pass_on(call, account, request, answer)
            finally:
                account.record_relayed(answer.outcome, request)


def _read(body: bytes) -> _Continued | None:
    try:
        return _continued.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _names(continued: _Continued) -> list[str]:
    conversation: Any = continued.conversation
    if isinstance(conversation, dict):
        conversation = cast("dict[str, Any]", conversation).get("id")
    named: tuple[Any, Any] = (continued.previous_response_id, conversation)
    return [name for name in named if isinstance(name, str)]


async def _pass_on(call: Call, account: RequestAccount, request: RelayRequest, answer: RelayedAnswer) -> None:
    headers = encoded(answer.headers)
    if not request.stream:
        await call.respond(b"".join([piece async for piece in answer]), headers=headers)
        return

    def failed(error: ApiError) -> bytes:
        return response_error_frame(error, answer.outcome.next_sequence_number)

    await call.stream(account.guarded(answer, failed), headers)
