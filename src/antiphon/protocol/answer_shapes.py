"""The tables of answers: what clients can rely on finding, for the OpenAPI document and the tests of rendering."""

from dataclasses import replace

from antiphon.protocol.fields import Enumeration, Flag, Integer, Number, Spec, String
from antiphon.protocol.shapes import Array, Either, JsonObject, Mapping, Object, Tagged

_count = Integer(minimum=0)
_FINISH = ("stop", "length", "tool_calls", "content_filter", "function_call")


def _all_of(optional: dict[str, Spec] | None = None, /, **fields: Spec) -> Object:
    return Object(fields | (optional or {}), required=tuple(fields))


def _or_null(spec: Object) -> Object:
    return replace(spec, nullable=True)


error = _all_of(
    error=_all_of(message=String(), type=String(), param=String(nullable=True), code=String(nullable=True)),
)

usage = _all_of(
    prompt_tokens=_count,
    completion_tokens=_count,
    total_tokens=_count,
    prompt_tokens_details=_all_of(cached_tokens=_count, audio_tokens=_count),
    completion_tokens_details=_all_of(
        reasoning_tokens=_count,
        audio_tokens=_count,
        accepted_prediction_tokens=_count,
        rejected_prediction_tokens=_count,
    ),
)

_alternative: dict[str, Spec] = {
    "token": String(),
    "logprob": Number(maximum=0),
    "bytes": Array(Integer(minimum=0, maximum=255), "integers"),
}
_entries = Array(
    _all_of(**_alternative, top_logprobs=Array(_all_of(**_alternative), "objects")), "objects", nullable=True
)
_logprobs = _or_null(_all_of(content=_entries, refusal=_entries))

_function = _all_of(name=String(), arguments=String())
_tool_calls = Array(
    Tagged(
        "type",
        {
            "function": _all_of(id=String(), type=String(), function=_function),
            "custom": _all_of(id=String(), type=String(), custom=_all_of(name=String(), input=String())),
        },
    ),
    "objects",
)
_message = Object(
    {
        "role": Enumeration(("assistant",)),
        "content": String(nullable=True),
        "refusal": String(nullable=True),
        "annotations": Array(JsonObject(), "objects"),
        "reasoning_content": String(),
        "tool_calls": _tool_calls,
        "function_call": _function,
    },
    required=("role", "content", "refusal", "annotations"),
)
_fingerprint: dict[str, Spec] = {"system_fingerprint": String()}
_chat_head: dict[str, Spec] = {
    "id": String(),
    "created": _count,
    "model": String(),
    "service_tier": Enumeration(("default",)),
}
chat_completion = _all_of(
    _fingerprint,
    **_chat_head,
    object=Enumeration(("chat.completion",)),
    choices=Array(
        _all_of(index=_count, message=_message, logprobs=_logprobs, finish_reason=Enumeration(_FINISH)), "objects"
    ),
    usage=usage,
)

_delta = Object(
    {
        "role": Enumeration(("assistant",)),
        "content": String(nullable=True),
        "refusal": String(nullable=True),
        "reasoning_content": String(),
        "tool_calls": Array(
            Object(
                {
                    "index": _count,
                    "id": String(),
                    "type": Enumeration(("function", "custom")),
                    "function": Object({"name": String(), "arguments": String()}, required=("arguments",)),
                    "custom": Object({"name": String(), "input": String()}, required=("input",)),
                },
                required=("index",),
            ),
            "objects",
        ),
        "function_call": Object({"name": String(), "arguments": String()}, required=("arguments",)),
    }
)
chat_chunk = Object(
    {
        **_chat_head,
        "object": Enumeration(("chat.completion.chunk",)),
        "choices": Array(
            _all_of(index=_count, delta=_delta, logprobs=_logprobs, finish_reason=Enumeration(_FINISH, nullable=True)),
            "objects",
        ),
        "usage": _or_null(usage),
        "obfuscation": String(),
        **_fingerprint,
    },
    required=(*_chat_head, "object", "choices"),
)

_older_logprobs = _or_null(
    _all_of(
        tokens=Array(String(), "strings"),
        token_logprobs=Array(Number(maximum=0, nullable=True), "decimals"),
        top_logprobs=Array(Mapping(Number(maximum=0), nullable=True), "objects"),
        text_offset=Array(_count, "integers"),
    )
)
_text_head: dict[str, Spec] = {
    "id": String(),
    "object": Enumeration(("text_completion",)),
    "created": _count,
    "model": String(),
}
text_completion = _all_of(
    _fingerprint,
    **_text_head,
    choices=Array(
        _all_of(text=String(), index=_count, logprobs=_older_logprobs, finish_reason=Enumeration(_FINISH)), "objects"
    ),
    usage=usage,
)
text_chunk = Object(
    {
        **_text_head,
        "choices": Array(
            _all_of(
                text=String(), index=_count, logprobs=_older_logprobs, finish_reason=Enumeration(_FINISH, nullable=True)
            ),
            "objects",
        ),
        "usage": _or_null(usage),
        "obfuscation": String(),
        **_fingerprint,
    },
    required=(*_text_head, "choices"),
)

embeddings = _all_of(
    object=Enumeration(("list",)),
    data=Array(
        _all_of(
            object=Enumeration(("embedding",)), index=_count, embedding=Either((Array(Number(), "decimals"), String()))
        ),
        "objects",
    ),
    model=String(),
    usage=_all_of(prompt_tokens=_count, total_tokens=_count),
)

_document = Object({"text": String()}, required=("text",))
rerank = _all_of(
    id=String(),
    object=Enumeration(("list",)),
    model=String(),
    results=Array(
        _all_of({"document": _document}, index=_count, relevance_score=Number(minimum=0, maximum=1)), "objects"
    ),
    usage=_all_of(prompt_tokens=_count, total_tokens=_count),
)

model = Object(
    {
        "id": String(),
        "object": Enumeration(("model",)),
        "created": _count,
        "owned_by": String(),
        "kind": Enumeration(("chat", "embedding", "reranker"), note="What the model is for; not part of OpenAI's API."),
        "context_length": Integer(minimum=1, nullable=True, note="In tokens; not part of OpenAI's API."),
    },
    required=("id", "object", "created", "owned_by"),
)
models = _all_of(object=Enumeration(("list",)), data=Array(model, "objects"))
health = _all_of(status=Enumeration(("ready", "loading", "down")), detail=String())
token_count = _all_of(count=_count, max_model_len=Integer(minimum=1, nullable=True))


def _page_of(result: Object) -> Object:
    bucket = _all_of(
        object=Enumeration(("bucket",)), start_time=_count, end_time=_count, results=Array(result, "objects")
    )
    return _all_of(
        object=Enumeration(("page",)), data=Array(bucket, "objects"), has_more=Flag(), next_page=String(nullable=True)
    )


_text_or_null = String(nullable=True)
_who: dict[str, Spec] = {"project_id": _text_or_null, "user_id": _text_or_null, "api_key_id": _text_or_null}
usage_of_completions = _page_of(
    _all_of(
        **_who,
        object=Enumeration(("organization.usage.completions.result",)),
        input_tokens=_count,
        output_tokens=_count,
        input_cached_tokens=_count,
        input_audio_tokens=_count,
        output_audio_tokens=_count,
        num_model_requests=_count,
        model=_text_or_null,
        batch=Flag(nullable=True),
        service_tier=_text_or_null,
    )
)
usage_of_embeddings = _page_of(
    _all_of(
        **_who,
        object=Enumeration(("organization.usage.embeddings.result",)),
        input_tokens=_count,
        num_model_requests=_count,
        model=_text_or_null,
    )
)
_amount = _all_of(value=Number(minimum=0), currency=Enumeration(("usd",)))
costs = _page_of(
    _all_of(
        {"saved_amount": _amount},
        **_who,
        object=Enumeration(("organization.costs.result",)),
        amount=_amount,
        line_item=_text_or_null,
    )
)
