"""What a tool may return or raise: the model reads it, or the program ends as the tool asked."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.toolkit.scripted_endpoint import Endpoint, answer

from antiphon.toolkit.chat.chat import AsyncChat, Chat
from antiphon.toolkit.record import ToolCall
from antiphon.toolkit.tools.tool import tool

ODD_NAME = b"caf\xe9.txt".decode("utf-8", "surrogateescape")


class Unreadable(Exception):  # noqa: N818 - an application's own
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Ends(BaseException):
    pass


def raising(error: BaseException, *, is_async: bool) -> Callable[[], Any]:
    def act() -> str:
        raise error

    async def act_async() -> str:
        raise error

    return tool(name="act")(act_async if is_async else act)


def returning(value: Any) -> Callable[[], Any]:
    def act() -> Any:
        return value

    return tool(name="act")(act)


def scripted(endpoint: Endpoint) -> Endpoint:
    endpoint.replies = [answer(None, calls=[("a", "act", "{}")]), answer("done")]
    return endpoint


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("value", "content"),
    [
        (ODD_NAME, "caf\\udce9.txt"),
        ({"name": ODD_NAME}, '{"name": "caf\\udce9.txt"}'),
        ([1, None], "[1,null]"),
        (CYCLE, "Error: 'act' failed"),
        (object(), "Error: 'act' failed with TypeError: its result is not JSON"),
        (b"\xff", "Error: 'act' failed with TypeError: its result is not JSON"),
        ({1: {2}}, '{"1":[2]}'),
    ],
)
def test_whatever_a_tool_returns_the_model_reads(endpoint: Endpoint, value: Any, content: str) -> None:
    """As text, as JSON, or as an error; the request can be encoded."""
    reply = Chat(client=scripted(endpoint).client(), tools=[returning(value)]).send("x")
    assert reply.text == "done"
    assert endpoint.requests[1]["messages"][-1]["content"].startswith(content)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("error", "content"),
    [
        (ValueError("no"), "Error: 'act' failed with ValueError: no"),
        (ValueError(ODD_NAME), "Error: 'act' failed with ValueError: caf\\udce9.txt"),
        (Unreadable(), "Error: 'act' failed with Unreadable: (its text cannot be read)"),
        (asyncio.CancelledError("own"), "Error: 'act' failed with CancelledError: own"),
        (TimeoutError("slow"), "Error: 'act' failed with TimeoutError: slow"),
        (
            BaseExceptionGroup("two", [ValueError("a")]),
            "Error: 'act' failed with ExceptionGroup: two (1 sub-exception)",
        ),
    ],
)
def test_whatever_a_tool_raises_the_model_reads(
    endpoint: Endpoint, error: BaseException, content: str, *, is_async: bool
) -> None:
    """The other tools and the conversation go on."""
    Chat(client=scripted(endpoint).client(), tools=[raising(error, is_async=is_async)]).send("x")
    assert endpoint.requests[1]["messages"][-1]["content"] == content


def test_a_stop_iteration_is_an_error_like_others(endpoint: Endpoint) -> None:
    """A future cannot carry it."""
    Chat(client=scripted(endpoint).client(), tools=[raising(StopIteration(3), is_async=False)]).send("x")
    assert endpoint.requests[1]["messages"][-1]["content"] == "Error: 'act' failed with StopIteration: 3"


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), Ends("now"), GeneratorExit()])
def test_a_tool_may_end_the_program(endpoint: Endpoint, error: BaseException, *, is_async: bool) -> None:
    """The caller gets the same exception, and the toolkit works on for whoever catches it."""
    chat = Chat(client=scripted(endpoint).client(), tools=[raising(error, is_async=is_async)])
    with pytest.raises(type(error)) as caught:
        chat.send("x")
    assert caught.value is error
    assert chat.turns == ()
    assert chat.send("y").text == "done"
    scripted(endpoint)
    with pytest.raises(type(error)):
        list(chat.stream("x"))
    assert Chat(client=endpoint.client()).send("z").text == "done"


def test_a_program_with_its_own_loop_ends_too(endpoint: Endpoint) -> None:
    """``asyncio.run`` raises what the tool raised."""

    async def main() -> None:
        await AsyncChat(client=scripted(endpoint).async_client(), tools=[raising(SystemExit(4), is_async=True)]).send(
            "x"
        )

    with pytest.raises(SystemExit) as caught:
        asyncio.run(main())
    assert caught.value.code == 4


def test_an_error_of_approve_comes_as_it_is(endpoint: Endpoint) -> None:
    """It is the application's own; no group is put around it."""

    def approve(call: ToolCall) -> bool:
        raise LookupError(call.name)

    chat = Chat(client=scripted(endpoint).client(), tools=[returning(1)], approve=approve)
    with pytest.raises(LookupError, match="act"):
        chat.send("x")
