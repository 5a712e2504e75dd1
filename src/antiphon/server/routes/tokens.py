"""``POST /tokenize``: how long a prompt is, counted by the model that would read it.

Not part of OpenAI's API; the request and the answer are vLLM's, so that tools written for one work with the other:
``{"model", "messages", "tools"}`` or ``{"model", "prompt"}`` -> ``{"count", "max_model_len"}``. llama.cpp's word for the
prompt, ``content``, is understood too.
"""

from typing import Any, cast

from antiphon.backends.base import Countable
from antiphon.protocol import parse_chat
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.errors import ApiError
from antiphon.server.request.call import Call
from antiphon.server.request.query import refuse_query

_TEXT_KEYS = {"model", "prompt", "content", "add_special_tokens"}


async def tokenize(call: Call) -> None:
    """Count a conversation with its template and tools, or a text as it stands."""
    principal = await call.service.authenticate(call)
    refuse_query(call)
    body = call.decode(await call.body())
    request = _countable(body)
    call.service.require_model(principal, request.model)
    count = await call.service.backend.count_tokens(request)
    lengths = (model.context_length for model in call.service.backend.models if model.id == request.model)
    await call.respond(call.service.encode({"count": count, "max_model_len": next(lengths, None)}))


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
            "Unsupported value: 'add_special_tokens' must be false; a text is counted as it stands.",
            param="add_special_tokens",
            code="unsupported_value",
        )
    return CompletionRequest(model=cast("str", model), prompts=(cast("str", prompt),))
