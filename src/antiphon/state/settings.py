"""The settings ``[responses]``."""

from typing import Literal

import msgspec

from antiphon.errors import ConfigError


class McpServer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An MCP server that is a program of this machine; ``env`` is added to a minimal environment."""

    command: str
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}


class ResponseSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of hosted tools, which MCP servers may be reached, and how much is kept for how long.

    ``mcp_hosts``: hosts whose MCP tools this server calls (see ``server/responses/mcp/hosts.py``); empty: none.
    ``mcp_servers``: programs, by the label under which requests name them. ``mcp_timeout_s`` bounds one question to an MCP
    server. ``max_tool_calls`` bounds the calls that the server runs in one response.

    ``max_websockets``: WebSocket connections at once per process; ``max_websockets_per_key``: of them, those of one key. ``websocket_limit_s``: how long one may last;
    ``websocket_idle_s``: how long it may be idle.
    """

    hosted_tools: Literal["refuse", "leave-out"] = "refuse"
    store: Literal["database", "off"] = "database"
    retention_days: float = 30.0
    max_bytes: int = 1 << 30
    mcp_hosts: tuple[str, ...] = ()
    mcp_servers: dict[str, McpServer] = {}
    mcp_timeout_s: float = 60.0
    max_tool_calls: int = 64
    max_websockets: int = 256
    max_websockets_per_key: int = 64
    websocket_limit_s: float = 3600.0
    websocket_idle_s: float = 1800.0

    def __post_init__(self) -> None:
        if not 0 < self.mcp_timeout_s <= 3600:  # noqa: PLR2004 - an hour
            raise ConfigError("[responses] mcp_timeout_s must be above 0 and at most 3600")
        if min(self.max_websockets, self.max_websockets_per_key) < 0:
            raise ConfigError("[responses] max_websockets and max_websockets_per_key must not be negative")
        if min(self.websocket_limit_s, self.websocket_idle_s) <= 0:
            raise ConfigError("[responses] websocket_limit_s and websocket_idle_s must be positive")
        if self.max_tool_calls < 1:
            raise ConfigError("[responses] max_tool_calls must be at least 1")
        if self.retention_days <= 0:
            raise ConfigError("[responses] retention_days must be above 0", hint='set store = "off" to keep nothing')
        if self.max_bytes <= 0:
            raise ConfigError("[responses] max_bytes must be above 0", hint='set store = "off" to keep nothing')
