"""``POST /v1/chat/completions``, ``/v1/completions`` and ``/v1/embeddings``.

The order of checks is OpenAI's: who asks, the form of the request, the model, the limits. Then one of two ways: a validated
request to a backend, whose events are rendered; or, for a model that another API serves, the request's bytes, relayed.
"""

from collections.abc import Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from antiphon.accounts import Kind, Outcome, Principal
from antiphon.backends.base import RelayedAnswer
from antiphon.protocol import check_content_type, parse_chat, parse_completion, parse_embedding
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import Meter, Usage
from antiphon.protocol.relay import Operation, RelayRequest
from antiphon.protocol.rendering import (
    ChatBody,
    ChatStream,
    CompletionBody,
    CompletionStream,
    new_id,
    render_embeddings,
)
from antiphon.server.request.call import Call
from antiphon.server.request.headers import encoded
from antiphon.server.request.lifecycle import RequestAccount, admitted, answer_stream, answer_whole, until_gone
from antiphon.server.request.query import refuse_query
from antiphon.server.request.reservation import (
    reservation_of_chat,
    reservation_of_completion,
    reservation_of_embedding,
    reservation_of_relay,
)

Answer = Callable[[Call, Principal, bytes], Coroutine[Any, Any, None]]


_KINDS: Mapping[Operation, Kind] = {
    "chat/completions": "chat",
    "completions": "completion",
    "embeddings": "embedding",
}


async def chat_completions(call: Call) -> None:
    """Answer a conversation."""
    await _serve(call, "chat/completions", _chat)


async def completions(call: Call) -> None:
    """Continue a text (legacy)."""
    await _serve(call, "completions", _completion)


async def embeddings(call: Call) -> None:
    """Turn texts into vectors."""
    await _serve(call, "embeddings", _embedding)


async def _serve(call: Call, operation: Operation, answer: Answer) -> None:
    principal = await call.service.authenticate(call)
    refuse_query(call)
    body = await call.body()
    try:
        relayed = call.service.relayed(operation, body)
        if relayed is not None:
            check_content_type(call.header(b"content-type"))
        with call.service.in_flight():
            work = answer(call, principal, body) if relayed is None else _relay(call, principal, relayed)
            await until_gone(call, work)
    except ApiError as error:
        if not call.is_recorded:
            outcome = Outcome(
                request_id=call.request_id,
                started_at=call.started_at,
                duration_s=call.elapsed_s(),
                status=error.status,
                error_code=error.code or error.type,
            )
            call.service.accounts.refuse(principal, model=_asked(body), kind=_KINDS[operation], outcome=outcome)
        raise


def _asked(body: bytes) -> str:
    """Return the model that a body asks for, the empty string where that cannot be read."""
    try:
        return _decode_asked(body).model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


class _Asked(msgspec.Struct, frozen=True):
    model: str = ""


_decode_asked = msgspec.json.Decoder(_Asked).decode


async def _chat(call: Call, principal: Principal, body: bytes) -> None:
    request = msgspec.structs.replace(parse_chat(call.decode(body)), cache=call.service.cache_use(call, principal))
    call.service.require_model(principal, request.model)
    async with await admitted(call, principal, "chat", request.model, reservation_of_chat(request)) as account:
        events = call.service.backend.chat(request)
        answer_id = new_id("chatcmpl")
        created = int(call.started_at)
        if request.stream:
            await answer_stream(call, account, events, ChatStream(answer_id, created, request))
        else:
            await answer_whole(call, account, events, ChatBody(answer_id, created, request))


async def _completion(call: Call, principal: Principal, body: bytes) -> None:
    request = msgspec.structs.replace(
        parse_completion(call.decode(body)), cache=call.service.cache_use(call, principal)
    )
    call.service.require_model(principal, request.model)
    async with await admitted(
        call, principal, "completion", request.model, reservation_of_completion(request)
    ) as account:
        events = call.service.backend.complete(request)
        answer_id = new_id("cmpl")
        created = int(call.started_at)
        if request.stream:
            await answer_stream(call, account, events, CompletionStream(answer_id, created, request))
        else:
            await answer_whole(call, account, events, CompletionBody(answer_id, created, request))


async def _embedding(call: Call, principal: Principal, body: bytes) -> None:
    request = msgspec.structs.replace(parse_embedding(call.decode(body)), cache=call.service.cache_use(call, principal))
    call.service.require_model(principal, request.model)
    async with await admitted(
        call, principal, "embedding", request.model, reservation_of_embedding(request)
    ) as account:
        result = await call.service.backend.embed(request)
        account.model = result.model
        if request.cache is not None:
            account.set_cache_status("hit" if result.cached_inputs == len(request.inputs) else "miss")
        account.meter = Meter(Usage(result.prompt_tokens), result.compute_s)
        account.spared = result.spared
        await call.respond(render_embeddings(request, result))


async def _relay(call: Call, principal: Principal, request: RelayRequest) -> None:
    call.service.require_model(principal, request.model)
    request = msgspec.structs.replace(request, cache=call.service.cache_use(call, principal))
    kind = _KINDS[request.operation]
    async with await admitted(call, principal, kind, request.model, reservation_of_relay(request)) as account:
        answer = await call.service.relay(request)
        try:
            async with aclosing(answer):
                account.set_cache_status(answer.outcome.cache)
                await _pass_on(call, account, request, answer)
        finally:
            # Once it is closed: an answer that others read along with ends later than its own request would.
            account.learn(answer.outcome, request)


async def _pass_on(call: Call, account: RequestAccount, request: RelayRequest, answer: RelayedAnswer) -> None:
    headers = encoded(answer.headers)
    if request.stream:
        await call.stream(account.guarded(answer), headers)
    else:
        await call.respond(b"".join([piece async for piece in answer]), headers=headers)
