"""The compliance suite of Open Responses (specification of 2026-04-24): its HTTP cases that concern text.

Each case sends what the suite sends, and checks what the suite checks: the schema of the response and of each event, that
there is output of the expected type, and that the status is ``completed``.
"""

import json
from collections.abc import Generator
from typing import Any

import httpx2 as httpx
import msgspec
import pytest
from tests.conformance.open_responses import FunctionCallItem, Response, StreamingEvent
from tests.serving import running

from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Pattern, Reply, Script, ScriptedCall
from antiphon.protocol.responses import parse_response

MODEL = "gpt-4o-mini"
LOCATION = {"type": "string", "description": "The city and state, e.g. San Francisco, CA"}
GET_WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a location",
    "parameters": {"type": "object", "properties": {"location": LOCATION}, "required": ["location"]},
}
CALL = ScriptedCall(name="get_weather", arguments={"location": "San Francisco, CA"})
SCRIPT = Script(
    models=(MODEL,),
    replies=(
        Reply(match=Pattern(last_message="(?i)weather"), tool_calls=(CALL,)),
        Reply(match=Pattern(last_message="code word did I"), text="papaya"),
    ),
)
TEXT_CASES: dict[str, list[dict[str, str]]] = {
    "basic-response": [{"role": "user", "content": "Say hello in exactly 3 words."}],
    "streaming-response": [{"role": "user", "content": "Count from 1 to 5."}],
    "system-prompt": [
        {"role": "system", "content": "You are a pirate. Always respond in pirate speak."},
        {"role": "user", "content": "Say hello."},
    ],
    "multi-turn": [
        {"role": "user", "content": "My name is Alice."},
        {"role": "assistant", "content": "Hello Alice! Nice to meet you. How can I help you today?"},
        {"role": "user", "content": "What is my name?"},
    ],
}
WEATHER_QUESTION = [{"type": "message", "role": "user", "content": "What's the weather like in San Francisco?"}]


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Generator[httpx.Client]:
    with (
        running(ScriptedBackend(SCRIPT), tmp_path_factory.mktemp("home")) as up,
        httpx.Client(base_url=up.url, headers={"Authorization": "Bearer sk-test"}) as client,
    ):
        yield client


def created(http: httpx.Client, **body: Any) -> Response:
    answer = http.post("/responses", json={"model": MODEL, "stream": False, **body})
    assert answer.status_code == 200, answer.text
    return msgspec.convert(answer.json(), Response, strict=True)


def streamed(http: httpx.Client, **body: Any) -> tuple[Response, list[dict[str, Any]]]:
    """Return the response of the last event, and all events; each is checked against its schema."""
    answer = http.post("/responses", json={"model": MODEL, "stream": True, **body})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    events: list[dict[str, Any]] = []
    for frame in answer.text.strip().split("\n\n"):
        name, data = frame.split("\n", 1)
        value = json.loads(data.removeprefix("data: "))
        assert name == f"event: {value['type']}"
        msgspec.convert(value, StreamingEvent, strict=True)
        events.append(value)
    assert events[-1]["type"] == "response.completed"
    return msgspec.convert(events[-1]["response"], Response, strict=True), events


@pytest.mark.parametrize("case", TEXT_CASES)
def test_text(http: httpx.Client, case: str) -> None:
    """basic-response, streaming-response, system-prompt, multi-turn, each both whole and streamed."""
    items = [{"type": "message", **message} for message in TEXT_CASES[case]]
    whole, (final, _) = created(http, input=items), streamed(http, input=items)
    for response in (whole, final):
        assert response.output
        assert response.status == "completed"


def test_tool_calling(http: httpx.Client) -> None:
    """tool-calling: a function that is defined is called."""
    response = created(http, input=WEATHER_QUESTION, tools=[GET_WEATHER])
    assert any(isinstance(item, FunctionCallItem) for item in response.output)


def test_tool_calling_streaming(http: httpx.Client) -> None:
    """tool-calling-streaming: the call is added, its arguments come in deltas, and both are done."""
    _, events = streamed(http, input=WEATHER_QUESTION, tools=[GET_WEATHER])
    kinds = [event["type"] for event in events]
    assert {"response.function_call_arguments.delta", "response.function_call_arguments.done"} <= set(kinds)
    of_items = [(event["type"], event["item"]["type"]) for event in events if "item" in event]
    assert of_items == [(f"response.output_item.{state}", "function_call") for state in ("added", "done")]


def test_function_call_roundtrip(http: httpx.Client) -> None:
    """function-call-roundtrip: the call's output continues the stored response, without the tools."""
    asked = "Use the weather tool to get the temperature in San Francisco."
    choice = {"type": "function", "name": "get_weather"}
    first = created(http, input=asked, tools=[GET_WEATHER], tool_choice=choice)
    call = next(item for item in first.output if isinstance(item, FunctionCallItem))
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "64 degrees and clear"}
    second = created(http, previous_response_id=first.id, input=[output])
    assert second.output
    assert (second.status, second.previous_response_id) == ("completed", first.id)


def test_previous_response_id(http: httpx.Client) -> None:
    """previous-response-id: the second turn knows the first."""
    first = created(http, input="Remember this code word: papaya. Reply with only OK.")
    second = created(http, previous_response_id=first.id, input="What code word did I ask you to remember?")
    assert second.output
    assert (second.status, second.previous_response_id) == ("completed", first.id)


def test_penalties_are_enforced(http: httpx.Client) -> None:
    """The penalties that the specification adds to OpenAI's fields reach the sampler, are echoed, and have a range."""
    parsed = parse_response({"model": MODEL, "input": "hi", "presence_penalty": 1.5, "frequency_penalty": -1})
    assert (parsed.chat.sampling.presence_penalty, parsed.chat.sampling.frequency_penalty) == (1.5, -1)
    response = created(http, input="hi", presence_penalty=1.5, frequency_penalty=-1)
    assert (response.presence_penalty, response.frequency_penalty) == (1.5, -1)
    assert http.post("/responses", json={"model": MODEL, "input": "hi", "presence_penalty": 3}).status_code == 400


def test_compact(http: httpx.Client) -> None:
    """``/responses/compact`` returns a compacted response of the specification."""
    answer = http.post("/responses/compact", json={"model": MODEL, "input": "My name is Alice."})
    assert answer.status_code == 200, answer.text
    value = answer.json()
    assert value["object"] == "response.compaction"
    assert [item["type"] for item in value["output"]] == ["message", "compaction"]
