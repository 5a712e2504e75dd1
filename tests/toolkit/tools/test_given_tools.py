"""Tools that are not made of a signature: of a JSON Schema, of text, of a class."""

import json
from collections.abc import Mapping
from typing import Any

import httpx2
import pytest
from tests.toolkit.scripted_endpoint import Endpoint, answer, usage

from antiphon import Chat, SchemaError, Tool, ToolOptions
from antiphon.toolkit.record import ToolCall

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "The city name"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city"],
}


def weather(city: str, unit: str = "celsius") -> str:
    return f"20 {unit} in {city}"


def written(*calls: dict[str, Any]) -> Any:
    """Answer with calls in the API's form, streamed in two pieces each if asked for so."""

    def respond(request: dict[str, Any]) -> httpx2.Response:
        head = {"id": "c", "created": 1, "model": "m"}
        message = {"role": "assistant", "content": None, "tool_calls": list(calls)}
        if not request.get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
            return httpx2.Response(
                200, json={**head, "object": "chat.completion", "choices": [choice], "usage": usage()}
            )
        deltas: list[dict[str, Any]] = []
        for index, call in enumerate(calls):
            text = call["custom"]["input"]
            start, rest = {**call["custom"], "input": text[:2]}, {"input": text[2:]}
            deltas += [{"index": index, **call, "custom": start}, {"index": index, "custom": rest}]
        chunks = [{"delta": {"tool_calls": [delta]}, "finish_reason": None} for delta in deltas]
        chunks.append({"delta": {}, "finish_reason": "tool_calls"})
        lines = [{**head, "object": "chat.completion.chunk", "choices": [{"index": 0, **chunk}]} for chunk in chunks]
        body = "".join(f"data: {json.dumps(line)}\n\n" for line in lines)
        return httpx2.Response(200, text=body, headers={"content-type": "text/event-stream"})

    return respond


def test_a_tool_that_exists_as_json_is_paired_with_a_function(endpoint: Endpoint) -> None:
    """The definition is sent as it was written, and the function gets the arguments by name."""
    made = Tool.of_schema("get_weather", "Current weather", WEATHER, call=weather)
    endpoint.replies[:] = [answer(None, calls=[("1", "get_weather", '{"city": "Oslo"}')]), answer("20 degrees")]
    reply = Chat(client=endpoint.client(), tools=[made], context_tokens=1000).send("weather?")
    assert endpoint.requests[0]["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "Current weather",
                "parameters": WEATHER,
                "strict": False,
            },
        }
    ]
    assert reply.tool_results[0].content == "20 celsius in Oslo"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("{", "not called: Expecting"),
        ("[1]", "arguments are a JSON object"),
        ("{}", "'city' is a required property"),
        ('{"city": 5}', "city: 5 is not of type 'string'"),
        ('{"city": "a", "unit": "kelvin"}', "unit: 'kelvin' is not one of"),
    ],
)
def test_arguments_that_the_schema_does_not_allow_go_back_to_the_model(
    endpoint: Endpoint, arguments: str, why: str
) -> None:
    """The function is not called, and the result names the place and the problem."""
    made = Tool.of_schema("get_weather", "", WEATHER, call=weather)
    endpoint.replies[:] = [answer(None, calls=[("1", "get_weather", arguments)]), answer("sorry")]
    (result,) = Chat(client=endpoint.client(), tools=[made], context_tokens=1000).send("weather?").tool_results
    assert result.outcome == "invalid arguments"
    assert why in result.content


@pytest.mark.parametrize("schema", [{"type": "strnig"}, {"type": "array"}, {"properties": 5}])
def test_what_is_no_schema_of_an_object_is_refused_at_once(schema: dict[str, Any]) -> None:
    """A SchemaError names the tool."""
    with pytest.raises(SchemaError, match="the tool 'x'"):
        Tool.of_schema("x", "", schema, call=weather)


def test_a_reference_to_another_place_is_never_fetched() -> None:
    """A schema may come from a server that nobody trusts."""
    made = Tool.of_schema("x", "", {"properties": {"a": {"$ref": "http://127.0.0.1:9/schema"}}}, call=weather)
    with pytest.raises(ValueError, match="leads nowhere"):
        made.arguments('{"a": 1}')


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_custom_tool_gets_the_text_of_the_model(endpoint: Endpoint, is_streamed: bool) -> None:
    """The call and its result stay in the conversation, in the API's form."""
    asked = {"id": "1", "type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}}
    endpoint.replies[:] = [written(asked), answer("one")]
    made = Tool.of_text("sql", "Run a query", call=lambda text: f"ran {text}", regex="SELECT .*")
    chat = Chat(client=endpoint.client(), tools=[made], context_tokens=1000)
    if is_streamed:
        assert "".join(chat.stream("one?")) == "one"
    else:
        assert chat.send("one?").text == "one"
    grammar = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "SELECT .*"}}
    custom = {"name": "sql", "description": "Run a query", "format": grammar}
    assert endpoint.requests[0]["tools"] == [{"type": "custom", "custom": custom}]
    sent = endpoint.requests[1]["messages"][1:]
    assert sent == [
        {"role": "assistant", "content": None, "tool_calls": [asked]},
        {"role": "tool", "tool_call_id": "1", "content": "ran SELECT 1"},
    ]
    assert "`sql(SELECT 1)`" in chat.to_markdown()
    assert chat.count_tokens().tokens > 10


def test_a_grammar_and_a_regex_exclude_each_other() -> None:
    """One text has one form."""
    with pytest.raises(SchemaError, match="both a grammar and a regex"):
        Tool.of_text("x", "", call=str, regex="a", grammar="start: A")


def test_a_call_of_a_custom_tool_that_nobody_gave_is_answered(endpoint: Endpoint) -> None:
    """No call is left without a result, which no API accepts."""
    asked = {"id": "1", "type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}}
    endpoint.replies[:] = [written(asked), answer("sorry")]
    Chat(client=endpoint.client(), context_tokens=1000).send("one?")
    assert [message["role"] for message in endpoint.requests[1]["messages"]] == ["user", "assistant", "tool"]
    assert endpoint.requests[1]["messages"][1]["tool_calls"] == [asked]


def test_a_class_of_the_application_is_a_tool(endpoint: Endpoint) -> None:
    """What it needs is a name, a definition, options and two methods."""

    class Remote(Tool):
        def __init__(self) -> None:
            self.name = "remote"
            self.options = ToolOptions(timeout_s=5, needs_approval=True)
            self.definition = {"type": "function", "function": {"name": "remote", "parameters": {"type": "object"}}}

        def arguments(self, text: str) -> Any:
            return json.loads(text)

        async def call(self, arguments: Mapping[str, Any]) -> Any:
            return {"got": arguments}

    seen: list[ToolCall] = []
    endpoint.replies[:] = [answer(None, calls=[("1", "remote", '{"a": 1}')]), answer("done")]
    chat = Chat(
        client=endpoint.client(),
        tools=[Remote()],
        approve=lambda call: not seen.append(call),
        context_tokens=1000,
    )
    assert chat.send("go").tool_results[0].value == {"got": {"a": 1}}
    assert [call.name for call in seen] == ["remote"]
