"""Turns that wait for approval: saved, resumed in another process, and never run twice."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import InternalServerError
from pydantic import BaseModel
from tests.toolkit.scripted_endpoint import Endpoint, answer, error

import antiphon
from antiphon import TextDelta, ToolStarted
from antiphon.testing import ScriptedEndpoint, calls
from antiphon.toolkit.chat.chat import AsyncChat, Chat
from antiphon.toolkit.costs.budget import Budget
from antiphon.toolkit.errors import HistoryError, ToolkitError, ToolsPendingError
from antiphon.toolkit.tools.tool import Tool, tool
from antiphon.toolkit.tools.tool_loop import ToolLimits

BOTH = answer(None, calls=[("c1", "delete", '{"path": "a"}'), ("c2", "look", '{"path": "b"}')])


class Files:
    """Tools that count what they did."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    @property
    def tools(self) -> list[Tool | Callable[..., Any]]:
        @tool(needs_approval=True)
        def delete(path: str) -> str:
            """Delete a file."""
            self.ran.append(f"delete {path}")
            return "deleted"

        def look(path: str) -> str:
            """Look at a file."""
            self.ran.append(f"look {path}")
            return "empty"

        return [delete, look]


def paused(endpoint: Endpoint, files: Files, **options: Any) -> Chat:
    chat = Chat("s", client=endpoint.client(), tools=files.tools, **options)
    with pytest.raises(ToolsPendingError):
        chat.send("delete a, look at b", user="me")
    return chat


def test_nothing_of_the_answer_runs_before_the_decision(endpoint: Endpoint) -> None:
    """Not even the call that needs no approval; then all of them run, once, and the model answers."""
    files = Files()
    endpoint.replies = [BOTH, answer("done")]
    chat = paused(endpoint, files)
    assert ([call.id for call in chat.pending_calls], files.ran, chat.turns) == (["c1"], [], ())
    reply = chat.resume({"c1": True})
    assert (reply.text, sorted(files.ran)) == ("done", ["delete a", "look b"])
    assert [result.outcome for result in reply.tool_results] == ["ok", "ok"]
    assert endpoint.requests[1]["user"] == "me"
    assert (len(reply.records), chat.usage.num_calls, chat.pending_calls) == (2, 2, ())
    assert [message["role"] for message in chat.turns[0].messages] == ["user", "assistant", "tool", "tool", "assistant"]


def test_a_call_that_is_refused_has_the_reason_as_its_result(endpoint: Endpoint) -> None:
    """The other calls of the answer run all the same."""
    files = Files()
    endpoint.replies = [BOTH, answer("well")]
    reply = paused(endpoint, files).resume({"c1": "not on Mondays"})
    assert files.ran == ["look b"]
    assert [result.content for result in reply.tool_results] == ["Refused: not on Mondays.", "empty"]
    assert paused(Endpoint([BOTH, answer("x")]), files).resume(False).tool_results[0].outcome == "refused"


def test_while_a_turn_waits_there_is_no_other(endpoint: Endpoint) -> None:
    """Each way out is named, and each decision has to be given."""
    files = Files()
    endpoint.replies = [BOTH, answer("done")]
    chat = paused(endpoint, files)
    with pytest.raises(HistoryError, match="waits for approval of"):
        chat.send("hello?")
    for decisions in ({}, {"c1": True, "c9": True}):
        with pytest.raises(HistoryError, match="wait for approval"):
            chat.resume(decisions)
    chat.undo()
    with pytest.raises(HistoryError, match="No turn"):
        chat.resume(True)
    assert chat.send("hello?").text == "done"
    assert chat.usage.num_calls == 2


def test_a_failure_after_the_tools_ran_runs_none_again(endpoint: Endpoint, tmp_path: Path) -> None:
    """Neither here nor from a file that was saved after the failure."""
    files = Files()
    endpoint.replies = [BOTH, error(500), error(500), answer("done")]
    chat = paused(endpoint, files)
    chat._connection.client.max_retries = 0
    for _ in range(2):
        with pytest.raises(InternalServerError):
            chat.resume(True)
    chat.save(tmp_path / "chat.json")
    again = Chat.load(tmp_path / "chat.json", client=endpoint.client(), tools=files.tools)
    assert again.pending_calls == ()
    for each in (chat, again):
        assert each.resume({}).text == "done"
    assert sorted(files.ran) == ["delete a", "look b"]


def test_streams_and_parsed_answers_pause_too(endpoint: Endpoint) -> None:
    """A stream raises at the point of the call; the type of a parsed answer is given again."""

    class Person(BaseModel):
        name: str

    files = Files()
    endpoint.replies = [BOTH, answer("done"), BOTH, answer('{"name": "Ann"}')]
    chat = Chat(client=endpoint.client(), tools=files.tools)
    with pytest.raises(ToolsPendingError):
        list(chat.stream("go"))
    assert chat.resume(True).text == "done"
    with pytest.raises(ToolsPendingError):
        chat.parse(Person, "who?")
    assert chat.resume(True, output=Person).parsed == Person(name="Ann")


@pytest.mark.anyio
async def test_the_asynchronous_face_pauses_too(endpoint: Endpoint) -> None:
    """With the same methods, and rounds that count on."""
    files = Files()
    endpoint.replies = [BOTH, BOTH, answer("done")]
    async with AsyncChat(client=endpoint.async_client(), tools=files.tools) as chat:
        with pytest.raises(ToolsPendingError):
            await chat.send("go")
        with pytest.raises(ToolsPendingError) as raised:
            await chat.resume(True)
        assert [call.name for call in raised.value.calls] == ["delete"]
        assert (await chat.resume(True)).text == "done"
    assert sorted(files.ran) == ["delete a", "delete a", "look b", "look b"]


def test_a_resumed_turn_can_be_streamed(endpoint: Endpoint, tmp_path: Path) -> None:
    """By the process that saved it, or by another; the tools run once."""
    files = Files()
    endpoint.replies = [BOTH, answer("all is done")]
    paused(endpoint, files).save(tmp_path / "chat.json")
    chat = Chat.load(tmp_path / "chat.json", client=endpoint.client(), tools=files.tools)
    stream = chat.stream_resume({"c1": True})
    assert files.ran == []
    assert "".join(stream) == "all is done"
    assert (sorted(files.ran), stream.reply.text, len(chat.turns)) == (["delete a", "look b"], "all is done", 1)


@pytest.mark.parametrize("ending", ["before the tools", "after the tools"])
def test_a_resumed_stream_that_is_left_early_waits_again(endpoint: Endpoint, ending: str) -> None:
    """Before the tools ran it waits for the decision, afterwards for the model alone."""
    files = Files()
    endpoint.replies = [BOTH, answer("all is done")]
    chat = paused(endpoint, files)
    wanted = TextDelta if ending == "after the tools" else ToolStarted
    with chat.stream_resume(True) as stream:
        for event in stream.events():
            if isinstance(event, wanted):
                break
    ran = ["delete a", "look b"] if ending == "after the tools" else []
    assert (sorted(files.ran), [call.id for call in chat.pending_calls]) == (ran, [] if ran else ["c1"])
    endpoint.replies = [answer("well")]
    assert chat.resume({} if ran else True).text == "well"
    assert sorted(files.ran) == ["delete a", "look b"]


@pytest.mark.anyio
async def test_the_asynchronous_face_streams_a_resumed_turn(endpoint: Endpoint) -> None:
    """With the same method."""
    files = Files()
    endpoint.replies = [BOTH, answer("all is done")]
    async with AsyncChat(client=endpoint.async_client(), tools=files.tools) as chat:
        with pytest.raises(ToolsPendingError):
            await chat.send("go")
        assert "".join([text async for text in chat.stream_resume(True)]) == "all is done"


def test_tools_of_earlier_rounds_do_not_run_again_when_a_later_one_ends_the_program(endpoint: Endpoint) -> None:
    """The turn goes on behind the rounds that are done."""
    files, ended = Files(), []

    def leave() -> str:
        """End the program."""
        ended.append(1)
        if len(ended) == 1:
            raise SystemExit(3)
        return "left"

    endpoint.replies = [BOTH, answer(None, calls=[("c3", "leave", "{}")]), answer("done")]
    chat = Chat(client=endpoint.client(), tools=[*files.tools, leave])
    with pytest.raises(ToolsPendingError):
        chat.send("go")
    with pytest.raises(SystemExit):
        chat.resume(True)
    assert chat.resume({}).text == "done"
    assert (sorted(files.ran), len(ended)) == (["delete a", "look b"], 2)


FIRST = """
import os, signal, sys
import antiphon
from antiphon.testing import ScriptedEndpoint, calls

@antiphon.tool(needs_approval=True)
def delete(path: str) -> str:
    '''Delete a file.'''
    open(sys.argv[2], "a").write(f"{path}\\n")
    return "deleted"

endpoint = ScriptedEndpoint([calls("delete", path="a") if sys.argv[1] == "pause" else "done"])
if sys.argv[1] == "pause":
    chat = antiphon.Chat(client=endpoint.client(), tools=[delete])
    try:
        chat.send("delete a")
    except antiphon.ToolsPendingError:
        chat.save("chat.json")
    os.kill(os.getpid(), signal.SIGKILL)
chat = antiphon.Chat.load("chat.json", client=endpoint.client(), tools=[delete])
print(chat.resume({call.id: True for call in chat.pending_calls}).text, end="")
chat.save("chat.json")
"""


def test_a_process_that_is_killed_between_pause_and_resume_loses_nothing(tmp_path: Path) -> None:
    """Another process goes on; the tool runs once."""
    environment = {**os.environ, "PYTHONPATH": str(Path(antiphon.__file__).parents[1])}

    def run(mode: str) -> "subprocess.CompletedProcess[str]":
        words = [sys.executable, "-c", FIRST, mode, "ran"]
        return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert run("pause").returncode == -signal.SIGKILL
    assert not (tmp_path / "ran").exists()
    assert run("resume").stdout == "done"
    assert (tmp_path / "ran").read_text() == "a\n"
    assert "No turn of this chat waits" in run("resume").stderr
    assert (tmp_path / "ran").read_text() == "a\n"


OUTCOMES = st.lists(
    st.sampled_from(["ok", "refuse", "fail", "unknown", "invalid", "model fails"]), min_size=1, max_size=6
)


@given(OUTCOMES, st.booleans())
def test_every_history_on_the_way_is_one_that_the_api_takes(outcomes: list[str], is_saved: bool) -> None:
    """Whatever happens to the calls, each request has one result for each call, and no approved call runs twice."""
    ran: list[str] = []

    @tool(needs_approval=True)
    def act(step: int) -> str:
        """Do a step."""
        ran.append(str(step))
        if outcomes[step] == "fail":
            raise ValueError("no")
        return "ok"

    # The endpoint checks each history as the server does, and answers 400 to one that is not well formed.
    endpoint = ScriptedEndpoint()
    chat = Chat(client=endpoint.client(max_retries=0), tools=[act])
    for step, outcome in enumerate(outcomes):
        name = "nothing" if outcome == "unknown" else "act"
        endpoint.answers(calls(name, step="x" if outcome == "invalid" else step))
    endpoint.answers("done")
    turn: Callable[[], Any] = lambda: chat.send("go")  # noqa: E731 - replaced below
    for _ in range(20):
        try:
            assert turn().text == "done"
            break
        except ToolsPendingError as waiting:
            place = len(ran)
            decisions = {call.id: "refuse" not in outcomes or place % 2 == 0 for call in waiting.calls}
            if is_saved:
                value = json.loads(
                    json.dumps({**chat._history.to_json(), "model": "m", "pending": chat._pending.to_json()})
                )
                chat._restore(value)
            turn = lambda decided=decisions: chat.resume(decided)  # noqa: E731
    else:
        pytest.fail("the turn never ended")
    assert len(ran) == len(set(ran))
    assert all(entry.status == 200 for entry in endpoint.journal)


def test_a_long_result_neither_raises_nor_exceeds_the_context(endpoint: Endpoint) -> None:
    """Ten megabytes become what fits, with the number of characters that were left out."""
    endpoint.replies = [answer(None, calls=[("c1", "read", "{}"), ("c2", "read", "{}")]), answer("done")]

    def read() -> str:
        """Read the log."""
        return "entry of the log\n" * 600_000

    chat = Chat(client=endpoint.client(), tools=[read], context_tokens=4000)
    reply = chat.send("what is in the log?")
    assert reply.text == "done"
    assert chat.count_tokens().tokens <= 4000 - 1000
    assert all("characters left out" in result.content for result in reply.tool_results)
    assert len(reply.tool_results[0].value) == 600_000 * 17


def test_a_chat_is_a_tool_of_another(endpoint: Endpoint) -> None:
    """Each call is a fork of it; its own budget bounds it, and its usage counts there."""
    inner, outer = Endpoint([answer("a poem")]), endpoint
    outer.replies = [answer(None, calls=[("c1", "writer", '{"message": "write"}')] * 1), answer("here it is")]
    writer = Chat("You write.", client=inner.client(), budget=Budget(calls=1))
    chat = Chat(client=outer.client(), tools=[writer.as_tool("writer", "Writes texts")])
    assert chat.send("a poem, please").tool_results[0].content == "a poem"
    assert inner.sent() == [("system", "You write."), ("user", "write")]
    assert (writer.turns, writer.usage.num_calls, chat.usage.num_calls) == ((), 1, 2)
    outer.replies = [answer(None, calls=[("c2", "writer", '{"message": "again"}')]), answer("no more")]
    assert "BudgetExceededError" in chat.send("another").tool_results[0].content
    with pytest.raises(ToolkitError, match="nobody is asked"):
        Chat(client=inner.client(), tools=Files().tools).as_tool("x", "y")


@pytest.mark.anyio
async def test_an_asynchronous_chat_is_a_tool_too(endpoint: Endpoint) -> None:
    """In the loop that it was made in."""
    inner = Endpoint([answer("a poem")])
    endpoint.replies = [answer(None, calls=[("c1", "writer", '{"message": "write"}')]), answer("here it is")]
    async with AsyncChat(client=inner.async_client()) as writer:
        tools = [writer.as_tool("writer", "Writes texts")]
        async with AsyncChat(client=endpoint.async_client(), tools=tools, limits=ToolLimits(rounds=2)) as chat:
            assert (await chat.send("go")).tool_results[0].content == "a poem"
