"""Scripted answers: what an application gets, over every route and both clients."""

import asyncio
import contextlib
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

import antiphon
from antiphon.testing import ScriptedCall, ScriptedEndpoint, UnexpectedRequestError, answer, calls, error
from antiphon.testing.answers import Respond

SCRIPT = """
models = ["gpt-4o-mini"]
context_length = 4096

[[replies]]
match = { last_message = "(?i)weather" }
tool_calls = [{ name = "get_weather", arguments = { city = "Oslo" } }]

[[replies]]
match = { last_message = "story" }
text = "Once upon a time there was"
fault = "cut"
after = 4
"""
QUESTION = [{"role": "user", "content": "hi"}]


def ask(client: OpenAI, text: str = "hi", **options: object) -> openai.types.chat.ChatCompletion:
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="gpt-4o-mini", messages=messages, **options)


def test_a_tool_runs_between_two_scripted_answers(scripted: ScriptedEndpoint) -> None:
    """The application makes its own client; the journal shows the result that the model got."""
    scripted.answers(calls("get_weather", city="Oslo"), "It is sunny.")

    @antiphon.tool
    def get_weather(city: str) -> str:
        """Look up the weather."""
        return f"sunny in {city}"

    chat = antiphon.Chat(tools=[get_weather])
    assert "sunny" in chat.send("What is the weather in Oslo?").text
    assert scripted.requests[1]["messages"][-1]["role"] == "tool"
    assert scripted.requests[1]["messages"][-1]["content"] == "sunny in Oslo"
    scripted.assert_all_used()


@pytest.mark.anyio
async def test_every_client_of_the_process_is_answered(scripted: ScriptedEndpoint) -> None:
    """Synchronous, asynchronous, streamed, and one made before the answers were scripted."""
    client = OpenAI()
    scripted.answers("one two", "three", answer("four five", reasoning="hm"))
    assert (await asyncio.to_thread(ask, client)).choices[0].message.content == "one two"
    async with AsyncOpenAI(base_url="http://127.0.0.1:9/v1") as other:
        made = await other.chat.completions.create(model="m", messages=QUESTION)
        assert made.choices[0].message.content == "three"
        stream = await other.chat.completions.create(model="m", messages=QUESTION, stream=True)
        deltas = [chunk.choices[0].delta async for chunk in stream]
    assert "".join(delta.content or "" for delta in deltas) == "four five"
    assert [getattr(delta, "reasoning_content", None) for delta in deltas if not delta.content] == [None, "hm", None]
    assert [entry.status for entry in scripted.journal] == [200, 200, 200]


def test_responses_are_answered_and_continue(scripted: ScriptedEndpoint) -> None:
    """Over the Responses API, whole and streamed, with the conversation that an id stands for."""
    scripted.answers("hello", calls("find", q="x"), "done")
    client = OpenAI()
    first = client.responses.create(model="gpt-5-mini", input="hi")
    assert first.output_text == "hello"
    tools = [{"type": "function", "name": "find", "parameters": {"type": "object", "properties": {}}}]
    second = client.responses.create(model="m", input="find x", previous_response_id=first.id, tools=tools)
    call = second.output[0]
    assert (call.type, call.arguments) == ("function_call", '{"q":"x"}')
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "y"}
    events = client.responses.create(
        model="m", input=[result], previous_response_id=second.id, tools=tools, stream=True
    )
    assert [event.response.output_text for event in events if event.type == "response.completed"] == ["done"]
    with pytest.raises(openai.BadRequestError, match="not found"):
        client.responses.create(model="m", input="hi", previous_response_id="resp_other")


def test_embeddings_of_similar_texts_are_near(scripted: ScriptedEndpoint) -> None:
    """No answer is needed for them."""
    near, other, far = antiphon.embed(["a lost key", "the lost key", "quiet sea"], model="m").vectors
    assert antiphon.cosine_similarity(near, other) > antiphon.cosine_similarity(near, far)
    assert OpenAI().completions.create  # the route below is the older one
    scripted.answers("the end")
    assert OpenAI().completions.create(model="m", prompt="In").choices[0].text == "the end"


def test_a_request_that_the_api_refuses_is_refused(scripted: ScriptedEndpoint) -> None:
    """The server's own checks: a result without its call, a parameter out of range. The answers stay for later."""
    scripted.answers("never")
    with pytest.raises(openai.BadRequestError, match="tool"):
        OpenAI().chat.completions.create(
            model="m", messages=[*QUESTION, {"role": "tool", "tool_call_id": "c", "content": "x"}]
        )
    with pytest.raises(openai.BadRequestError, match="temperature"):
        ask(OpenAI(), temperature=3)
    assert scripted.replies == ["never"]


def test_errors_and_faults(scripted: ScriptedEndpoint) -> None:
    """An error with its pause, a connection that breaks, one that hangs, an error in the middle of a stream."""
    scripted.answers(error(429, retry_after_s=0.001), "at last")
    assert ask(OpenAI(max_retries=1)).choices[0].message.content == "at last"
    client = OpenAI(max_retries=0)
    scripted.answers(answer(fault="cut"), answer(fault="hang"), answer("one two", fault="cut", after=1))
    with pytest.raises(openai.APIConnectionError):
        ask(client)
    with pytest.raises(openai.APITimeoutError):
        ask(client)
    read: list[str] = []
    stream = ask(client, stream=True)
    read.append(next(stream).choices[0].delta.content)
    read.append(next(stream).choices[0].delta.content)
    with pytest.raises(openai.APIConnectionError):
        next(stream)
    assert read == ["", "one"]
    scripted.answers(error(500, "engine died", after=1))
    with pytest.raises(openai.APIError, match="engine died"):
        list(ask(client, stream=True))
    assert [entry.status for entry in scripted.journal] == [429, 200, None, None, 200, 200]


def test_a_script_is_the_servers(scripted: ScriptedEndpoint, tmp_path: Path) -> None:
    """The same file answers here as behind ``antiphon serve``: rules, models, the echo."""
    (tmp_path / "script.toml").write_text(SCRIPT)
    scripted.load(tmp_path / "script.toml")
    client = OpenAI(max_retries=0)
    assert ask(client, "The weather?").choices[0].message.tool_calls[0].function.arguments == '{"city":"Oslo"}'
    assert ask(client, "echo me").choices[0].message.content == "echo me"
    with pytest.raises(openai.APIConnectionError):
        ask(client, "tell a story")
    with pytest.raises(openai.NotFoundError, match="gpt-9"):
        client.chat.completions.create(model="gpt-9", messages=QUESTION)
    assert [model.id for model in client.models.list()] == ["gpt-4o-mini", "scripted-embedding"]
    assert client.models.retrieve("gpt-4o-mini").context_length == 4096
    with pytest.raises(openai.NotFoundError):
        client.get("/nothing", cast_to=object)


def test_more_calls_in_one_answer_and_raw_responses(scripted: ScriptedEndpoint) -> None:
    """What no reply can say, a function answers with bytes of its own."""
    import httpx2  # noqa: PLC0415 - what an application's test would do

    odd: Respond = lambda request: httpx2.Response(200, json={"choices": [], "model": request["model"]})  # noqa: E731
    scripted.answers(calls("a", ScriptedCall("b", "not json"), x=1), odd)
    made = ask(OpenAI()).choices[0]
    assert [(call.function.name, call.function.arguments) for call in made.message.tool_calls] == [
        ("a", '{"x":1}'),
        ("b", "not json"),
    ]
    assert made.finish_reason == "tool_calls"
    assert ask(OpenAI()).choices == []


def test_a_request_too_many_is_not_hidden_by_the_application() -> None:
    """Neither a retry nor ``except Exception`` catches it, and the message shows the request."""
    endpoint = ScriptedEndpoint()

    def careless() -> None:
        with contextlib.suppress(Exception):
            ask(OpenAI(api_key="k", max_retries=5))

    with endpoint.installed(), pytest.raises(UnexpectedRequestError, match='"content": "hi"'):
        careless()
    assert len(endpoint.journal) == 1
    with pytest.raises(AssertionError, match="No answer is left for request 1"):
        endpoint.assert_all_used()
    with pytest.raises(AssertionError, match="1 answers were not used"):
        ScriptedEndpoint(["left"]).assert_all_used()


def test_through_the_portal_too(scripted: ScriptedEndpoint) -> None:
    """A chat runs on another thread's loop; the failure comes out of ``send`` all the same."""
    with pytest.raises(UnexpectedRequestError):
        antiphon.Chat().send("hi")
    scripted.unexpected.clear()
