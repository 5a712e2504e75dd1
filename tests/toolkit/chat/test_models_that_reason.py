"""Chats with models that reason: by responses where they need it, with what they thought, without what they refuse."""

import warnings
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tests.toolkit.model_endpoints import ModelEndpoint, ReasoningEndpoint, ThinkingEndpoint

from antiphon import (
    Chat,
    ParameterLeftOutWarning,
    ReasoningDelta,
    Report,
    ResponseCache,
    TextDelta,
    Tool,
    ToolkitError,
    TruncatedAnswerWarning,
    cascade,
    extract,
    tool,
)

OPENAI = "https://api.openai.com/v1"


@tool
def get_weather(city: str) -> str:
    """Look up the weather."""
    return f"20 degrees in {city}"


@tool
def get_time(city: str, precise: bool = False) -> str:
    """Look up the time."""
    return "noon"


class Review(BaseModel):
    sentiment: str
    score: int


@pytest.fixture
def reasoning(endpoint: object) -> ReasoningEndpoint:
    """At OpenAI; nothing is remembered of it yet."""
    return ReasoningEndpoint(OPENAI)


@pytest.fixture
def thinking(endpoint: object) -> ThinkingEndpoint:
    """Elsewhere; nothing is remembered of it yet."""
    return ThinkingEndpoint()


def chat_with(server: ModelEndpoint, model: str = "gpt-5.6-luna", **options: Any) -> Chat:
    return Chat("Be brief.", client=server.client(max_retries=0), model=model, context_tokens=10_000, **options)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_model_that_reasons_is_asked_by_responses(reasoning: ReasoningEndpoint, is_streamed: bool) -> None:
    """Nothing is stored there, the reasoning comes sealed, and the reply has the summary of it."""
    chat = chat_with(reasoning)
    if is_streamed:
        stream = chat.stream("hi")
        events = list(stream.events())
        assert "".join(event.text for event in events if isinstance(event, ReasoningDelta)) == "thought 1"
        assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "It is so [1]."
        reply = stream.reply
    else:
        reply = chat.send("hi", reasoning={"effort": "low"})
    assert (reply.text, reply.reasoning, reply.finish_reason) == ("It is so [1].", "thought 1", "stop")
    assert reply.response is not None
    assert reply.response.id == "resp_1"
    assert reply.usage is not None
    assert (reply.usage.total_tokens, reply.usage.reasoning_tokens) == (18, 3)
    (sent,) = reasoning.sent("/responses")
    assert (sent["store"], sent["include"]) == (False, ["reasoning.encrypted_content"])
    assert sent["instructions"] == "Be brief."
    assert sent["input"] == [{"role": "user", "content": "hi"}]
    assert sent.get("reasoning") == (None if is_streamed else {"effort": "low"})


@pytest.mark.parametrize("is_streamed", [False, True])
def test_tools_run_with_the_reasoning_of_each_round(reasoning: ReasoningEndpoint, is_streamed: bool) -> None:
    """The endpoint refuses a call without the reasoning before it, and a call without a result."""
    custom = Tool.of_text("note", "Write a note", call=lambda text: f"noted {text}", grammar="start: /.*/")
    chat = chat_with(reasoning, tools=[get_weather, get_time, custom])
    reply = chat.stream("weather?") if is_streamed else chat.send("weather?")
    if not isinstance(reply, type(chat.last_reply)):
        assert "".join(reply) == "It is so [1]."
        reply = reply.reply
    assert [result.content for result in reply.tool_results] == ["20 degrees in a", "noon", "noted free text"]
    first, second = reasoning.sent("/responses")
    assert [(one["type"], one["name"]) for one in first["tools"]] == [
        ("function", "get_weather"),
        ("function", "get_time"),
        ("custom", "note"),
    ]
    assert first["tools"][2]["format"] == {"type": "grammar", "syntax": "lark", "definition": "start: /.*/"}
    kinds = [item.get("type", item.get("role")) for item in second["input"]]
    calls = ["function_call", "function_call", "custom_tool_call"]
    assert kinds == ["user", "reasoning", *calls, *(f"{call}_output" for call in calls)]
    assert chat.send("and now?").text == "It is so [1]."


def test_items_are_sent_back_as_they_came_after_saving_and_forking(
    reasoning: ReasoningEndpoint, tmp_path: Path
) -> None:
    """Sealed reasoning is worth something only if not a byte of it changes."""
    chat = chat_with(reasoning, tools=[get_weather])
    reply = chat.send("weather?")
    assert reply.response is not None
    made = [item.to_dict(mode="json") for item in reply.response.output]
    chat.save(tmp_path / "chat.json")
    loaded = Chat.load(tmp_path / "chat.json", client=reasoning.client(), tools=[get_weather], context_tokens=10_000)
    loaded.fork().send("and tomorrow?")
    loaded.send("and then?")
    for sent in reasoning.sent("/responses")[-4:]:
        sealed = [item for item in sent["input"] if item.get("type") == "reasoning"]
        assert [item["encrypted_content"] for item in sealed][:2] == ["sealed-1==", "sealed-2=="]
        assert sent["input"][4:6] == made
    loaded.undo()
    assert [message["role"] for message in loaded.messages][-1] == "assistant"
    assert all(message.keys() <= {"role", "content", "tool_calls", "tool_call_id"} for message in loaded.messages)


def test_another_model_gets_no_reasoning_that_it_cannot_open(reasoning: ReasoningEndpoint, tmp_path: Path) -> None:
    """Text and calls are sent to it in words."""
    chat_with(reasoning).send("hi")
    chat = chat_with(reasoning)
    chat.send("hi")
    chat.save(tmp_path / "chat.json")
    other = Chat.load(tmp_path / "chat.json", client=reasoning.client(), model="o4-mini", context_tokens=10_000)
    other.send("go on")
    assert reasoning.sent("/responses")[-1]["input"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "It is so [1]."},
        {"role": "user", "content": "go on"},
    ]


def test_an_endpoint_without_responses_is_asked_once_for_them(reasoning: ReasoningEndpoint) -> None:
    """Then it gets chat completions, without reasoning in the messages, and this is remembered."""
    reasoning.has_responses = False
    chat = chat_with(reasoning, tools=[get_weather])
    chat.send("hi")
    chat_with(reasoning).send("hi")
    assert [path for path, _ in reasoning.requests] == ["/responses", "/chat/completions", "/chat/completions"]


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_model_under_another_name_is_learnt_from_its_refusals(endpoint: object, is_streamed: bool) -> None:
    """Elsewhere no table applies: each refusal is met once per model."""
    server = ReasoningEndpoint("https://gateway.test/v1")
    for _ in range(2):
        chat = chat_with(server, "house-model", tools=[get_weather], max_tokens=50, prefer={"temperature": 0})
        stream = chat.stream("weather?")
        assert ("".join(stream) if is_streamed else chat.send("weather?").text) == "It is so [1]."
    refused = [body for path, body in server.requests if path == "/chat/completions"]
    assert len(refused) == 3, "temperature, max_tokens and tools were refused once"
    assert server.sent("/responses")[-1]["max_output_tokens"] == 50


def test_a_parameter_that_is_refused_is_left_out_aloud(reasoning: ReasoningEndpoint) -> None:
    """The record names it; what the toolkit itself prefers is left out without a word."""
    chat = chat_with(reasoning, temperature=0.3, max_tokens=90)
    with pytest.warns(ParameterLeftOutWarning, match="'gpt-5.6-luna-dated' takes no temperature"):
        reply = chat.send("hi")
    assert reply.left_out == ("temperature",)
    assert reasoning.sent("/responses")[0]["max_output_tokens"] == 90
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert extract(Review, "good", model="gpt-5-mini", client=reasoning.client()).parsed.sentiment == "a"
        assert cascade(Review, "good", models=["gpt-5-mini"], client=reasoning.client()).reply.left_out == ()


def test_without_reasoning_a_temperature_is_sent(reasoning: ReasoningEndpoint) -> None:
    """Models that may be told not to reason take one then."""
    assert chat_with(reasoning, temperature=0.3, reasoning="none").send("hi").left_out == ()
    assert reasoning.sent("/responses")[0]["temperature"] == 0.3


def test_what_only_chat_completions_take_keeps_a_call_there(reasoning: ReasoningEndpoint) -> None:
    """A choice of the application goes before what a model would gain; both at once are refused."""
    assert chat_with(reasoning).send("hi", seed=3).response is None
    with pytest.raises(ToolkitError, match="does not take \\['seed'\\]"):
        chat_with(reasoning, api="responses").send("hi", seed=3)
    assert chat_with(reasoning, api="chat").send("hi").response is None


@pytest.mark.parametrize("is_streamed", [False, True])
def test_reasoning_goes_back_with_the_calls_that_it_led_to(thinking: ThinkingEndpoint, is_streamed: bool) -> None:
    """Two rounds of tools succeed at an endpoint that demands it; later turns do not send what nobody needs."""
    chat = chat_with(thinking, "deepseek-reasoner", tools=[get_weather, get_time])
    if is_streamed:
        stream = chat.stream("weather?")
        thoughts = [event.text for event in stream.events() if isinstance(event, ReasoningDelta)]
        assert "".join(thoughts) == "thought 0thought 1thought 2"
        reply = stream.reply
    else:
        reply = chat.send("weather?")
    assert (reply.text, reply.reasoning, len(reply.tool_results)) == ("It is so [1].", "thought 2", 4)
    assert chat.send("and now?", tool_choice="none").text == "It is so [1]."
    plain = chat_with(thinking, "deepseek-reasoner")
    plain.send("hi")
    plain.send("again")
    assert all("reasoning_content" not in message for message in thinking.requests[-1][1]["messages"])


def test_structured_output_comes_by_responses_too(reasoning: ReasoningEndpoint) -> None:
    """The schema goes out as a text format, and partial data comes back."""
    chat = chat_with(reasoning)
    assert chat.parse(Review, "good").parsed == Review(sentiment="a", score=1)
    stream = chat.stream_parse(Review, "good")
    assert list(stream)[-1] == {"sentiment": "a", "score": 1}
    format_ = reasoning.sent("/responses")[0]["text"]["format"]
    assert (format_["type"], format_["name"], format_["strict"]) == ("json_schema", "Review", True)


def test_a_model_that_refuses_a_temperature_is_not_deterministic(reasoning: ReasoningEndpoint, tmp_path: Path) -> None:
    """Its answers are not kept as if they were."""
    with ResponseCache(tmp_path / "c.sqlite") as cache:
        extract(Review, "good", model="gpt-5-mini", client=reasoning.client(), cache=cache)
        assert cache.statistics().num_passed_over == 1
        assert cache.statistics().num_entries == 0


def test_an_answer_from_the_cache_keeps_its_reasoning(reasoning: ReasoningEndpoint, tmp_path: Path) -> None:
    """Also the sealed part, so that a conversation goes on from it."""
    report = Report()
    with ResponseCache(tmp_path / "c.sqlite") as cache:
        options: dict[str, Any] = {"cache": cache, "report": report, "seed": 1, "api": "chat"}
        thinking = ThinkingEndpoint()
        for _ in range(2):
            reply = chat_with(thinking, "m", tools=[get_weather], **options).send("weather?")
    assert (reply.reasoning, report.statistics().num_from_cache) == ("thought 2", 3)
    assert len(thinking.requests) == 3


def test_nothing_of_a_completion_is_lost(thinking: ThinkingEndpoint) -> None:
    """The client's own object, all choices, the fingerprint."""
    reply = chat_with(thinking, "m").send("hi", n=2)
    assert reply.completion is not None
    assert (len(reply.choices), reply.completion.system_fingerprint) == (2, "fp_1")
    with pytest.raises(ToolkitError, match="one answer"):
        list(chat_with(thinking, "m").stream("hi", n=2))


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_answer_that_was_cut_goes_on_by_responses(reasoning: ReasoningEndpoint, is_streamed: bool) -> None:
    """Its reasoning is not sent again with a text that it did not lead to."""
    chat = chat_with(reasoning)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncatedAnswerWarning)
        if is_streamed:
            assert "".join(chat.stream("hi", max_completion_tokens=5)) == "It is so [1]."
        else:
            chat.send("hi", max_completion_tokens=5)
    assert chat.last_reply is not None
    assert chat.last_reply.is_truncated
    assert chat.continue_().text == "It is so [1].It is so [1]."
    chat.send("thanks")
    assert [item.get("type", item.get("role")) for item in reasoning.sent("/responses")[-1]["input"]] == [
        "user",
        "assistant",
        "user",
    ]
