"""``POST /tokenize``: how many tokens a prompt has for the model that would read it.

Not part of OpenAI's API; the request and the answer are vLLM's, so that tools written for one work with the other:
``{"model", "messages", "tools"}`` or ``{"model", "prompt"}`` -> ``{"count", "max_model_len"}``. llama.cpp's name for the
prompt, ``content``, works too.
"""

from typing import Any, cast

from antiphon.accounts import Principal
from antiphon.backends.base import Backend, Countable
from antiphon.protocol import decode_json, parse_chat
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.errors import ApiError
from antiphon.server.request.call import Call
from antiphon.server.request.departure import until_gone
from antiphon.server.request.parts import RequestParts
from antiphon.server.request.reservation import TokenReservation

_TEXT_KEYS = {"model", "prompt", "content", "add_special_tokens"}


class TokenRoutes:
    """Counting is a request like any other: it counts for the key's limits and has a usage row, without tokens."""

    def __init__(self, backend: Backend, requests: RequestParts) -> None:
        self._backend = backend
        self._requests = requests

    async def tokenize(self, call: Call) -> None:
        """Count a conversation with its template and tools, or a plain text."""
        async with self._requests.received(call, "tokenize") as asked:
            bodies, body = self._requests.bodies, asked.body
            value: Any = await bodies.work(body, decode_json, body, call.header(b"content-type"))
            self._requests.access.require_named_model(asked.principal, value)
            request = await bodies.work(body, _countable, value)
            with self._requests.in_flight.one():
                await until_gone(call, self._count(call, asked.principal, request))

    async def _count(self, call: Call, principal: Principal, request: Countable) -> None:
        reservation = TokenReservation(0, 0)
        async with await self._requests.admissions.admit(
            call, principal, "tokenize", request.model, reservation
        ) as account:
            count = await self._backend.count_tokens(request)
            model = self._requests.access.describe(principal, request.model)
            account.model = model.id
            await call.respond_json({"count": count, "max_model_len": model.context_length})


def _countable(body: Any) -> Countable:
    if not isinstance(body, dict) or "messages" in body:
        return parse_chat(body)
    given = cast("dict[str, Any]", body)
    if unknown := sorted(given.keys() - _TEXT_KEYS):
        raise ApiError(400, f"Unknown parameter: '{unknown[0]}'.", param=unknown[0], code="unknown_parameter")
    model, prompt = given.get("model"), given.get("prompt", given.get("content"))
    for name, value in (("model", model), ("prompt", prompt)):
        if not isinstance(value, str):
            raise ApiError(400, f"Invalid type for '{name}': expected a string.", param=name, code="invalid_type")
    if given.get("content", prompt) != prompt:
        raise ApiError(400, "'content' and 'prompt' differ; they are two names of the same text.", param="content")
    if given.get("add_special_tokens", False) is not False:
        raise ApiError(
            400,
            "Unsupported value: 'add_special_tokens' must be false; a text is counted without them.",
            param="add_special_tokens",
            code="unsupported_value",
        )
    return CompletionRequest(model=cast("str", model), prompts=(cast("str", prompt),))
