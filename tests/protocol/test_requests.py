"""Requests become values, with every default in its place."""

from typing import Any

import pytest

from antiphon.protocol import ApiError, decode_json, parse_chat, parse_completion, parse_embedding
from antiphon.protocol.chat import (
    ChatRequest,
    FunctionCall,
    JsonObjectFormat,
    JsonSchemaFormat,
    Tool,
    ToolCall,
    ToolChoice,
)

USER = {"role": "user", "content": "hi"}


def chat(**fields: Any) -> ChatRequest:
    return parse_chat({"model": "m", "messages": [USER]} | fields)


def test_null_means_the_default() -> None:
    """A field that may be null is as good as absent when it is."""
    names = ("temperature", "top_p", "n", "stop", "max_tokens", "logprobs", "stream", "seed", "logit_bias", "metadata")
    given, absent = chat(**dict.fromkeys(names)), chat()
    assert given.sampling == absent.sampling
    assert (given.n, given.stop, given.max_tokens, given.stream) == (1, (), None, False)


def test_sampling_is_read() -> None:
    """Numbers may be whole, and bias keys become token ids."""
    request = chat(temperature=0, top_p=1, seed=-3, logit_bias={"17": -100}, stop="END", max_completion_tokens=5)
    assert request.sampling.temperature == 0.0
    assert request.sampling.logit_bias == {17: -100.0}
    assert request.sampling.seed == -3
    assert request.stop == ("END",)
    assert request.max_tokens == 5


def test_parts_are_joined() -> None:
    """Text parts of one message become one text; a refusal part becomes the refusal."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    refused = {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}
    request = chat(messages=[{"role": "user", "content": parts}, refused, USER])
    assert request.messages[0].content == "ab"
    assert (request.messages[1].content, request.messages[1].refusal) == (None, "no")
    both = chat(messages=[USER, refused | {"refusal": "never"}]).messages[1]
    assert both.refusal == "nonever"


def test_the_word_json_is_found_across_parts() -> None:
    """Parts are joined without anything between, and looked at as the model reads them."""
    parts = [{"type": "text", "text": "As JS"}, {"type": "text", "text": "ON."}]
    assert chat(messages=[{"role": "user", "content": parts}], response_format={"type": "json_object"}).response_format


def test_an_answer_can_be_sent_back_as_it_came() -> None:
    """What the client serialises of an answer's message is a valid message of the next request."""
    answer = {"role": "assistant", "content": "x", "refusal": None, "annotations": [], "reasoning_content": "hm"}
    assert chat(messages=[USER, answer, USER]).messages[1].reasoning_content == "hm"


def test_tools_and_their_history() -> None:
    """Tools, calls and results keep names, ids, arguments and kinds."""
    function = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}
    grammar = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "[a-z]+"}}
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    custom = {"id": "c2", "type": "custom", "custom": {"name": "g", "input": "abc"}}
    request = chat(
        messages=[
            USER,
            {"role": "assistant", "tool_calls": [call, custom]},
            {"role": "tool", "tool_call_id": "c2", "content": "2"},
            {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "1"}]},
        ],
        tools=[
            {"type": "function", "function": function},
            {"type": "custom", "custom": {"name": "g", "format": grammar}},
        ],
        tool_choice={"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [custom_choice("g")]}},
        parallel_tool_calls=False,
    )
    assert request.tools[0] == Tool("f", "d", {"type": "object", "properties": {}})
    assert request.tools[1] == Tool("g", kind="custom", grammar=("regex", "[a-z]+"))
    assert request.tool_choice == ToolChoice("required", ("g",))
    assert request.parallel_tool_calls is False
    assert request.messages[1].tool_calls == (
        ToolCall("c1", FunctionCall("f", "{}")),
        ToolCall("c2", FunctionCall("g", "abc"), "custom"),
    )
    assert [message.tool_call_id for message in request.messages[2:]] == ["c2", "c1"]


def custom_choice(name: str) -> dict[str, Any]:
    return {"type": "custom", "custom": {"name": name}}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolChoice("auto")),
        ("none", ToolChoice("none")),
        ({"name": "f"}, ToolChoice("required", ("f",))),
    ],
)
def test_older_functions_are_tools(choice: Any, expected: Any) -> None:
    """``functions`` and ``function_call`` are read into the same values, one call at a time."""
    asked = {"function_call": choice} if choice else {}
    called = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    result = {"role": "function", "name": "f", "content": "1"}
    request = chat(messages=[USER, called, result], functions=[{"name": "f"}], **asked)
    assert request.legacy_functions
    assert not request.parallel_tool_calls
    assert request.tool_choice == expected
    assert request.messages[1].tool_calls[0].id == request.messages[2].tool_call_id


def test_response_formats() -> None:
    """Text is no constraint; JSON mode and schemas are values of their own."""
    schema = {"type": "object", "properties": {}, "additionalProperties": False, "required": []}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    assert chat(response_format={"type": "text"}).response_format is None
    assert chat(response_format=wanted).response_format == JsonSchemaFormat("x", schema, strict=True)
    in_json = chat(messages=[{"role": "user", "content": "as JSON"}], response_format={"type": "json_object"})
    assert in_json.response_format == JsonObjectFormat()


def test_stream_options() -> None:
    """Options of the stream are read where there is one."""
    request = chat(stream=True, stream_options={"include_usage": True})
    assert request.include_usage
    assert not request.include_obfuscation


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a", ("a",)),
        (["a", ""], ("a", "")),
        ([1, 2], ((1, 2),)),
        ([[1], [2, 3]], ((1,), (2, 3))),
        (None, ("",)),
    ],
)
def test_prompts(given: Any, expected: Any) -> None:
    """A prompt is a text or token ids, alone or several; null is the beginning of a document."""
    assert parse_completion({"model": "m", "prompt": given}).prompts == expected


def test_completion_defaults() -> None:
    """``best_of`` follows ``n``, and 16 tokens are the older default; zero tokens are possible."""
    request = parse_completion({"model": "m", "prompt": "a", "n": 2})
    assert (request.n, request.best_of, request.max_tokens, request.logprobs) == (2, 2, 16, None)
    request = parse_completion({"model": "m", "prompt": "a", "max_tokens": 0, "logprobs": 0, "echo": True})
    assert (request.max_tokens, request.logprobs, request.echo) == (0, 0, True)


def test_embedding_request() -> None:
    """Inputs come in the same four forms, and nothing else is needed."""
    request = parse_embedding({"model": "m", "input": ["a", "b"], "encoding_format": "base64", "dimensions": 8})
    assert (request.inputs, request.encoding_format, request.dimensions) == (("a", "b"), "base64", 8)


def test_bodies_are_decoded() -> None:
    """UTF-8 JSON under its own content type, with parameters or without."""
    assert decode_json('{"a": ["é", 1e3]}'.encode(), "application/json; charset=utf-8") == {"a": ["é", 1000.0]}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"a":1,"a":2}',
        b'{"a":NaN}',
        b'{"a":1e999}',
        b'{"a":"\\ud800"}',
        b'"\xff"',
        b"\xef\xbb\xbf{}",
        b"[" * 129 + b"]" * 129,
        b"[" * 100_000,
        b"9" * 5000,
    ],
)
def test_what_is_no_json_is_refused(body: Any) -> None:
    """Whatever JSON libraries disagree about is a 400, never a fault."""
    with pytest.raises(ApiError) as caught:
        decode_json(body, "application/json")
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, None, None)


def test_deep_but_not_too_deep() -> None:
    """128 levels are decoded."""
    assert decode_json(b"[" * 128 + b"]" * 128, "application/json")


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "application/json; charset=latin-1"])
def test_other_content_types_are_refused(content_type: Any) -> None:
    """Only JSON is read: a page from elsewhere cannot send that without asking first."""
    with pytest.raises(ApiError) as caught:
        decode_json(b"{}", content_type)
    assert caught.value.status == 415
