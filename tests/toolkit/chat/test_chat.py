"""A chat: talking, tools, history. The asynchronous face and the synchronous one run the same code."""

import json
from pathlib import Path
from typing import Any

import pytest
from openai import InternalServerError
from pydantic import BaseModel, field_validator
from tests.toolkit.scripted_endpoint import Endpoint, answer, error, json_route

from antiphon.toolkit.chat.chat import AsyncChat, Chat
from antiphon.toolkit.chat.chat_state import SamplingWarning
from antiphon.toolkit.chat.reply import TruncatedAnswerWarning
from antiphon.toolkit.chat.trim import HistoryPolicy
from antiphon.toolkit.costs.budget import Budget
from antiphon.toolkit.errors import (
    BudgetExceededError,
    ExtractionError,
    HistoryError,
    OutputError,
    RefusalError,
    ToolkitError,
    ToolLoopError,
    ToolsPendingError,
    TruncatedError,
)
from antiphon.toolkit.tools.tool import tool
from antiphon.toolkit.tools.tool_loop import ToolLimits


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


ADD = answer(None, calls=[("c1", "add", '{"a": 1, "b": 2}')])


class Person(BaseModel):
    name: str
    age: int

    @field_validator("age")
    @classmethod
    def is_old_enough(cls, value: int) -> int:
        if value < 0:
            raise ValueError("an age is not negative")
        return value


def test_each_message_is_sent_with_all_that_was_said(endpoint: Endpoint) -> None:
    """The second request begins with the first and its answer."""
    endpoint.replies = [answer("hello"), answer("you said hi")]
    chat = Chat("be brief", client=endpoint.client(), temperature=0, request={"top_p": 0.5})
    first = chat.send("hi")
    chat.send("what did I say?", user="me")
    assert (str(first), first.request_id, first.finish_reason, first.model) == (
        "hello",
        "req_1",
        "stop",
        "gpt-4o-mini-dated",
    )
    assert endpoint.sent() == [
        ("system", "be brief"),
        ("user", "hi"),
        ("assistant", "hello"),
        ("user", "what did I say?"),
    ]
    assert {key: endpoint.requests[1][key] for key in ("temperature", "top_p", "user")} == {
        "temperature": 0,
        "top_p": 0.5,
        "user": "me",
    }
    assert "user" not in endpoint.requests[0]
    assert chat.usage is not None
    assert chat.usage.num_calls == 2


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["client", "async_client"])
async def test_the_asynchronous_face_does_the_same(endpoint: Endpoint, kind: str) -> None:
    """With a client of either kind: send, stream, parse, tools."""
    endpoint.replies = [answer("hello"), ADD, answer("three"), answer('{"name": "Ann", "age": 3}')]
    async with AsyncChat("s", client=getattr(endpoint, kind)(), tools=[add]) as chat:
        assert (await chat.send("hi")).text == "hello"
        async with chat.stream("1+2?") as stream:
            assert "".join([piece async for piece in stream]) == "three"
        assert stream.reply.tool_results[0].value == 3
        assert (await chat.parse(Person, "who?")).parsed == Person(name="Ann", age=3)


def test_a_stream_gives_text_as_it_comes_then_the_reply(endpoint: Endpoint) -> None:
    """With the time to the first token and the usage, which are only then known."""
    endpoint.replies = [answer("hello there")]
    chat = Chat(client=endpoint.client())
    stream = chat.stream("hi")
    with pytest.raises(ToolkitError, match="not at its end"):
        _ = stream.reply
    assert list(stream) == ["hell", "o th", "ere"]
    assert stream.reply.timing.ttft_s is not None
    assert stream.reply.usage is not None
    assert endpoint.requests[0]["stream_options"] == {"include_usage": True}
    assert chat.turns[0].messages[1]["content"] == "hello there"


def test_a_stream_left_early_adds_nothing(endpoint: Endpoint) -> None:
    """The chat may be used again at once."""
    chat = Chat(client=endpoint.client())
    with chat.stream("hi") as stream:
        for _ in stream:
            break
    assert chat.turns == ()
    assert chat.send("again").text == "ok"


@pytest.mark.parametrize("is_streamed", [False, True])
def test_tools_run_until_the_model_answers(endpoint: Endpoint, is_streamed: bool) -> None:
    """Calls and results go into the history, and the definitions with every request."""
    endpoint.replies = [ADD, answer("it is 3")]
    chat = Chat(client=endpoint.client(), tools=[add])
    if is_streamed:
        stream = chat.stream("1+2?")
        events = [type(event).__name__ for event in stream.events()]
        assert events == ["ToolStarted", "ToolFinished", "TextDelta", "TextDelta"]
        reply = stream.reply
    else:
        reply = chat.send("1+2?")
    assert reply.text == "it is 3"
    assert len(reply.records) == 2
    assert [message["role"] for message in endpoint.requests[1]["messages"]] == ["user", "assistant", "tool"]
    assert endpoint.requests[1]["messages"][2] == {"role": "tool", "tool_call_id": "c1", "content": "3"}
    assert endpoint.requests[1]["tools"] == endpoint.requests[0]["tools"]


def test_a_model_that_only_calls_tools_is_stopped(endpoint: Endpoint) -> None:
    """After the bound on rounds; nothing is added to the conversation."""
    endpoint.replies = [ADD]
    chat = Chat(client=endpoint.client(), tools=[add], limits=ToolLimits(rounds=3))
    with pytest.raises(ToolLoopError, match="3 requests") as caught:
        chat.send("go")
    assert len(endpoint.requests) == 3
    assert caught.value.usage is not None
    assert caught.value.usage.num_calls == 3
    assert chat.turns == ()


def test_a_tool_that_needs_approval_never_runs_without(endpoint: Endpoint) -> None:
    """The call waits when nobody is asked, and is refused by the one who is."""
    guarded = tool(needs_approval=True)(add)
    endpoint.replies = [ADD]
    with pytest.raises(ToolsPendingError, match="add \\(c1\\)"):
        Chat(client=endpoint.client(), tools=[guarded]).send("go")
    endpoint.replies = [ADD, answer("well")]
    chat = Chat(client=endpoint.client(), tools=[guarded], approve=lambda call: "no sums today")
    assert chat.send("go").tool_results[0].outcome == "refused"


def test_a_cut_answer_warns_and_can_be_continued(endpoint: Endpoint) -> None:
    """The whole stands in the history, as if it had come at once."""
    endpoint.replies = [answer("once upon", finish="length"), answer(" a time")]
    chat = Chat(client=endpoint.client())
    with pytest.warns(TruncatedAnswerWarning, match="max_completion_tokens") as warnings:
        assert chat.send("tell").is_truncated
    assert warnings[0].filename == __file__
    whole = chat.continue_()
    assert whole.text == "once upon a time"
    assert [message["content"] for message in chat.messages] == ["tell", "once upon a time"]
    with pytest.raises(HistoryError, match="nothing to continue"):
        chat.continue_()


def test_a_failed_call_leaves_the_conversation_as_it_was(endpoint: Endpoint) -> None:
    """The client's own error comes through."""
    endpoint.replies = [answer("hello"), error(500), answer("again")]
    chat = Chat(client=endpoint.client(max_retries=0))
    chat.send("hi")
    with pytest.raises(InternalServerError):
        chat.send("lost")
    chat.send("kept")
    assert [content for _, content in endpoint.sent()] == ["hi", "hello", "kept"]


@pytest.mark.anyio
async def test_a_chat_answers_one_message_at_a_time(endpoint: Endpoint) -> None:
    """The second is refused, not mixed in."""
    chat = AsyncChat(client=endpoint.async_client())
    async with chat.stream("first") as stream:
        async for _ in stream:
            with pytest.raises(HistoryError, match="still answering"):
                await chat.send("second")
            break


def test_a_stream_belongs_where_it_is_first_read(endpoint: Endpoint) -> None:
    """What was said between its making and its reading is not lost."""
    chat = Chat(client=endpoint.client())
    later = chat.stream("later")
    chat.send("sooner")
    list(later)
    assert [turn.messages[0]["content"] for turn in chat.turns] == ["sooner", "later"]


def test_a_tool_may_have_a_chat_of_its_own(endpoint: Endpoint) -> None:
    """A synchronous one, since a plain function runs in a thread and not in the loop."""
    other = Endpoint([answer("from inside")])

    def ask_colleague(question: str) -> str:
        """Ask."""
        return Chat(client=other.client()).send(question).text

    endpoint.replies = [answer(None, calls=[("c", "ask_colleague", '{"question": "q"}')]), answer("done")]
    chat = Chat(client=endpoint.client(), tools=[ask_colleague])
    assert chat.send("go").tool_results[0].content == "from inside"


def test_old_turns_are_left_out_within_the_context_that_the_server_tells(endpoint: Endpoint) -> None:
    """The reply says what went; the chat keeps everything for its export."""
    endpoint.routes = {"/v1/models": json_route({"data": [{"id": "m", "context_length": 200}]})}
    chat = Chat("s", client=endpoint.client(), model="m", max_completion_tokens=50)
    replies = [chat.send(f"{number} " + "word " * 20) for number in range(6)]
    trims = [reply.trim for reply in replies if reply.trim is not None]
    assert trims
    assert trims[0].budget == 150
    assert trims[0].quality == "estimate"
    assert len(chat.turns) == 6
    assert len(chat.messages) < 13
    assert "0 word" in chat.to_markdown()


@pytest.mark.parametrize(
    ("routes", "context"),
    [
        ({"/v1/models": {"data": [{"id": "other", "max_model_len": 77}]}}, 77),
        ({"/v1/models": {"data": [{"id": "other"}]}, "/props": {"default_generation_settings": {"n_ctx": 99}}}, 99),
    ],
)
def test_the_context_is_asked_of_vllm_and_llama_cpp_as_well(
    endpoint: Endpoint, routes: dict[str, Any], context: int
) -> None:
    """Each tells it in its own place."""
    endpoint.routes = {path: json_route(value) for path, value in routes.items()}
    with pytest.raises(HistoryError, match=f"{context} tokens"):
        Chat(client=endpoint.client(), max_completion_tokens=100).send("hi")


def test_what_is_left_out_may_be_summed_up(endpoint: Endpoint) -> None:
    """The summary goes with the system prompt, and its call is in the reply's records."""
    policy = HistoryPolicy(max_tokens=120, summarise=True, summary_tokens=20)
    chat = Chat("s", client=endpoint.client(), history=policy)
    chat.send("a " * 160)
    endpoint.replies = [answer("we talked about a"), answer("yes")]
    reply = chat.send("b " * 160)
    assert reply.trim is not None
    assert reply.trim.summary == "we talked about a"
    assert len(reply.records) == 2
    assert "we talked about a" in endpoint.sent()[0][1]
    assert endpoint.requests[1]["max_completion_tokens"] == 20


def test_pins_memories_undo_and_forks(endpoint: Endpoint) -> None:
    """A fork goes its own way; what is pinned stays."""
    chat = Chat(client=endpoint.client())
    chat.remember("I am Ann", "Noted.")
    chat.send("one", pin=True)
    fork = chat.fork()
    chat.undo()
    fork.send("two")
    assert [turn.messages[0]["content"] for turn in chat.turns] == ["I am Ann"]
    assert [turn.messages[0]["content"] for turn in fork.turns] == ["I am Ann", "one", "two"]
    assert [turn.is_pinned for turn in fork.turns] == [True, True, False]


@pytest.mark.parametrize(("reinforce", "words"), [(True, "be brief"), ("answer in French", "answer in French")])
def test_key_instructions_may_stand_at_both_ends(endpoint: Endpoint, reinforce: Any, words: str) -> None:
    """They follow the message; the history keeps what the user wrote."""
    chat = Chat("be brief", client=endpoint.client(), reinforce=reinforce)
    chat.send("hi")
    assert endpoint.sent()[-1][1] == f"hi\n\n(Keep to this: {words})"
    assert chat.turns[0].messages[0]["content"] == "hi"


def test_a_saved_chat_goes_on(endpoint: Endpoint, tmp_path: Path) -> None:
    """With its model, unless another is given."""
    chat = Chat("s", client=endpoint.client(), model="m1", reinforce=True)
    chat.send("hi")
    chat.save(tmp_path / "chat.json")
    again = Chat.load(tmp_path / "chat.json", client=endpoint.client())
    assert (again.model, again.messages) == ("m1", chat.messages)
    assert Chat.load(tmp_path / "chat.json", client=endpoint.client(), model="m2").model == "m2"
    assert AsyncChat.load(tmp_path / "chat.json", client=endpoint.client()).turns == chat.turns
    (tmp_path / "other.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(HistoryError, match="names no model"):
        Chat.load(tmp_path / "other.json", client=endpoint.client())


def test_an_answer_that_fails_the_validators_is_asked_for_again(endpoint: Endpoint) -> None:
    """With what was wrong; the conversation keeps the accepted answer alone."""
    endpoint.replies = [answer('{"name": "Ann", "age": -1}'), answer('{"name": "Ann", "age": 1}')]
    chat = Chat(client=endpoint.client())
    reply = chat.parse(Person, "who?")
    assert reply.parsed == Person(name="Ann", age=1)
    assert [attempt.error for attempt in reply.attempts] == ["age: Value error, an age is not negative (got -1)", None]
    assert "an age is not negative" in endpoint.sent()[-1][1]
    assert [message["content"] for message in chat.messages] == ["who?", '{"name": "Ann", "age": 1}']
    assert endpoint.requests[0]["response_format"]["json_schema"]["strict"] is True


def test_an_answer_that_never_validates_is_an_error_with_every_attempt(endpoint: Endpoint) -> None:
    """Texts and usage are kept; the conversation is as it was."""
    endpoint.replies = [answer('{"name": "Ann", "age": -1}')]
    chat = Chat(client=endpoint.client(), attempts=2)
    with pytest.raises(ExtractionError, match="2 attempts") as caught:
        chat.parse(Person, "who?")
    assert [attempt.text for attempt in caught.value.attempts] == ['{"name": "Ann", "age": -1}'] * 2
    assert caught.value.usage is not None
    assert caught.value.usage.total_tokens == 30
    assert chat.turns == ()


@pytest.mark.parametrize(
    ("reply", "kind", "text"),
    [
        (answer('{"na', finish="length"), TruncatedError, '{"na'),
        (answer(None, refusal="I will not"), RefusalError, "I will not"),
        (answer("Sure! Here it is"), OutputError, "Sure! Here it is"),
    ],
)
def test_what_is_no_answer_is_not_asked_for_again(endpoint: Endpoint, reply: Any, kind: Any, text: str) -> None:
    """Cut, refused, or from an endpoint that does not keep to the schema: the text is in the error."""
    endpoint.replies = [reply]
    with pytest.raises(kind) as caught:
        Chat(client=endpoint.client()).parse(Person, "who?")
    assert (caught.value.text, len(endpoint.requests)) == (text, 1)


def test_a_chats_budget_covers_its_tools_rounds(endpoint: Endpoint) -> None:
    """It stops between two rounds."""
    endpoint.routes = {"/tokenize": json_route({"count": 30})}
    endpoint.replies = [ADD, answer("never sent")]
    with pytest.raises(BudgetExceededError):
        Chat(client=endpoint.client(), tools=[add], budget=Budget(calls=1)).send("go")


def test_an_unknown_option_is_refused(endpoint: Endpoint) -> None:
    """A misspelt name is not passed over."""
    options: Any = {"temprature": 1}
    with pytest.raises(TypeError, match="temprature"):
        Chat(client=endpoint.client(), **options)


def test_what_would_be_sent_can_be_counted(endpoint: Endpoint) -> None:
    """Tools included."""
    endpoint.routes = {"/tokenize": json_route({"count": 42})}
    assert Chat("s", client=endpoint.client(), tools=[add]).count_tokens().tokens == 42


@pytest.mark.parametrize(
    ("forced", "then"),
    [
        ("required", "auto"),
        ({"type": "function", "function": {"name": "double"}}, "auto"),
        ("auto", "auto"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": []}},
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
        ),
    ],
)
def test_a_call_that_is_forced_is_forced_once(endpoint: Endpoint, forced: Any, then: Any) -> None:
    """After it the model may answer."""

    def double(number: int) -> int:
        return 2 * number

    endpoint.replies[:] = [answer(None, calls=[("1", "double", '{"number": 1}')]), answer("two")]
    chat = Chat(client=endpoint.client(), tools=[double], context_tokens=1000)
    assert chat.send("double one", tool_choice=forced).text == "two"
    assert [request["tool_choice"] for request in endpoint.requests] == [forced, then]
    endpoint.replies[:] = [answer("no need")]
    chat.send("again", tool_choice=forced)
    assert endpoint.requests[-1]["tool_choice"] == forced


def test_tools_of_a_request_are_sent_beside_those_of_the_chat(endpoint: Endpoint) -> None:
    """Neither replaces the other."""
    chat = Chat(client=endpoint.client(), tools=[len_of], context_tokens=1000)
    chat.send("hi", tools=[{"type": "web_search"}])
    assert [tool["type"] for tool in endpoint.requests[0]["tools"]] == ["web_search", "function"]


def len_of(text: str) -> int:
    return len(text)


@pytest.mark.parametrize("where", ["chat", "call"])
def test_temperature_beside_top_p_is_warned_of(endpoint: Endpoint, where: str) -> None:
    """OpenAI advises to change one of the two; a value that changes nothing is none."""
    chat = Chat(client=endpoint.client(), context_tokens=1000, temperature=0.7)
    chat.send("hi", top_p=1)
    both = {
        "chat": lambda: Chat(client=endpoint.client(), temperature=0.7, top_p=0.5),
        "call": lambda: chat.send("hi", top_p=0.5),
    }
    with pytest.warns(SamplingWarning, match="both set"):
        both[where]()
