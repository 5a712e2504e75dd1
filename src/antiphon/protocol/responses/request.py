"""``POST /v1/responses``: from JSON to a ``ResponseRequest``, or to OpenAI's error."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, cast

import msgspec

from antiphon.protocol import problems
from antiphon.protocol.chat import ChatRequest, JsonObjectFormat, JsonSchemaFormat, Message, Tool, ToolChoice
from antiphon.protocol.chat_request import check_body, read_sampling
from antiphon.protocol.errors import ApiError
from antiphon.protocol.responses.compaction import without_trigger
from antiphon.protocol.responses.errors import own_words
from antiphon.protocol.responses.fields import responses
from antiphon.protocol.responses.item_fields import kind_of
from antiphon.protocol.responses.tool_names import ToolNames
from antiphon.protocol.responses.tools import (
    HostedTools,
    ServedTool,
    Toolset,
    read_tool_choice,
    read_tools,
)
from antiphon.protocol.strict_schema import check_response_schema

Json = dict[str, Any]
SEALED_REASONING = "reasoning.encrypted_content"
_OF_COMPACTION = {
    "model", "input", "instructions", "previous_response_id", "prompt_cache_key", "prompt_cache_retention",
    "prompt_cache_options", "service_tier", "image",
}  # fmt: skip
_SEARCH_RESULTS = "file_search_call.results"
_BRING_TOOLS = ("additional_tools", "tool_search_output")
_LOGPROBS = "message.output_text.logprobs"


class GivenTools(msgspec.Struct, frozen=True, kw_only=True):
    """The tools as they were given, for items that add to them: what they are, and by which rules they were read.

    ``is_choice_open``: ``tool_choice`` names what only an item of the conversation may bring.
    """

    toolset: Toolset = Toolset()
    tool_choice: Any = None
    hosted_tools: HostedTools = "refuse"
    served: frozenset[str] = frozenset()
    is_choice_open: bool = False


class ResponseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A validated request for a response.

    ``chat`` is what a backend answers once ``with_messages`` has given it the conversation; ``input`` are the new items
    as they came, a text as one user message. ``echo`` are the fields of the response that repeat the request. ``names``
    translate the names that the model uses. ``left_out`` are hosted tools that the model was not offered; ``served`` are those
    that this server runs, at most ``max_tool_calls`` times. ``compacts_now``: the answer is a summary of the conversation,
    as an item. ``prewarms``: the prompt is computed, and nothing is answered.
    """

    chat: ChatRequest
    input: tuple[Json, ...]
    instructions: str | None
    echo: Mapping[str, Any]
    names: ToolNames
    left_out: tuple[str, ...] = ()
    served: tuple[ServedTool, ...] = ()
    max_tool_calls: int | None = None
    previous_response_id: str | None = None
    conversation: str | None = None
    store: bool = True
    background: bool = False
    truncates: bool = False
    summarises: bool = False
    seals_reasoning: bool = False
    shows_logprobs: bool = False
    shows_search_results: bool = False
    client_metadata: Mapping[str, Any] | None = None
    compacts_now: bool = False
    prewarms: bool = False
    context_management: tuple[Json, ...] = ()
    given: GivenTools = GivenTools()

    @property
    def limits_tools(self) -> bool:
        """Whether ``tool_choice`` narrows the tools for the whole response, and not for its first call alone."""
        choice: Any = self.echo["tool_choice"]
        return isinstance(choice, dict) and cast("Json", choice)["type"] == "allowed_tools"

    def with_messages(self, history: tuple[Message, ...]) -> ChatRequest:
        """Return the request for a backend. ``history`` are the messages of all items, earlier and new."""
        first = () if self.instructions is None else (Message("system", self.instructions),)
        messages = (*first, *history)
        if not messages:
            raise problems.bad_request(
                "One of \"input\" or \"previous_response_id\" or 'prompt' or 'conversation' must be provided.", "input"
            )
        if isinstance(self.chat.response_format, JsonObjectFormat):
            _check_mentions_json(messages)
        return msgspec.structs.replace(self.chat, messages=messages)


def parse_response(
    obj: Any, *, hosted_tools: HostedTools = "refuse", served: AbstractSet[str] = frozenset(), can_store: bool = True
) -> ResponseRequest:
    """Turn a decoded body into a request. Raises ``ApiError`` 400, worded as OpenAI's.

    ``served`` are the hosted tools that this server runs. ``can_store``: whether this server keeps responses; if not,
    ``store`` is false and what needs it is refused.
    """
    request = check_body(obj, responses)
    _check_together(request, can_store=can_store)
    toolset = read_tools(request.get("tools") or (), hosted_tools, served)
    choice, is_open = _choice(request, toolset)
    responses.refuse(request, "")
    reasoning: Json = request.get("reasoning") or {}
    cache_options: Json = request.get("prompt_cache_options") or {}
    include: list[str] = request.get("include") or []
    logprobs = _LOGPROBS in include or bool(request.get("top_logprobs"))
    stored = can_store and request.get("store") is not False
    parallel = request.get("parallel_tool_calls") is not False
    chat = _chat(request, toolset.tools, choice, logprobs=logprobs)
    items, compacts_now = without_trigger(_input(request.get("input")))
    return ResponseRequest(
        chat=chat,
        input=items,
        instructions=request.get("instructions"),
        echo=_echo(request, toolset.echoed, stored=stored, parallel=parallel),
        names=toolset.names,
        left_out=toolset.left_out,
        served=toolset.served,
        max_tool_calls=request.get("max_tool_calls"),
        previous_response_id=request.get("previous_response_id"),
        conversation=_conversation(request),
        store=stored,
        background=bool(request.get("background")),
        truncates=request.get("truncation") == "auto",
        summarises=(reasoning.get("summary") or reasoning.get("generate_summary")) is not None,
        seals_reasoning=SEALED_REASONING in include,
        shows_search_results=_SEARCH_RESULTS in include,
        shows_logprobs=logprobs,
        client_metadata=request.get("client_metadata"),
        compacts_now=compacts_now,
        prewarms=cache_options.get("prewarm") is True,
        context_management=tuple(request.get("context_management") or ()),
        given=GivenTools(
            toolset=toolset,
            tool_choice=request.get("tool_choice"),
            hosted_tools=hosted_tools,
            served=frozenset(served),
            is_choice_open=is_open,
        ),
    )


def _chat(request: Json, tools: tuple[Tool, ...], choice: ToolChoice, *, logprobs: bool) -> ChatRequest:
    """Return the generation that a checked body asks for, without its messages."""
    text: Json = request.get("text") or {}
    reasoning: Json = request.get("reasoning") or {}
    stream_options: Json = request.get("stream_options") or {}
    return ChatRequest(
        model=request["model"],
        messages=(),
        sampling=read_sampling(request),
        max_tokens=request.get("max_output_tokens"),
        logprobs=logprobs,
        top_logprobs=request.get("top_logprobs") or 0,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=request.get("parallel_tool_calls") is not False,
        response_format=read_format(text.get("format")),
        reasoning_effort=reasoning.get("effort"),
        verbosity=text.get("verbosity"),
        stream=bool(request.get("stream")),
        include_obfuscation=bool(stream_options.get("include_obfuscation")),
        user=request.get("user"),
        safety_identifier=request.get("safety_identifier"),
        metadata=request.get("metadata") or {},
        service_tier=request.get("service_tier"),
        prompt_cache_key=request.get("prompt_cache_key"),
    )


def _choice(request: Json, toolset: Toolset) -> tuple[ToolChoice, bool]:
    """Return what may or must be called, and whether items may bring the tool that is chosen."""
    given: Any = request.get("input")
    brings_tools = (
        request.get("previous_response_id") is not None
        or request.get("conversation") is not None
        or (isinstance(given, list) and any(kind_of(item) in _BRING_TOOLS for item in cast("list[Json]", given)))
    )
    try:
        return read_tool_choice(request, toolset), False
    except ApiError:
        if not brings_tools:
            raise
        return ToolChoice("auto"), True


def parse_compaction(obj: Any) -> ResponseRequest:
    """Turn the body of ``POST /v1/responses/compact`` into a request whose answer is a summary."""
    if isinstance(obj, dict):
        for name in cast("Json", obj):
            if name not in _OF_COMPACTION:
                raise problems.unknown(name, ())
    request = parse_response(obj)
    if request.prewarms:
        raise problems.unsupported_value("prompt_cache_options.prewarm", "true", ("false",))
    return msgspec.structs.replace(request, compacts_now=True, store=False)


def _input(given: Any) -> tuple[Json, ...]:
    if given is None:
        return ()
    if isinstance(given, str):
        return ({"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]},)
    return tuple(given)


def _conversation(request: Json) -> str | None:
    given: Any = request.get("conversation")
    return cast("Json", given)["id"] if isinstance(given, dict) else given


def _check_together(request: Json, *, can_store: bool) -> None:
    if request.get("previous_response_id") is not None and request.get("conversation") is not None:
        raise problems.bad_request(
            "Mutually exclusive parameters: 'previous_response_id' and 'conversation'. Provide one of them.",
            None,
            "mutually_exclusive_parameters",
        )
    if request.get("stream_options") is not None and not request.get("stream"):
        raise problems.bad_request(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options"
        )
    if request.get("background") and (request.get("store") is False or not can_store):
        raise problems.bad_request("Background mode requires 'store' to be true.", "background")
    if request.get("background_options") is not None and not request.get("background"):
        raise problems.bad_request(
            "The 'background_options' parameter is only allowed when 'background' is enabled.", "background_options"
        )
    if request.get("store") and not can_store:
        raise problems.unsupported_value("store", "true", ("false",))


def read_format(spec: Json | None) -> JsonSchemaFormat | JsonObjectFormat | None:
    """Return the form that ``text.format`` asks for, None for plain text. Raises ``ApiError`` 400 for a schema that is not strict."""
    if spec is None or spec["type"] == "text":
        return None
    if spec["type"] == "json_object":
        return JsonObjectFormat()
    strict = bool(spec.get("strict"))
    if strict:
        try:
            check_response_schema(spec["name"], spec["schema"])
        except ApiError as error:
            raise own_words(error) from None
    return JsonSchemaFormat(spec["name"], spec["schema"], spec.get("description"), strict)


def _check_mentions_json(messages: tuple[Message, ...]) -> None:
    if not any("json" in (message.content or "").lower() for message in messages):
        raise problems.bad_request(
            "Response input messages must contain the word 'json' in some form to use 'text.format' of type "
            "'json_object'.",
            "input",
        )


def _echo(request: Json, tools: tuple[Json, ...], *, stored: bool, parallel: bool) -> Json:
    """Return the fields of the response that say how it was asked for, with defaults filled in."""
    text: Json = request.get("text") or {}
    reasoning: Json = request.get("reasoning") or {}
    return {
        "frequency_penalty": request.get("frequency_penalty") or 0.0,
        "instructions": request.get("instructions"),
        "max_output_tokens": request.get("max_output_tokens"),
        "max_tool_calls": request.get("max_tool_calls"),
        "parallel_tool_calls": parallel,
        "presence_penalty": request.get("presence_penalty") or 0.0,
        "previous_response_id": request.get("previous_response_id"),
        "prompt_cache_key": request.get("prompt_cache_key"),
        "prompt_cache_retention": request.get("prompt_cache_retention"),
        "reasoning": {
            "effort": reasoning.get("effort"),
            "summary": reasoning.get("summary") or reasoning.get("generate_summary"),
        },
        "safety_identifier": request.get("safety_identifier"),
        "service_tier": "default",
        "store": stored,
        "temperature": 1.0 if request.get("temperature") is None else request["temperature"],
        "text": {"format": text.get("format") or {"type": "text"}, "verbosity": text.get("verbosity") or "medium"},
        "tool_choice": request.get("tool_choice") or "auto",
        "tools": list(tools),
        "top_logprobs": request.get("top_logprobs") or 0,
        "top_p": 1.0 if request.get("top_p") is None else request["top_p"],
        "truncation": request.get("truncation") or "disabled",
        "user": request.get("user"),
        "metadata": request.get("metadata") or {},
        "background": bool(request.get("background")),
    }
