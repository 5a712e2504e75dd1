"""Tools of MCP servers (Model Context Protocol, https://modelcontextprotocol.io), as tools of a chat.

A server is foreign: its tools need approval unless the application says otherwise, its schemas are checked, arguments are
validated before they are sent, and results are cut at a bound. Needs ``antiphon[mcp]``.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TextIO, cast
from urllib.parse import urlsplit

from antiphon.toolkit._sync import portal
from antiphon.toolkit.arguments import require_one_of, require_several
from antiphon.toolkit.errors import ToolkitError, ToolServerError
from antiphon.toolkit.tools.arguments_schema import ArgumentsSchema
from antiphon.toolkit.tools.tool import Tool, ToolOptions

if TYPE_CHECKING:
    import mcp_types
    from mcp import Client
    from mcp.client import Transport
    from mcp.server import MCPServer, Server

    Address = str | Sequence[str] | MCPServer | Server[Any] | Transport

ApprovalNeeded = Literal["always", "changes", "never"]

_MAX_NAME = 64
_MAX_TOOLS = 1000
_MAX_SHOWN = 200


@dataclass(frozen=True, slots=True)
class ToolServer:
    """Where tools come from, and how far they are trusted.

    ``address``: a URL, a command as a list of words, or an object of the ``mcp`` package (a server in this process, a
    transport). ``name`` tells its tools from those of others with the same name (None: the server's own); ``headers`` go
    with each HTTP request, and ``environment`` to the command's process, which gets PATH, HOME and the like alone
    otherwise. ``approve``: "always" asks before each call, "changes" before calls of tools that the server does not mark as
    read-only, "never" trusts it. ``only`` names the tools to offer. ``max_result_tokens`` bounds each result.
    """

    address: Address
    name: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    approve: ApprovalNeeded = "always"
    only: Sequence[str] | None = None
    timeout_s: float | None = None
    max_result_tokens: int = 10_000

    def __post_init__(self) -> None:
        require_one_of("approve", self.approve, ApprovalNeeded)
        require_several("only", self.only)

    def __repr__(self) -> str:
        """Leave out headers and environment, which hold keys."""
        return f"ToolServer({self.described!r}, approve={self.approve!r})"

    @property
    def described(self) -> str:
        """The address in words, without credentials."""
        if isinstance(self.address, str):
            parts = urlsplit(self.address)
            return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        if isinstance(self.address, Sequence):
            return " ".join(self.address)
        return f"{type(self.address).__name__} in this process"


class ToolServerTool(Tool):
    """A tool of an MCP server. ``name`` is what the model calls it, ``remote_name`` what the server does."""

    def __init__(self, name: str, told: mcp_types.Tool, server: ToolServer, client: Client) -> None:
        self.name = name
        self.remote_name = told.name
        self.server = server
        is_read_only = told.annotations is not None and bool(told.annotations.read_only_hint)
        needs_approval = server.approve == "always" or (server.approve == "changes" and not is_read_only)
        self.options = ToolOptions(server.timeout_s, needs_approval, server.max_result_tokens)
        self._schema = ArgumentsSchema(told.input_schema, f"The schema of the tool {told.name!r} of {server.described}")
        described = {
            "name": name,
            "description": told.description or told.title or "",
            "parameters": told.input_schema,
            # Strict mode would refuse most schemas of servers; the arguments are checked here.
            "strict": False,
        }
        self.definition = {"type": "function", "function": described}
        self._client = client
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        return f"<tool {self.name}, of {self.server.described}>"

    def arguments(self, text: str) -> dict[str, Any]:
        """Return the arguments; raises ValueError if the server's schema does not allow them."""
        return self._schema.read(text)

    async def call(self, arguments: Mapping[str, Any]) -> str:
        """Call the tool and return its result as text; raises ToolServerError if the server says that it failed."""
        if asyncio.get_running_loop() is not self._loop:
            raise ToolServerError(
                f"The tool {self.name!r} was opened in another event loop",
                hint="use `with mcp_tools(...)` for Chat, and `async with mcp_tools(...)` for AsyncChat",
            )
        result = await self._client.call_tool(self.remote_name, dict(arguments))
        text = _as_text(result)
        if result.is_error:
            raise ToolServerError(text or "the server gives no reason")
        return text


class mcp_tools:  # noqa: N801 - used as a function: with mcp_tools(...) as tools
    """Connect to MCP servers and give their tools: ``with`` for ``Chat``, ``async with`` for ``AsyncChat``.

    Each server is a ``ToolServer`` or only its address, for which ``approve`` holds ("always" if not given). Tools of the same name get their servers' names in front. Raises
    ToolServerError for a server that cannot be reached or does not speak the protocol, SchemaError for a tool whose schema
    is not one. Leaving the block closes the connections and ends the commands.
    """

    def __init__(self, *servers: ToolServer | Address, approve: ApprovalNeeded | None = None) -> None:
        if approve is not None and any(isinstance(server, ToolServer) for server in servers):
            raise TypeError("approve is for servers that are given by their address; a ToolServer has its own")
        self._servers = [
            server if isinstance(server, ToolServer) else ToolServer(server, approve=approve or "always")
            for server in servers
        ]
        self._leave: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None

    def __enter__(self) -> list[Tool]:
        return portal.call(self.__aenter__())

    def __exit__(self, *_: object) -> None:
        portal.call(self.__aexit__())

    async def __aenter__(self) -> list[Tool]:
        # In a task of their own: the connections' task groups would wrap what the block raises.
        ready: asyncio.Future[list[Tool]] = asyncio.get_running_loop().create_future()
        self._leave = asyncio.Event()
        self._task = asyncio.create_task(self._hold(ready, self._leave))
        try:
            await asyncio.wait([ready, self._task], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        if not ready.done() or ready.exception() is not None:
            await self._task
        return ready.result()

    async def __aexit__(self, *_: object) -> None:
        assert self._leave is not None
        assert self._task is not None
        self._leave.set()
        await self._task

    async def _hold(self, ready: asyncio.Future[list[Tool]], leave: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            try:
                tools = _named_tools([await _opened(server, stack) for server in self._servers])
            except (ToolkitError, ImportError) as error:
                # Given over, not raised: the task groups of the connections that are open would wrap it.
                ready.set_exception(error)
                return
            ready.set_result(tools)
            await leave.wait()


@dataclass(frozen=True, slots=True)
class _Listed:
    server: ToolServer
    client: Client
    name: str
    tools: Sequence[mcp_types.Tool]


@asynccontextmanager
async def _connected(server: ToolServer) -> AsyncGenerator[Client]:
    import httpx2  # noqa: PLC0415 - as below
    from mcp import Client, StdioServerParameters, stdio_client  # noqa: PLC0415 - an extra, and 0.5 s to import
    from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415

    address = server.address
    async with AsyncExitStack() as stack:
        if isinstance(address, str):
            http = await stack.enter_async_context(httpx2.AsyncClient(headers=dict(server.headers), timeout=30.0))
            client = Client(streamable_http_client(address, http_client=http))
        elif isinstance(address, Sequence):
            environment = dict(server.environment)
            command = StdioServerParameters(command=address[0], args=list(address[1:]), env=environment)
            client = Client(stdio_client(command, errlog=stack.enter_context(_standard_error())))
        else:
            client = Client(address)
        yield await stack.enter_async_context(client)


@contextmanager
def _standard_error() -> Generator[TextIO]:
    """Yield where a command's standard error goes: to ours, or nowhere where ours is not a file, as in a notebook."""
    try:
        sys.stderr.fileno()
    except (OSError, AttributeError):
        with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123 - not a path of the user's
            yield nowhere
    else:
        yield sys.stderr


async def _opened(server: ToolServer, stack: AsyncExitStack) -> _Listed:
    try:
        return await _list_tools(server, await stack.enter_async_context(_connected(server)))
    except Exception as error:
        raise _unreachable(server, error) from error


async def _list_tools(server: ToolServer, client: Client) -> _Listed:
    tools: list[mcp_types.Tool] = []
    cursor: str | None = None
    while True:
        page = await client.list_tools(cursor=cursor)
        tools.extend(page.tools)
        if len(tools) > _MAX_TOOLS:
            raise ToolServerError(f"it lists more than {_MAX_TOOLS} tools", hint="name those to offer: only=[...]")
        cursor = page.next_cursor
        if not cursor:
            break
    if server.only is not None:
        if missing := set(server.only) - {told.name for told in tools}:
            known = ", ".join(told.name for told in tools)
            raise ToolServerError(f"it has no tools {sorted(missing)!r}", hint=f"it has: {known}"[:_MAX_SHOWN])
        tools = [told for told in tools if told.name in server.only]
    return _Listed(server, client, server.name or (client.server_info and client.server_info.name) or "mcp", tools)


def _named_tools(listed: Sequence[_Listed]) -> list[Tool]:
    """Name each tool for the model: its own name, or with its server's in front where another has the same."""
    servers = Counter(each.name for each in listed)
    numbers: Counter[str] = Counter()
    uses = Counter(_allowed(told.name) for each in listed for told in each.tools)
    made: list[Tool] = []
    for each in listed:
        numbers[each.name] += 1
        prefix = each.name if servers[each.name] == 1 else f"{each.name}{numbers[each.name]}"
        for told in each.tools:
            name = _allowed(told.name)
            if uses[name] > 1:
                name = _allowed(f"{prefix}_{told.name}")
            made.append(ToolServerTool(name, told, each.server, each.client))
    return made


def _allowed(name: str) -> str:
    """Return a name that the API allows; one that had to be changed ends in a hash, so that no two become the same."""
    allowed = re.sub(r"[^a-zA-Z0-9_-]", "_", name)
    if allowed == name and len(name) <= _MAX_NAME:
        return name
    return f"{allowed[: _MAX_NAME - 7]}_{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def _as_text(result: mcp_types.CallToolResult) -> str:
    """Return what the model gets. A part that is not text is named, so that the model knows that there was one."""
    from pydantic_core import to_json  # noqa: PLC0415

    texts: list[str] = []
    for block in result.content:
        match block.type:
            case "text":
                texts.append(block.text)
            case "resource":
                text = getattr(block.resource, "text", None)
                texts.append(text if text is not None else f"(a file, {block.resource.uri}, which is not shown)")
            case "resource_link":
                texts.append(f"(a link to {block.name!r}: {block.uri})")
            case "image" | "audio":
                texts.append(f"(an {block.type} part, {block.mime_type}, {len(block.data) * 3 // 4} bytes, not shown)")
    if not texts and result.structured_content is not None:
        return to_json(result.structured_content).decode()
    return "\n".join(texts)


def _unreachable(server: ToolServer, error: Exception) -> ToolServerError:
    """Return the error of a server, its first cause in words."""
    cause: BaseException = error
    while isinstance(cause, BaseExceptionGroup):
        cause = cast("BaseExceptionGroup[BaseException]", cause).exceptions[0]
    if isinstance(cause, ImportError):
        raise cause
    if isinstance(cause, ToolServerError):
        return ToolServerError(f"The tools of {server.described} cannot be used: {cause.message}", hint=cause.hint)
    hint = "check the URL; it commonly ends in /mcp" if isinstance(server.address, str) else "run the command by hand"
    why = str(cause) or type(cause).__name__
    return ToolServerError(f"The tools of {server.described} cannot be used: {why}", hint=hint)
