"""An MCP server for tests: the package's own, over HTTP on a free port or over standard streams (``python mcp_server.py``)."""

import asyncio
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations


class McpUp(NamedTuple):
    """``calls`` are the names of the tools that were called; ``seen`` the headers of each HTTP request."""

    url: str
    calls: list[str]
    seen: list[dict[str, str]]
    began: threading.Event
    ended: threading.Event


def tools(calls: list[str], began: threading.Event, ended: threading.Event) -> MCPServer:
    server = MCPServer("files")

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def read(path: str) -> str:
        """Read a file."""
        calls.append("read")
        return f"text of {path}"

    @server.tool()
    def remove(path: str) -> str:
        """Remove a file."""
        calls.append("remove")
        return f"removed {path}"

    @server.tool()
    def fail() -> str:
        """Fail."""
        calls.append("fail")
        raise ToolError("no such file")

    @server.tool()
    def large() -> str:
        """Return too much."""
        return "x" * 300_000

    @server.tool()
    async def wait() -> str:
        """Wait until the caller has gone."""
        began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()
        return "done"

    @server.tool()
    def whoami(ctx: Context[Any, Any]) -> str:
        """Repeat the token of the request."""
        return f"you sent {dict(ctx.headers or {}).get('authorization', 'nothing')}"

    return server


@contextmanager
def mcp_server() -> Generator[McpUp]:
    """Serve on a free port of this machine until the block ends."""
    calls: list[str] = []
    seen: list[dict[str, str]] = []
    began, ended, up = threading.Event(), threading.Event(), threading.Event()
    inner = tools(calls, began, ended).streamable_http_app()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.append({name.decode(): value.decode() for name, value in scope["headers"]})
        await inner(scope, receive, send)

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            up.set()

    server = Server(
        uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1, ws="none", lifespan="on")
    )
    thread = threading.Thread(target=server.run, name="mcp server")
    thread.start()
    assert up.wait(60)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield McpUp(f"http://127.0.0.1:{port}/mcp", calls, seen, began, ended)
    finally:
        server.should_exit = True
        thread.join(60)


if __name__ == "__main__":
    tools([], threading.Event(), threading.Event()).run("stdio")
