"""``POST /v1/chat/completions``: from JSON to a ``ChatRequest``, or to OpenAI's error."""

from collections.abc import Iterable
from typing import Any, cast

from antiphon.protocol import problems
from antiphon.protocol.chat import (
    ChatRequest,
    FunctionCall,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    Sampling,
    ToolCall,
)
from antiphon.protocol.chat_fields import chat
from antiphon.protocol.decoding import unparsable
from antiphon.protocol.history import check_contents, check_history, check_mentions_json, texts
from antiphon.protocol.shapes import Object
from antiphon.protocol.strict_schema import check_response_schema
from antiphon.protocol.token_input import MAX_TOKEN_ID
from antiphon.protocol.tool_request import read_tool_choice, read_tools

Json = dict[str, Any]


def check_body(obj: Any, table: Object) -> Json:
    """Check a request's body against its table, the model's name before all else."""
    if not isinstance(obj, dict):
        raise problems.bad_request(
            f"Invalid type for request body: expected an object, but got {problems.type_name(obj)} instead.",
            None,
            "invalid_type",
        )
    request = cast("Json", obj)
    if request.get("model") is None or request["model"] == "":
        raise problems.bad_request("you must provide a model parameter")
    if not isinstance(request["model"], str):
        raise unparsable("'model' is not a string")
    table.check(request, "")
    return request


def parse_chat(obj: Any, *, can_store: bool = False) -> ChatRequest:
    """Turn a decoded body into a request. Raises ``ApiError`` 400, worded as OpenAI's.

    ``can_store``: the server keeps completions for which ``store`` is true; otherwise such a request is refused.
    """
    request = check_body(obj, chat)
    check_history(request["messages"])
    tools = read_tools(request)
    tool_choice = read_tool_choice(request, tools)
    check_together(request)
    response_format = _response_format(request)
    if request.get("store") and not can_store:
        raise problems.unsupported_value("store", "true", ("false",))
    chat.refuse(request, "")
    check_contents(request["messages"])
    options: Json = request.get("stream_options") or {}
    legacy = request.get("functions") is not None
    return ChatRequest(
        model=request["model"],
        messages=tuple(_message(message) for message in request["messages"]),
        sampling=read_sampling(request),
        max_tokens=_first(request.get("max_completion_tokens"), request.get("max_tokens")),
        n=_first(request.get("n"), 1),
        stop=read_stop(request),
        logprobs=bool(request.get("logprobs")),
        top_logprobs=request.get("top_logprobs") or 0,
        tools=tools,
        tool_choice=tool_choice,
        parallel_tool_calls=not legacy and request.get("parallel_tool_calls", True),
        legacy_functions=legacy,
        response_format=response_format,
        reasoning_effort=request.get("reasoning_effort"),
        verbosity=request.get("verbosity"),
        stream=bool(request.get("stream")),
        include_usage=options.get("include_usage", False),
        include_obfuscation=options.get("include_obfuscation", False),
        user=request.get("user"),
        safety_identifier=request.get("safety_identifier"),
        metadata=request.get("metadata") or {},
        store=bool(request.get("store")),
        service_tier=request.get("service_tier"),
        prompt_cache_key=request.get("prompt_cache_key"),
        raw=request,
    )


def _first(value: Any, default: Any) -> Any:
    return default if value is None else value


def check_together(request: Json) -> None:
    """Raise ``ApiError`` 400 for fields that are valid alone but not together."""
    if request.get("max_tokens") is not None and request.get("max_completion_tokens") is not None:
        raise problems.bad_request(
            "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
            "max_tokens",
            "invalid_parameter_combination",
        )
    if request.get("top_logprobs") is not None and not request.get("logprobs"):
        raise _only_with("top_logprobs", "logprobs")
    if request.get("stream_options") is not None and not request.get("stream"):
        raise _only_with("stream_options", "stream")
    _check_biased_tokens(request.get("logit_bias") or ())


def _check_biased_tokens(keys: Iterable[str]) -> None:
    tokens: set[int] = set()
    for key in keys:
        if not (key.isascii() and key.isdigit()):
            raise problems.bad_request(
                f"Invalid key in 'logit_bias': {key}. You should only be submitting non-negative integers.",
                "logit_bias",
            )
        if len(key) > len(str(MAX_TOKEN_ID)):
            raise problems.bad_request(
                f"Invalid key in 'logit_bias': {key[:20]}... has {len(key)} digits. Maximum value is {MAX_TOKEN_ID}.",
                "logit_bias",
            )
        if int(key) in tokens:
            raise problems.bad_request(f"Invalid key in 'logit_bias': {key} names a token twice.", "logit_bias")
        tokens.add(int(key))


def _only_with(key: str, other: str) -> Exception:
    return problems.bad_request(f"The '{key}' parameter is only allowed when '{other}' is enabled.", key)


def read_sampling(request: Json) -> Sampling:
    """Return how tokens are drawn; null and absence mean the default."""
    biases: dict[str, float] = request.get("logit_bias") or {}
    return Sampling(
        temperature=float(_first(request.get("temperature"), 1.0)),
        top_p=float(_first(request.get("top_p"), 1.0)),
        presence_penalty=float(_first(request.get("presence_penalty"), 0.0)),
        frequency_penalty=float(_first(request.get("frequency_penalty"), 0.0)),
        logit_bias={int(key): float(bias) for key, bias in biases.items()},
        seed=request.get("seed"),
    )


def read_stop(request: Json) -> tuple[str, ...]:
    """Return the stop strings."""
    stop = request.get("stop")
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(stop)


def _message(message: Json) -> Message:
    parts = texts(message)
    return Message(
        role=message["role"],
        content="".join(parts) if parts or message.get("content") == [] else None,
        name=message.get("name"),
        refusal=_refusal(message),
        tool_calls=_calls(message),
        tool_call_id=_result_of(message),
        reasoning_content=message.get("reasoning_content") or message.get("reasoning"),
    )


def _refusal(message: Json) -> str | None:
    content = message.get("content")
    parts = cast("list[Json]", content) if isinstance(content, list) else []
    refusals: list[str | None] = [part["refusal"] for part in parts if part["type"] == "refusal"]
    said = [text for text in (*refusals, message.get("refusal")) if text is not None]
    return "".join(said) if said else None


def _calls(message: Json) -> tuple[ToolCall, ...]:
    if message.get("function_call") is not None:
        call = message["function_call"]
        return (ToolCall(_legacy_id(call["name"]), FunctionCall(call["name"], call["arguments"])),)
    return tuple(_call(call) for call in message.get("tool_calls") or ())


def _call(call: Json) -> ToolCall:
    if call["type"] == "custom":
        custom = call["custom"]
        return ToolCall(call["id"], FunctionCall(custom["name"], custom["input"]), "custom")
    function = call["function"]
    return ToolCall(call["id"], FunctionCall(function["name"], function["arguments"]))


def _result_of(message: Json) -> str | None:
    return _legacy_id(message["name"]) if message["role"] == "function" else message.get("tool_call_id")


def _legacy_id(name: str) -> str:
    """Older function calls carry no id; template and result need the same one."""
    return f"call_{name}"


def _response_format(request: Json) -> JsonSchemaFormat | JsonObjectFormat | None:
    spec = request.get("response_format")
    if spec is None or spec["type"] == "text":
        return None
    if spec["type"] == "json_object":
        check_mentions_json(request["messages"])
        return JsonObjectFormat()
    wanted = spec["json_schema"]
    if "schema" not in wanted:
        raise problems.missing("response_format.json_schema.schema")
    strict = bool(wanted.get("strict"))
    if strict:
        check_response_schema(wanted["name"], wanted["schema"])
    return JsonSchemaFormat(wanted["name"], wanted["schema"], wanted.get("description"), strict)
