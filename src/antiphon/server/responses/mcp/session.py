"""A session with one MCP server, for one response: opened by the first question, closed with the response.

The package ``mcp`` holds cancel scopes while a session is open, which must be left by the task that entered them. So the session
is a task of its own, which answers one question after another.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, cast

import httpx2
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.client import Transport
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, Tool

from antiphon.server.responses.mcp.hosts import McpHosts
from antiphon.server.responses.mcp.network import mcp_http_client
from antiphon.state import McpServer

# Its lines carry addresses and what servers sent; what matters of them is in the items.
logging.getLogger("mcp").addHandler(logging.NullHandler())
logging.getLogger("mcp").propagate = False

Connect = Callable[[AsyncExitStack], Awaitable[Transport]]
Question = Callable[[Client], Awaitable[Any]]
_CLOSE_S = 3.0
"""How long a goodbye may take: of a program that is stopped, or of a server by HTTP."""
MAX_PAGES = 32
"""Pages of a server's list of tools."""


class McpFailure(Exception):  # noqa: N818 - named after what happened
    """An MCP server could not be asked, or answered with an error. ``code`` is that of its JSON-RPC error."""

    def __init__(self, message: str, code: int = -32000) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class McpSession:
    """``timeout_s`` bounds each question, the opening included."""

    def __init__(self, connect: Connect, timeout_s: float) -> None:
        self._connect = connect
        self._timeout_s = timeout_s
        self._questions: asyncio.Queue[tuple[Question, asyncio.Future[Any]]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def list_tools(self, max_tools: int) -> list[Tool]:
        """Return the server's tools. Raises ``McpFailure``, also for more than ``max_tools``."""

        async def ask(client: Client) -> list[Tool]:
            found: list[Tool] = []
            cursor: str | None = None
            for _ in range(MAX_PAGES):
                page = await client.list_tools(cursor=cursor)
                found += page.tools
                cursor = page.next_cursor
                if len(found) > max_tools:
                    break
                if cursor is None:
                    return found
            raise McpFailure(f"The server lists more than {max_tools} tools, or does not end its list.")

        return await self._ask(ask)

    async def call(self, name: str, arguments: dict[str, Any]) -> CallToolResult:
        """Call a tool. Raises ``McpFailure``."""
        return await self._ask(lambda client: client.call_tool(name, arguments))

    async def aclose(self) -> None:
        """End the session, and what it waits for. Idempotent."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait({task}, timeout=_CLOSE_S)
        if not task.done():
            # It waits for a server that does not answer the goodbye; the second time nothing is said.
            task.cancel()
            await asyncio.wait({task})

    async def _ask(self, question: Question) -> Any:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._serve())
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._questions.put_nowait((question, answer))
        try:
            async with asyncio.timeout(self._timeout_s):
                return await answer
        except TimeoutError:
            await self.aclose()
            raise McpFailure(f"The server did not answer within {self._timeout_s:g} seconds.") from None

    async def _serve(self) -> None:
        answer: asyncio.Future[Any] | None = None
        try:
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(Client(await self._connect(stack), cache=None))
                while True:
                    question, answer = await self._questions.get()
                    try:
                        result = await question(client)
                    except (MCPError, McpFailure, RuntimeError, ValueError) as error:
                        _settle(answer, error)
                    else:
                        if not answer.done():
                            answer.set_result(result)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever broke the session is the answer to what was asked
            waiting = [] if answer is None else [answer]
            while not self._questions.empty():
                waiting.append(self._questions.get_nowait()[1])
            for each in waiting:
                _settle(each, error)


def _settle(answer: "asyncio.Future[Any]", error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(_failure(error))


def _failure(error: BaseException) -> McpFailure:
    """Return the reason in words: that of the first error in a group, and of what caused it."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    if isinstance(error, McpFailure):
        return error
    if isinstance(error, MCPError):
        return McpFailure(error.message, error.code)
    if isinstance(error, httpx2.TimeoutException):
        return McpFailure("The server did not answer in time.")
    return McpFailure(f"The server could not be reached: {error or type(error).__name__}.")


def http_connection(url: str, headers: dict[str, str], hosts: McpHosts, timeout_s: float) -> Connect:
    """Return how to connect to a server by HTTP (streamable)."""

    async def connect(stack: AsyncExitStack) -> Transport:
        client = await stack.enter_async_context(mcp_http_client(hosts, headers, timeout_s))
        return streamable_http_client(url, http_client=client)

    return connect


def process_connection(server: McpServer) -> Connect:
    """Return how to connect to a server that is a program: it is started, and talks over its standard streams."""

    async def connect(stack: AsyncExitStack) -> Transport:
        nowhere = stack.enter_context(open("/dev/null", "w"))  # noqa: ASYNC230, PTH123, SIM115 - it does not block
        parameters = StdioServerParameters(command=server.command, args=list(server.args), env=dict(server.env))
        return stdio_client(parameters, errlog=nowhere)

    return connect
