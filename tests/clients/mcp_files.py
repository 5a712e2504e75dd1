"""An MCP server over standard streams with one tool, for clients that start one."""

from mcp.server.mcpserver import MCPServer

server = MCPServer("files")


@server.tool()
def read(path: str) -> str:
    """Read a file."""
    return f"text of {path}"


if __name__ == "__main__":
    server.run()
