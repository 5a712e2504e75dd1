"""Empty answers: the history stays one that every API takes."""

from typing import Any

import pytest
from tests.toolkit.scripted_endpoint import Endpoint, answer

from antiphon.toolkit.chat.chat import Chat
from antiphon.toolkit.chat.history import EMPTY_ANSWER
from antiphon.toolkit.chat.reply import TruncatedAnswerWarning
from antiphon.toolkit.errors import HistoryError
from antiphon.toolkit.tools.tool import tool

pytestmark = pytest.mark.filterwarnings(
    f"ignore::{TruncatedAnswerWarning.__module__}.{TruncatedAnswerWarning.__qualname__}"
)


def require_valid(messages: list[dict[str, Any]]) -> None:
    """Hold ``messages`` to what the strictest APIs want: text everywhere, and user and assistant in turn."""
    roles = [message["role"] for message in messages if message["role"] != "system"]
    assert roles == [("user", "assistant")[place % 2] for place in range(len(roles))]
    assert all(isinstance(message["content"], str) and message["content"] for message in messages)


@pytest.mark.parametrize("content", [None, ""])
@pytest.mark.parametrize("refusal", [None, "I cannot."])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_turn_after_an_empty_answer_can_be_sent(
    endpoint: Endpoint, content: str | None, refusal: str | None, *, is_streamed: bool
) -> None:
    """What is sent for it is no empty text and not null; what is kept says that it was empty."""
    endpoint.replies = [answer(content, refusal=refusal, finish="stop"), answer("ok")]
    chat = Chat("Be brief.", client=endpoint.client())
    if is_streamed and refusal is None:
        stream = chat.stream("x")
        assert list(stream) == []
    else:
        chat.send("x")
    chat.send("y")
    require_valid(endpoint.requests[1]["messages"])
    assert endpoint.sent(1)[2] == ("assistant", refusal or EMPTY_ANSWER)
    assert (chat.turns[0].messages[-1]["content"] or "") == ""


def test_an_answer_that_was_cut_before_its_first_word_is_asked_for_again(endpoint: Endpoint) -> None:
    """There is nothing to continue: the same message goes out, and the answer takes its place."""
    endpoint.replies = [answer("a"), answer(None, finish="length"), answer("wor", finish="length"), answer("ld")]
    chat = Chat(client=endpoint.client())
    chat.send("w")
    chat.send("x", pin=True)
    assert chat.continue_().text == "wor"
    assert endpoint.sent(2) == endpoint.sent(1)
    assert chat.turns[1].is_pinned
    assert chat.continue_().text == "world"
    require_valid(endpoint.requests[3]["messages"])
    assert [message["content"] for message in chat.messages] == ["w", "a", "x", "world"]
    with pytest.raises(HistoryError):
        chat.continue_()


def test_a_cut_after_tools_is_asked_for_again_with_their_results(endpoint: Endpoint) -> None:
    """No tool runs twice."""
    ran: list[int] = []

    @tool
    def act() -> str:
        ran.append(1)
        return "done"

    endpoint.replies = [answer(None, calls=[("a", "act", "{}")]), answer("", finish="length"), answer("world")]
    chat = Chat(client=endpoint.client(), tools=[act])
    chat.send("x")
    assert chat.continue_().text == "world"
    assert len(ran) == 1
    assert endpoint.sent(2) == endpoint.sent(1)


def test_the_tools_count_towards_the_context(endpoint: Endpoint) -> None:
    """A definition that does not fit is refused before anything is sent."""

    def act(city: str) -> str:
        return city

    act.__doc__ = "word " * 4_000
    chat = Chat(client=endpoint.client(), tools=[act], context_tokens=2_048)
    with pytest.raises(HistoryError, match="does not fit"):
        chat.send("x")
    assert endpoint.requests == []


def test_old_turns_go_where_the_tools_take_their_room(endpoint: Endpoint) -> None:
    """The request fits the context, tools included."""

    def act(city: str) -> str:
        return city

    act.__doc__ = "word " * 600
    chat = Chat(client=endpoint.client(), tools=[act], context_tokens=2_048, max_completion_tokens=200)
    trims = [trim for _ in range(12) if (trim := chat.send("some words " * 60).trim) is not None]
    assert trims
    assert all(trim.tokens_after <= 2_048 - 200 for trim in trims)


def test_max_tokens_is_room_for_the_answer(endpoint: Endpoint) -> None:
    """Under either name of the limit."""
    for name in ("max_tokens", "max_completion_tokens"):
        chat = Chat(client=endpoint.client(), context_tokens=1_000, request={name: 900})
        with pytest.raises(HistoryError):
            chat.send("some words " * 100)
    assert endpoint.requests == []


def test_a_stopped_answer_can_be_remembered_without_being_pinned(endpoint: Endpoint) -> None:
    """So that it is left out like any other turn when the conversation gets long."""
    chat = Chat(client=endpoint.client())
    chat.remember("x", "", pin=False)
    chat.send("y")
    assert not chat.turns[0].is_pinned
    require_valid(endpoint.requests[0]["messages"])


def test_stream_options_of_the_caller_are_kept(endpoint: Endpoint) -> None:
    """The usage is asked for beside them."""
    list(Chat(client=endpoint.client(), request={"stream_options": {"include_obfuscation": False}}).stream("x"))
    assert endpoint.requests[0]["stream_options"] == {"include_obfuscation": False, "include_usage": True}
