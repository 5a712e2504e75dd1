"""Answers of every helper of the official client, appended to the history as they are, and sent back."""

from collections.abc import Callable, Generator, Iterator
from typing import Any

import msgspec
import openai
import pytest
from pydantic import BaseModel
from structlog.testing import CapturingLogger
from tests.serving import running
from tests.waiting import wait_until

from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Pattern, Reply, Script, ScriptedCall
from antiphon.protocol import parse_chat
from antiphon.protocol.chat import Message

MODEL = "gpt-4o-mini"


class Weather(BaseModel):
    """What is known of a city's weather."""

    city: str
    degrees: int


WEATHER = '{"city": "Oslo", "degrees": 3}'
SCRIPT = Script(
    models=(MODEL,),
    replies=(
        Reply(match=Pattern(last_message="call"), tool_calls=(ScriptedCall("Weather", WEATHER), ScriptedCall("Weather", WEATHER))),
        Reply(match=Pattern(last_message="schema"), text=WEATHER),
        Reply(match=Pattern(last_message="refuse"), refusal="No."),
        Reply(text="Hello."),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Generator[openai.OpenAI]:
    with (
        running(ScriptedBackend(SCRIPT), tmp_path_factory.mktemp("home")) as up,
        openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as made,
    ):
        yield made


def asked(text: str) -> dict[str, Any]:
    """Return the arguments that every helper takes."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}]}


def by_create(client: Any, text: str) -> Any:
    return client.chat.completions.create(**asked(text), tools=tools(text)).choices[0].message


def by_raw_response(client: Any, text: str) -> Any:
    raw = client.chat.completions.with_raw_response.create(**asked(text), tools=tools(text))
    return raw.parse().choices[0].message


def by_streaming_response(client: Any, text: str) -> Any:
    with client.chat.completions.with_streaming_response.create(**asked(text), tools=tools(text)) as response:
        return response.parse().choices[0].message


def by_parse(client: Any, text: str) -> Any:
    return client.chat.completions.parse(**asked(text), **formed(text)).choices[0].message


def by_stream(client: Any, text: str) -> Any:
    with client.chat.completions.stream(**asked(text), **formed(text)) as stream:
        stream.until_done()
        return stream.get_final_completion().choices[0].message


def by_snapshot(client: Any, text: str) -> Any:
    with client.chat.completions.stream(**asked(text), **formed(text)) as stream:
        stream.until_done()
        return stream.current_completion_snapshot.choices[0].message


def tools(text: str) -> Any:
    return [openai.pydantic_function_tool(Weather)] if text == "call" else openai.omit


def formed(text: str) -> dict[str, Any]:
    if text == "schema":
        return {"response_format": Weather}
    return {"tools": tools(text)} if text == "call" else {}


HELPERS = [by_create, by_raw_response, by_streaming_response, by_parse, by_stream, by_snapshot]
FORMS: dict[str, Callable[[Any], Any]] = {
    "the object": lambda message: message,
    "to_dict": lambda message: message.to_dict(),
    "model_dump": lambda message: message.model_dump(),
    "model_dump of JSON": lambda message: message.model_dump(mode="json"),
    "model_dump without null": lambda message: message.model_dump(exclude_none=True),
    "model_dump of what was set": lambda message: message.model_dump(exclude_unset=True),
}


def results(message: Any) -> Iterator[dict[str, str]]:
    for call in message.tool_calls or ():
        yield {"role": "tool", "tool_call_id": call.id, "content": "3 degrees"}


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("helper", HELPERS)
@pytest.mark.parametrize("text", ["plain", "call", "schema", "refuse"])
def test_an_answer_can_be_sent_back(
    client: openai.OpenAI, helper: Callable[[Any, str], Any], form: str, text: str
) -> None:
    """Whatever helper made the message, and however it was put into the history: the next request is answered."""
    message = helper(client, text)
    history: Any = [
        *asked(text)["messages"],
        FORMS[form](message),
        *results(message),
        {"role": "user", "content": "and?"},
    ]
    answer = client.chat.completions.create(model=MODEL, messages=history, tools=tools(text))
    assert answer.choices[0].message.content == "Hello."


def test_deltas_can_be_joined_and_sent_back(client: openai.OpenAI) -> None:
    """A program that joins the chunks by itself keeps the index of each call."""
    calls: dict[int, dict[str, Any]] = {}
    for chunk in client.chat.completions.create(**asked("call"), tools=tools("call"), stream=True):
        for delta in chunk.choices[0].delta.tool_calls or () if chunk.choices else ():
            call = calls.setdefault(delta.index, {})
            told = delta.model_dump(exclude_none=True)
            arguments = call.get("function", {}).get("arguments", "") + told["function"].get("arguments", "")
            call |= told | {"function": {**call.get("function", {}), **told["function"], "arguments": arguments}}
    message = {"role": "assistant", "tool_calls": list(calls.values())}
    answers = [{"role": "tool", "tool_call_id": call["id"], "content": "3"} for call in calls.values()]
    history: Any = [*asked("call")["messages"], message, *answers, {"role": "user", "content": "and?"}]
    assert client.chat.completions.create(model=MODEL, messages=history).choices[0].message.content == "Hello."


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("message", "added"),
    [
        ({"role": "assistant", "content": "x"}, {"parsed": {"a": [1, {"b": None}]}}),
        ({"role": "assistant", "content": "x"}, {"parsed": None, "annotations": None, "tool_calls": None}),
        ({"role": "assistant", "content": "x"}, {"provider_specific_fields": None, "reasoning_details": [{"a": 1}]}),
        ({"role": "assistant", "content": "x", "reasoning_content": "hm"}, {"reasoning": "hm"}),
        ({"role": "assistant", "content": "x", "reasoning_content": None}, {"reasoning": None}),
        ({"role": "assistant", "tool_calls": [CALL]}, {"tool_calls": [CALL | {"index": 0}]}),
        ({"role": "assistant", "tool_calls": [CALL]}, {"tool_calls": [CALL | {"provider_specific_fields": {"a": 1}}]}),
        (
            {"role": "assistant", "tool_calls": [CALL]},
            {"tool_calls": [CALL | {"function": {**CALL["function"], "provider_specific_fields": {"a": 1}}}]},  # type: ignore[dict-item]
        ),
        (
            {"role": "assistant", "tool_calls": [CALL]},
            {"tool_calls": [CALL | {"function": {**CALL["function"], "parsed_arguments": {"x": 1}}}]},  # type: ignore[dict-item]
        ),
    ],
)
def test_what_a_client_adds_says_nothing_to_the_model(message: dict[str, Any], added: dict[str, Any]) -> None:
    """The request is the same as without the field."""

    def read(said: dict[str, Any]) -> tuple[Message, ...]:
        user = {"role": "user", "content": "hi"}
        result = [{"role": "tool", "tool_call_id": "c1", "content": "1"}] if "tool_calls" in message else []
        return parse_chat({"model": "m", "messages": [user, said, *result, user]}).messages

    assert read(message | added) == read(message)


def test_a_list_that_guardrails_repeats_says_nothing_to_the_model() -> None:
    """``required`` next to a tool's schema is not the schema's own ``required``."""
    function = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}

    def read(added: dict[str, Any]) -> dict[str, Any]:
        tool = {"type": "function", "function": function | added}
        messages = [{"role": "user", "content": "hi"}]
        return msgspec.structs.asdict(parse_chat({"model": "m", "messages": messages, "tools": [tool]})) | {"raw": {}}

    assert read({"required": ["a"]}) == read({})


def test_hints_that_a_model_cannot_follow_are_recorded(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verbosity and effort do not change what an answer promises: it comes, and the request's log line has them."""
    hints: dict[str, Any] = {"verbosity": "low", "reasoning_effort": "minimal", "user": "u-1", "metadata": {"a": "b"}}
    logged = CapturingLogger()
    monkeypatch.setattr("antiphon.server.service.log", logged)
    with (
        running(ScriptedBackend(SCRIPT), tmp_path_factory.mktemp("hints")) as up,
        openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as made,
    ):
        client: Any = made
        plain = client.chat.completions.create(**asked("plain")).choices[0].message.content
        assert client.chat.completions.create(**asked("plain"), **hints).choices[0].message.content == plain
        wait_until(lambda: len(logged.calls) == 2)
    assert [call.kwargs.get("recorded") for call in logged.calls] == [None, hints]
