"""Tools of MCP servers, with servers of the official SDK in this process, as a command, and over HTTP."""

import asyncio
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Image
from mcp_types import CallToolResult, EmbeddedResource, ResourceLink, TextResourceContents, ToolAnnotations
from tests.toolkit.scripted_endpoint import Endpoint, answer
from tests.waiting import wait_until

from antiphon.errors import AntiphonError
from antiphon.toolkit.chat.chat import AsyncChat, Chat
from antiphon.toolkit.errors import SchemaError, ToolServerError, ToolsPendingError
from antiphon.toolkit.tools.tool import Tool
from antiphon.toolkit.tools.tool_servers import ToolServer, mcp_tools


def weather_server(name: str = "weather") -> MCPServer:
    server = MCPServer(name)

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def forecast(city: str, days: int = 1) -> str:
        """Tell the weather of a city."""
        return f"sunny in {city} for {days} days"

    @server.tool()
    def fail() -> str:
        raise ValueError("secret detail")

    @server.tool()
    def numbers() -> dict[str, int]:
        return {"a": 1}

    @server.tool()
    def picture() -> Image:
        return Image(data=b"123456", format="png")

    @server.tool(name="odd.name/with space")
    def odd() -> CallToolResult:
        return CallToolResult(
            content=[
                ResourceLink(type="resource_link", name="report", uri="file:///r.txt"),
                EmbeddedResource(type="resource", resource=TextResourceContents(uri="file:///t", text="inside")),
            ]
        )

    @server.tool()
    def long() -> str:
        return "x " * 100_000

    return server


def named(tools: list[Tool], name: str) -> Tool:
    return next(tool for tool in tools if tool.name == name)


async def called(tools: list[Tool], name: str, arguments: str = "{}") -> Any:
    tool = named(tools, name)
    return await tool.call(tool.arguments(arguments))


@pytest.mark.anyio
async def test_results_of_every_kind_are_text_for_the_model() -> None:
    """Text as it is, structured values as JSON, and what is not text by its kind and size."""
    async with mcp_tools(weather_server(), approve="never") as tools:
        assert await called(tools, "forecast", '{"city": "Oslo", "days": 2}') == "sunny in Oslo for 2 days"
        assert '"a": 1' in await called(tools, "numbers")
        assert await called(tools, "picture") == "(an image part, image/png, 6 bytes, not shown)"
        odd = next(tool.name for tool in tools if tool.name.startswith("odd"))
        assert await called(tools, odd) == "(a link to 'report': file:///r.txt)\ninside"
        with pytest.raises(ToolServerError, match="Error executing tool fail"):
            await called(tools, "fail")


@pytest.mark.anyio
async def test_names_are_those_that_the_api_allows_and_schemas_are_the_servers() -> None:
    """A name with other characters ends in a hash; strict mode is left off."""
    async with mcp_tools(weather_server()) as tools:
        names = [tool.name for tool in tools]
        assert names[:2] == ["forecast", "fail"]
        assert names[4].startswith("odd_name_with_space_")
        function = tools[0].definition["function"]
        assert (function["strict"], function["description"]) == (False, "Tell the weather of a city.")
        assert function["parameters"]["required"] == ["city"]
        with pytest.raises(ValueError, match="days"):
            tools[0].arguments('{"city": "Oslo", "days": "two"}')


def test_a_chat_runs_them_and_cuts_long_results(endpoint: Endpoint) -> None:
    """Through the synchronous face; the model is told what is left out and what failed."""
    calls = [("c1", "forecast", '{"city": "Rome"}'), ("c2", "long", "{}"), ("c3", "fail", "{}")]
    endpoint.replies = [answer(None, calls=calls), answer("done")]
    with mcp_tools(ToolServer(weather_server(), approve="never", max_result_tokens=100)) as tools:
        reply = Chat(client=endpoint.client(), tools=tools).send("weather?")
    shown = [result.content for result in reply.tool_results]
    assert shown[0] == "sunny in Rome for 1 days"
    assert len(shown[1]) < 1000
    assert "characters left out" in shown[1]
    assert [result.outcome for result in reply.tool_results] == ["ok", "ok", "failed"]
    assert len(reply.tool_results[1].value) == 200_000


@pytest.mark.parametrize(
    ("approve", "asked"), [("always", ["forecast", "numbers"]), ("changes", ["numbers"]), ("never", [])]
)
@pytest.mark.anyio
async def test_calls_need_approval_unless_the_server_is_trusted(approve: Any, asked: list[str]) -> None:
    """By default all of them, since what a server says of its tools is only what it says."""
    async with mcp_tools(weather_server(), approve=approve) as tools:
        needed = [tool.name for tool in tools if tool.options.needs_approval]
        assert [name for name in ("forecast", "numbers") if name in needed] == asked


@pytest.mark.anyio
async def test_a_chat_asks_before_each_call(endpoint: Endpoint) -> None:
    """And says to the model that the call was refused."""
    endpoint.replies = [answer(None, calls=[("c1", "forecast", '{"city": "Rome"}')]), answer("no")]
    async with mcp_tools(weather_server()) as tools:
        chat = AsyncChat(client=endpoint.async_client(), tools=tools, approve=lambda call: f"not {call.name}")
        reply = await chat.send("weather?")
    assert reply.tool_results[0].content == "Refused: not forecast."


@pytest.mark.anyio
async def test_tools_of_one_name_get_their_servers_in_front() -> None:
    """Two servers, even of the same name, and a third that shares nothing."""
    other = MCPServer("other")
    other.add_tool(lambda: "x", name="alone")
    servers = [ToolServer(weather_server(), only=["forecast"]) for _ in range(2)]
    async with mcp_tools(*servers, ToolServer(weather_server(), name="third", only=["forecast"]), other) as tools:
        assert [tool.name for tool in tools] == ["weather1_forecast", "weather2_forecast", "third_forecast", "alone"]
        assert await called(tools, "weather2_forecast", '{"city": "Oslo"}') == "sunny in Oslo for 1 days"


SERVER = """
import os
from mcp.server import MCPServer
server = MCPServer("command")

@server.tool()
def environment(name: str) -> str:
    return os.environ.get(name, "not set")

server.run()
"""


def test_a_command_is_a_server_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets the variables that are given, and no others of ours; leaving the block ends it."""
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    (tmp_path / "server.py").write_text(SERVER)
    command = [sys.executable, str(tmp_path / "server.py")]
    with mcp_tools(ToolServer(command, environment={"GIVEN": "yes"}, approve="never")) as tools:
        from antiphon.toolkit._sync import portal  # noqa: PLC0415 - where the synchronous face runs its calls

        assert portal.call(called(tools, "environment", '{"name": "GIVEN"}')) == "yes"
        assert portal.call(called(tools, "environment", '{"name": "OPENAI_API_KEY"}')) == "not set"


@pytest.fixture
def url() -> Generator[str]:
    """The address of a server over HTTP."""
    server = uvicorn.Server(uvicorn.Config(weather_server().streamable_http_app(), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/mcp"
    server.should_exit = True
    thread.join()


@pytest.mark.anyio
async def test_a_url_is_a_server_too(url: str) -> None:
    """Over Streamable HTTP, with headers of the application's."""
    async with mcp_tools(ToolServer(url, headers={"authorization": "Bearer secret"})) as tools:
        assert await called(tools, "forecast", '{"city": "Oslo"}') == "sunny in Oslo for 1 days"
        assert "secret" not in repr(tools[0]) + repr(ToolServer(url, headers={"authorization": "secret"}))


@pytest.mark.parametrize(
    ("server", "told"),
    [
        ("http://127.0.0.1:9/mcp", "http://127.0.0.1:9/mcp"),
        (["antiphon-no-such-command"], "antiphon-no-such-command"),
        (ToolServer(weather_server(), only=["nothing"]), "it has no tools ['nothing']"),
    ],
)
@pytest.mark.anyio
async def test_a_server_that_cannot_be_used_is_named(server: Any, told: str) -> None:
    """With the reason, and with what to do; not as a group of exceptions."""
    with pytest.raises(ToolServerError) as raised:
        async with mcp_tools(weather_server(), server):
            pass
    assert told in str(raised.value)
    assert raised.value.hint


@pytest.mark.anyio
async def test_what_the_block_raises_comes_out_as_it_is() -> None:
    """The connections' task groups do not wrap it."""
    with pytest.raises(KeyError):
        async with mcp_tools(weather_server()):
            raise KeyError("mine")


def test_tools_of_another_loop_say_so() -> None:
    """A connection belongs to the event loop that opened it."""
    with mcp_tools(weather_server()) as tools, pytest.raises(ToolServerError, match="another event loop"):
        asyncio.run(called(tools, "forecast", '{"city": "Oslo"}'))


@pytest.mark.anyio
async def test_a_schema_that_is_none_is_refused() -> None:
    """A server's schema is checked before a model sees it."""
    server = MCPServer("odd")
    server.add_tool(lambda: "x", name="t")
    server._tool_manager._tools["t"].parameters = {"type": "object", "required": 1}
    with pytest.raises(SchemaError, match="'t' of MCPServer in this process"):
        async with mcp_tools(server):
            pass


def test_without_somebody_to_ask_a_call_waits(endpoint: Endpoint) -> None:
    """The same rule as for functions that are marked so; it runs once it is approved."""
    endpoint.replies = [answer(None, calls=[("c1", "forecast", '{"city": "Rome"}')]), answer("sunny")]
    with mcp_tools(weather_server()) as tools:
        chat = Chat(client=endpoint.client(), tools=tools)
        with pytest.raises(ToolsPendingError):
            chat.send("weather?")
        assert chat.resume({"c1": True}).tool_results[0].content == "sunny in Rome for 1 days"


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the package says which extra brings it."""
    from antiphon.extras import missing_extra  # noqa: PLC0415 - what the command line does

    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(ImportError) as raised, mcp_tools("http://127.0.0.1:9/mcp"):
        pass
    found = missing_extra(raised.value)
    assert isinstance(found, AntiphonError)
    assert "antiphon[mcp]" in found.hint
