"""Malformed requests and OpenAI's answers to them: used here on the parsers, and over HTTP by the server's tests.

Every row is a 400 of type ``invalid_request_error``. ``message`` is the whole text where a capture of the live API or its
documentation gives it, and None where only parameter and code are known.
"""

from typing import Any, NamedTuple


class Malformed(NamedTuple):
    """A body that one endpoint refuses."""

    operation: str
    body: Any
    param: str | None
    code: str | None
    message: str | None = None

    @property
    def name(self) -> str:
        return f"{self.operation}-{self.param}-{self.code}-{str(self.body)[:60]}"


USER = {"role": "user", "content": "hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def _chat(param: str | None, code: str | None, message: str | None = None, /, **fields: Any) -> Malformed:
    body = {"model": "m", "messages": [USER]} | fields
    body = {key: value for key, value in body.items() if value is not ...}
    return Malformed("chat/completions", body, param, code, message)


def _said(param: str | None, code: str | None, message: str | None = None, /, *messages: Any) -> Malformed:
    return _chat(param, code, message, messages=list(messages))


def _text(param: str | None, code: str | None, message: str | None = None, /, **fields: Any) -> Malformed:
    body = {"model": "m", "prompt": "hi"} | fields
    return Malformed("completions", {k: v for k, v in body.items() if v is not ...}, param, code, message)


def _embed(param: str | None, code: str | None, message: str | None = None, /, **fields: Any) -> Malformed:
    body = {"model": "m", "input": "hi"} | fields
    return Malformed("embeddings", {k: v for k, v in body.items() if v is not ...}, param, code, message)


def _typed(path: str, expected: str, got: str, **fields: Any) -> Malformed:
    return _chat(
        path, "invalid_type", f"Invalid type for '{path}': expected {expected}, but got {got} instead.", **fields
    )


def _strict(context: str, text: str, **schema: Any) -> Malformed:
    root = {"type": "object", "additionalProperties": False, "properties": {}, "required": []} | schema
    spec = {"name": "x", "strict": True, "schema": {k: v for k, v in root.items() if v is not ...}}
    where = f"In context={context}, " if context else ""
    return _chat(
        "response_format",
        None,
        f"Invalid schema for response_format 'x': {where}{text}",
        response_format={"type": "json_schema", "json_schema": spec},
    )


def _nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "additionalProperties": False, "properties": {"a": schema}, "required": ["a"]}
    return schema


def _function(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f"} | fields}


_PART = {"type": "text", "text": "hi"}
_WITHOUT_MODEL = "you must provide a model parameter"
_NO_CONTENT = "Invalid value for 'content': expected a string, got null."
_EMPTY = "Invalid '{0}': empty array. Expected an array with minimum length 1, but got an empty array instead."
_INPUT = "'$.input' is invalid. Please check the API reference."

BODIES = [
    _chat(None, None, _WITHOUT_MODEL, model=...),
    _chat(None, None, _WITHOUT_MODEL, model=""),
    _chat(None, None, model=5),
    _chat(None, None, _WITHOUT_MODEL, model=..., zzz=1),
    _chat("messages", "missing_required_parameter", "Missing required parameter: 'messages'.", messages=..., zzz=1),
    Malformed("chat/completions", ["m"], None, "invalid_type"),
    _chat("zzz", "unknown_parameter", "Unknown parameter: 'zzz'.", zzz=1, n="x", messages=[]),
    _chat("stor", "unknown_parameter", "Unknown parameter: 'stor'. Did you mean 'stop' or 'store'?", stor=1),
    _chat("messagess", "unknown_parameter", "Unknown parameter: 'messagess'.", messagess=1),
    _chat("top_k", "unknown_parameter", top_k=1),
]

MESSAGES = [
    _typed("messages", "an array of objects", "a string", messages="ping"),
    _typed("messages", "an array of objects", "null", messages=None),
    _chat("messages", "empty_array", _EMPTY.format("messages"), messages=[]),
    _typed("messages[0]", "an object", "a string", messages=["ping"]),
    _said("messages[0].role", "missing_required_parameter", None, {"content": "hi"}),
    _said(
        "messages[0].role",
        "invalid_value",
        "Invalid value: 'bogus'. Supported values are: 'system', 'assistant', 'user', 'function', 'tool', and 'developer'.",
        {"role": "bogus", "content": "hi"},
    ),
    _said("messages[0].role", "invalid_type", None, {"role": 3, "content": "hi"}),
    _typed(
        "messages[0].content",
        "one of a string or array of objects",
        "an integer",
        messages=[{"role": "user", "content": 7}],
    ),
    _said("messages[1].foo", "unknown_parameter", None, USER, USER | {"foo": 1}),
    _said("messages.[0].content", None, _NO_CONTENT, {"role": "user"}, USER),
    _said("messages.[1].content", None, _NO_CONTENT, USER, {"role": "assistant", "content": None}),
    _said("messages.[1].content", None, _NO_CONTENT, USER, {"role": "assistant", "refusal": None}),
    _said("messages[1].content", "missing_required_parameter", None, USER, {"role": "developer"}),
    _said(
        "messages[1].content",
        "invalid_type",
        "Invalid type for 'messages[1].content': expected one of a string or array of objects, but got null instead.",
        USER,
        {"role": "developer", "content": None},
    ),
    _said("messages[1].content", "invalid_type", None, {"role": "user"}, {"role": "user", "content": 7}),
    _said(
        "messages[0].name",
        "invalid_value",
        "Invalid 'messages[0].name': string does not match pattern. "
        "Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'.",
        USER | {"name": "a b"},
    ),
    _said("messages[0].name", "string_above_max_length", None, USER | {"name": "a" * 65}),
]

PARTS = [
    _said("messages[0].content[0]", "invalid_type", None, {"role": "user", "content": ["x"]}),
    _said("messages[0].content[1].type", "missing_required_parameter", None, {"role": "user", "content": [_PART, {}]}),
    _said(
        "messages[0].content[1].type",
        "invalid_value",
        "Invalid value: 'video'. Supported values are: 'text', 'image_url', 'input_audio', and 'file'.",
        {"role": "user", "content": [_PART, {"type": "video"}]},
    ),
    _said(
        "messages[0].content[0].text",
        "missing_required_parameter",
        None,
        {"role": "user", "content": [{"type": "text"}]},
    ),
    _said("messages[0].content[0].x", "unknown_parameter", None, {"role": "user", "content": [_PART | {"x": 1}]}),
    _said(
        "messages[0].content[0].type",
        None,
        "Invalid content type. image_url is only supported by certain models.",
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]},
    ),
    _said(
        "messages[0].content[0].image_url.detail",
        "invalid_value",
        None,
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:", "detail": "x"}}]},
    ),
    _said(
        "messages[0].content[0].type",
        "invalid_value",
        None,
        {"role": "system", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]},
    ),
    _said(
        "messages[0].content[0].prompt_cache_breakpoint",
        "unsupported_parameter",
        None,
        {"role": "user", "content": [_PART | {"prompt_cache_breakpoint": {"mode": "explicit"}}]},
    ),
    _said("messages[0].audio", "unsupported_parameter", None, {"role": "assistant", "audio": {"id": "a"}}),
]

HISTORY = [
    _said(
        "messages.[1].role",
        None,
        "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with 'tool_calls'.",
        USER,
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
    ),
    _said(
        "messages",
        None,
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. "
        "The following tool_call_ids did not have response messages: c1",
        USER,
        {"role": "assistant", "tool_calls": [CALL]},
        USER,
    ),
    _said("messages", None, None, USER, {"role": "assistant", "tool_calls": [CALL]}),
    _said(
        "messages.[2].tool_call_id",
        None,
        None,
        USER,
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "other", "content": "1"},
    ),
    _said("messages.[1].tool_calls.[1].id", None, None, USER, {"role": "assistant", "tool_calls": [CALL, CALL]}),
    _said(
        "messages[1].tool_calls",
        "empty_array",
        _EMPTY.format("messages[1].tool_calls"),
        USER,
        {"role": "assistant", "content": "x", "tool_calls": []},
    ),
    _said(
        "messages[0].tool_calls[0].type", "missing_required_parameter", None, {"role": "assistant", "tool_calls": [{}]}
    ),
    _said(
        "messages[0].tool_calls[0].function.arguments",
        "missing_required_parameter",
        None,
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"}}]},
    ),
    _said("messages[0].tool_call_id", "missing_required_parameter", None, {"role": "tool", "content": "1"}),
    _said(
        "messages.[1].function_call",
        None,
        "Invalid parameter: an assistant message calls in 'tool_calls' or in the older 'function_call', not in both.",
        USER,
        {"role": "assistant", "tool_calls": [CALL], "function_call": CALL["function"]},
        {"role": "tool", "tool_call_id": "c1", "content": "x"},
    ),
]

TOOLS = [
    _typed("tools", "an array of objects", "a string", tools="none"),
    _chat("tools", "empty_array", _EMPTY.format("tools"), tools=[]),
    _chat("tools", "array_above_max_length", tools=[TOOL] * 129),
    _chat("tools[0].type", "invalid_value", tools=[{"type": "x"}]),
    _chat("tools[0].function", "missing_required_parameter", tools=[{"type": "function"}]),
    _chat("tools[0].function.name", "missing_required_parameter", tools=[{"type": "function", "function": {}}]),
    _chat(
        "tools[0].function.name",
        "empty_string",
        "Invalid 'tools[0].function.name': empty string. Expected a string with minimum length 1, "
        "but got an empty string instead.",
        tools=[_function(name="")],
    ),
    _chat("tools[0].function.name", "invalid_value", tools=[_function(name="a.b")]),
    _chat("tools[0].function.name", "string_above_max_length", tools=[_function(name="a" * 65)]),
    _chat("tools[1].function.name", "invalid_value", tools=[TOOL, TOOL]),
    _chat("tools[0].function.strict", "invalid_type", tools=[_function(strict="yes")]),
    _chat(
        "tools[0].function.parameters",
        "invalid_function_parameters",
        "Invalid schema for function 'f': schema must be a JSON Schema of 'type: \"object\"', got 'type: \"array\"'.",
        tools=[_function(parameters={"type": "array"})],
    ),
    _chat(
        "tools[0].function.parameters",
        "invalid_function_parameters",
        "Invalid schema for function 'f': In context=(), 'additionalProperties' is required to be supplied and to be false.",
        tools=[_function(parameters={"type": "object", "properties": {}}, strict=True)],
    ),
    _chat("functions[0].parameters", "invalid_function_parameters", functions=[{"name": "f", "parameters": {}}]),
    _chat(
        "tools[0].custom.format.grammar.syntax",
        "invalid_value",
        tools=[
            {
                "type": "custom",
                "custom": {
                    "name": "c",
                    "format": {"type": "grammar", "grammar": {"syntax": "ebnf", "definition": "x"}},
                },
            }
        ],
    ),
    _chat(
        "tool_choice",
        None,
        "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified.",
        tool_choice="none",
    ),
    _chat(
        "parallel_tool_calls",
        None,
        "Invalid value for 'parallel_tool_calls': 'parallel_tool_calls' is only allowed when 'tools' are specified.",
        parallel_tool_calls=False,
    ),
    _typed(
        "tool_choice",
        "one of one of 'none', 'auto', or 'required' or object",
        "an integer",
        tools=[TOOL],
        tool_choice=7,
    ),
    _chat(
        "tool_choice",
        "invalid_value",
        "Invalid value: 'bogus'. Supported values are: 'none', 'auto', and 'required'.",
        tools=[TOOL],
        tool_choice="bogus",
    ),
    _chat(
        "tool_choice.function.name",
        "missing_required_parameter",
        tools=[TOOL],
        tool_choice={"type": "function", "function": {}},
    ),
    _chat(
        "function_call",
        None,
        "Invalid value for 'function_call': no function named 'g' was specified in the 'functions' parameter.",
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "g"}},
    ),
    _chat("tool_choice", None, tools=[TOOL], tool_choice={"type": "custom", "custom": {"name": "f"}}),
    _chat(
        "tool_choice.allowed_tools.tools",
        "empty_array",
        tools=[TOOL],
        tool_choice={"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
    ),
    _typed("functions", "an array of function definitions", "a string", functions="x"),
    _chat("functions[0].name", "missing_required_parameter", functions=[{"parameters": {}}]),
    _chat("functions[1].name", "invalid_value", functions=[{"name": "f"}, {"name": "f"}]),
    _chat("functions", None, functions=[{"name": "f"}], tools=[TOOL]),
    _chat("function_call", None, function_call="auto"),
    _chat("function_call.name", "missing_required_parameter", functions=[{"name": "f"}], function_call={}),
]

NUMBERS = [
    _typed("n", "an integer", "a string", n="2"),
    _typed("n", "an integer", "a boolean", n=True),
    _typed("n", "an integer", "a decimal number", n=1.0),
    _chat(
        "n",
        "integer_below_min_value",
        "Invalid 'n': integer below minimum value. Expected a value >= 1, but got 0 instead.",
        n=0,
    ),
    _chat(
        "n",
        "integer_above_max_value",
        "Invalid 'n': integer above maximum value. Expected a value <= 128, but got 129 instead.",
        n=129,
    ),
    _typed("temperature", "a decimal", "a string", temperature="hot"),
    _typed("temperature", "a decimal", "a boolean", temperature=False),
    _chat(
        "temperature",
        "decimal_above_max_value",
        "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 200 instead.",
        temperature=200,
    ),
    _chat("temperature", "decimal_below_min_value", temperature=-0.1),
    _chat("top_p", "decimal_above_max_value", top_p=1.01),
    _chat("presence_penalty", "decimal_below_min_value", presence_penalty=-2.5),
    _chat("frequency_penalty", "decimal_above_max_value", frequency_penalty=3),
    _typed("seed", "an integer", "a decimal number", seed=1.5),
    _chat("seed", "integer_above_max_value", seed=2**63),
    _chat("max_completion_tokens", "integer_below_min_value", max_completion_tokens=0),
    _chat("max_tokens", "integer_below_min_value", max_tokens=-1),
    _chat("max_tokens", "invalid_parameter_combination", max_tokens=1, max_completion_tokens=1),
    _typed("logprobs", "a boolean", "an integer", logprobs=1),
    _chat("top_logprobs", "integer_above_max_value", logprobs=True, top_logprobs=21),
    _chat(
        "top_logprobs",
        None,
        "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.",
        top_logprobs=1,
    ),
    _typed("logit_bias", "an object", "an array", logit_bias=[]),
    _chat("logit_bias.5", "decimal_above_max_value", logit_bias={"5": 101}),
    _chat(
        "logit_bias",
        None,
        "Invalid key in 'logit_bias': a. You should only be submitting non-negative integers.",
        logit_bias={"a": 1},
    ),
    _chat("logit_bias", None, "Invalid key in 'logit_bias': 07 names a token twice.", logit_bias={"7": 1, "07": -1}),
    _chat("logit_bias", None, logit_bias={"9" * 5_000: 1}),
]

OPTIONS = [
    _typed("stop", "one of a string or array of strings", "an integer", stop=3),
    _chat(
        "stop",
        "array_above_max_length",
        "Invalid 'stop': array too long. Expected an array with maximum length 4, "
        "but got an array with length 14 instead.",
        stop=["a"] * 14,
    ),
    _typed("stop[1]", "a string", "null", stop=["a", None]),
    _chat("stop", "empty_string", stop=""),
    _typed("stream", "a boolean", "a string", stream="yes"),
    _chat(
        "stream_options",
        None,
        "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
        stream_options={"include_usage": True},
    ),
    _chat("stream_options.bogus", "unknown_parameter", stream=True, stream_options={"bogus": 1}),
    _typed("user", "a string", "an object", user={"a": 1}),
    _chat("safety_identifier", "string_above_max_length", safety_identifier="a" * 65),
    _typed("metadata", "a metadata object", "a string", metadata="x"),
    _chat(
        "metadata",
        "object_above_max_properties",
        "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, "
        "but got an object with 17 properties instead.",
        metadata={str(key): "x" for key in range(17)},
    ),
    _chat("metadata.k", "string_above_max_length", metadata={"k": "x" * 600}),
    _chat("metadata." + "k" * 70, "property_name_above_max_length", metadata={"k" * 70: "v"}),
    _typed("metadata.k", "a string", "an integer", metadata={"k": 7}),
    _chat(
        "service_tier",
        "invalid_value",
        "Invalid value: 'bogus'. Supported values are: 'auto', 'default', 'fast', 'flex', and 'priority'.",
        service_tier="bogus",
    ),
    _typed("prompt_cache_retention", "one of 'in_memory' or '24h'", "an object", prompt_cache_retention={}),
    _chat("prompt_cache_retention", None, "Invalid prompt_cache_retention argument", prompt_cache_retention="x"),
    _typed("prompt_cache_key", "a string", "an integer", prompt_cache_key=1),
    _chat("verbosity", "invalid_value", verbosity="bogus"),
    _chat("reasoning_effort", "invalid_value", reasoning_effort="bogus"),
]

REFUSED = [
    _chat("prompt_cache_retention", "unsupported_value", prompt_cache_retention="24h"),
    _chat("modalities[1]", "unsupported_value", modalities=["text", "audio"]),
    _chat("audio", "unsupported_parameter", audio={"voice": "alloy", "format": "wav"}),
    _chat(
        "prediction",
        "unsupported_parameter",
        "Unsupported parameter: 'prediction' is not supported with this model.",
        prediction={"type": "content", "content": "x"},
    ),
    _chat("web_search_options", "unsupported_parameter", web_search_options={}),
    _chat("moderation", "unsupported_parameter", moderation={"model": "omni-moderation-latest"}),
    _chat("moderation.model", "missing_required_parameter", moderation={}),
    _chat("prompt_cache_options.ttl", "unsupported_parameter", prompt_cache_options={"ttl": "30m"}),
    _chat("prompt_cache_options.ttl", "invalid_value", prompt_cache_options={"ttl": "12h"}),
    _chat("prompt_cache_options.mode", "unsupported_value", prompt_cache_options={"mode": "explicit"}),
    _chat("prompt_cache_options.prewarm", "unknown_parameter", prompt_cache_options={"prewarm": True}),
    _chat("n", "integer_below_min_value", prediction={"type": "content", "content": "x"}, n=0),
]

FORMATS = [
    _typed("response_format", "an object", "a string", response_format="json"),
    _chat("response_format.type", "missing_required_parameter", response_format={}),
    _chat(
        "response_format.type",
        "invalid_value",
        "Invalid value: 'bogus'. Supported values are: 'json_object', 'json_schema', and 'text'.",
        response_format={"type": "bogus"},
    ),
    _chat("response_format.json_schema", "missing_required_parameter", response_format={"type": "json_schema"}),
    _chat(
        "response_format.json_schema.name",
        "missing_required_parameter",
        response_format={"type": "json_schema", "json_schema": {}},
    ),
    _chat(
        "response_format.json_schema.name",
        "invalid_value",
        response_format={"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}},
    ),
    _chat(
        "response_format.json_schema.schema",
        "missing_required_parameter",
        response_format={"type": "json_schema", "json_schema": {"name": "a"}},
    ),
    _chat(
        "messages",
        None,
        "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.",
        response_format={"type": "json_object"},
    ),
    _strict("", "schema must be a JSON Schema of 'type: \"object\"', got 'type: \"array\"'.", type="array"),
    _strict("()", "'additionalProperties' is required to be supplied and to be false.", additionalProperties=...),
    _strict(
        "()",
        "'required' is required to be supplied and to be an array including every key in properties. Missing 'x'.",
        properties={"x": {"type": "string"}},
    ),
    _strict("('properties', 'x')", "schema must have a 'type' key.", properties={"x": {}}, required=["x"]),
    _strict(
        "('properties', 'x')", "'not' is not permitted.", properties={"x": {"not": {"type": "null"}}}, required=["x"]
    ),
    _strict(
        "('properties', 'x')",
        "'uri' is not a valid format.",
        properties={"x": {"type": "string", "format": "uri"}},
        required=["x"],
    ),
    _strict("('properties', 'x')", "array schema missing items.", properties={"x": {"type": "array"}}, required=["x"]),
    _strict("", "14 levels of nesting exceeds limit of 10.", **_nested(14)),
]

COMPLETIONS = [
    _text(None, None, _WITHOUT_MODEL, model=...),
    _text("prompt", "missing_required_parameter", prompt=...),
    _text("prompt", "invalid_type", prompt=3),
    _text("prompt", "invalid_value", prompt=[]),
    _text("prompt", "invalid_value", prompt=["a", 1]),
    _text("prompt", "invalid_value", prompt=[1, -1]),
    _text("messages", "unknown_parameter", messages=[]),
    _text("logprobs", "integer_above_max_value", logprobs=6),
    _text("logprobs", "invalid_type", logprobs=True),
    _text("max_tokens", "integer_below_min_value", max_tokens=-1),
    _text("best_of", None, n=2, best_of=1),
    _text("best_of", "integer_above_max_value", best_of=21),
    _text("best_of", None, best_of=2, stream=True),
    _text("echo", "invalid_type", echo="yes"),
    _text("suffix", "invalid_type", suffix=1),
    _text("echo", "invalid_parameter_combination", suffix="x", echo=True, logprobs=0),
    _text("stream_options", None, stream_options={}),
]

EMBEDDINGS = [
    _embed(None, None, _WITHOUT_MODEL, model=...),
    _embed(None, None, "Please submit an `input`.", input=...),
    _embed(None, None, _INPUT, input=""),
    _embed(None, None, _INPUT, input=[]),
    _embed(None, None, _INPUT, input=["a", ""]),
    _embed(None, None, _INPUT, input=["a"] * 2049),
    _embed(None, None, _INPUT, input=[["a"]]),
    _embed(None, None, _INPUT, input={"text": "a"}),
    _embed("dimensions", "integer_below_min_value", dimensions=0),
    _embed("dimensions", "invalid_type", dimensions="8"),
    _embed("encoding_format", "invalid_value", encoding_format="int8"),
    _embed("user", "invalid_type", user=1),
    _embed("truncate", "unknown_parameter", truncate=True),
]

ALL = [
    *BODIES,
    *MESSAGES,
    *PARTS,
    *HISTORY,
    *TOOLS,
    *NUMBERS,
    *OPTIONS,
    *REFUSED,
    *FORMATS,
    *COMPLETIONS,
    *EMBEDDINGS,
]
