"""From the entry of a request's ``tools`` to the MCP server that it names, within what the settings allow."""

from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from antiphon.extras import MissingExtra
from antiphon.protocol import problems
from antiphon.protocol.responses.tools import ServedTool
from antiphon.server.responses.mcp.hosts import McpHosts
from antiphon.server.responses.server_tool import ServerTool
from antiphon.state import ResponseSettings

Json = dict[str, Any]
_PORTS = {"http": 80, "https": 443}
_NOT_OURS = {"host", "content-length", "transfer-encoding", "connection", "content-type", "accept", "mcp-session-id"}


class McpServers:
    """The MCP servers that requests may name. ``ConfigError`` if some are set and the package ``mcp`` is missing."""

    def __init__(self, settings: ResponseSettings) -> None:
        self._settings = settings
        self._hosts = McpHosts(settings.mcp_hosts)
        if self.is_on:
            _check_installed()

    @property
    def is_on(self) -> bool:
        """Whether any server may be reached."""
        return bool(self._hosts) or bool(self._settings.mcp_servers)

    def open(self, served: ServedTool, account: str) -> ServerTool:  # noqa: ARG002 - every account reaches the same servers
        """Return the tool for an entry; nothing is connected yet. ``ApiError`` 400 for a server that may not be reached."""
        from antiphon.server.responses.mcp.session import (  # noqa: PLC0415 - needs the extra
            McpSession,
            http_connection,
            process_connection,
        )
        from antiphon.server.responses.mcp.tool import McpTool  # noqa: PLC0415 - the same

        spec, timeout_s = served.spec, self._settings.mcp_timeout_s
        url = spec.get("server_url")
        if url is None:
            label = spec["server_label"]
            if label not in self._settings.mcp_servers:
                raise problems.bad_request(
                    f"Missing 'server_url': no MCP server with the label '{label}' is configured in "
                    "[responses.mcp_servers] of this server.",
                    f"{served.path}.server_url",
                    "missing_required_parameter",
                )
            return McpTool(spec, McpSession(process_connection(self._settings.mcp_servers[label]), timeout_s), ())
        self._check_address(url, f"{served.path}.server_url")
        headers = _headers(spec, served.path)
        session = McpSession(http_connection(url, headers, self._hosts, timeout_s), timeout_s)
        given: dict[str, str] = spec.get("headers") or {}
        return McpTool(spec, session, [*given.values(), spec.get("authorization", "")])

    def _check_address(self, url: str, path: str) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError:
            parts, port = urlsplit(""), 0
        if parts.scheme not in _PORTS or not parts.hostname or parts.username is not None or not url.isprintable():
            raise problems.bad_request(
                f"Invalid '{path}': expected an http or https address without user name and password.",
                path,
                "invalid_value",
            )
        if not self._hosts.allows(parts.hostname, port):
            raise problems.bad_request(
                f"This server does not connect to the MCP server '{parts.hostname}'. To allow it, add the host to "
                "[responses] mcp_hosts.",
                path,
                "unsupported_value",
            )


def _headers(spec: Json, path: str) -> dict[str, str]:
    """Return the headers for the MCP server. ``ApiError`` 400 for what cannot be one, or is the protocol's own."""
    headers: dict[str, str] = dict(spec.get("headers") or {})
    for name, value in headers.items():
        is_header = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
        is_value = value.isascii() and value.isprintable()
        if not is_header or not is_value or name.lower() in _NOT_OURS:
            raise problems.bad_request(
                f"Invalid '{path}.headers': {name[:64]!r} is not a header that a request may set.",
                f"{path}.headers",
                "invalid_value",
            )
    token = spec.get("authorization")
    if token is None:
        return headers
    if any(name.lower() == "authorization" for name in headers):
        raise problems.bad_request(
            f"'{path}' has both 'authorization' and a header of that name. Send one of them.",
            f"{path}.authorization",
            "invalid_value",
        )
    if not (token.isascii() and token.isprintable()):
        raise problems.bad_request(
            f"Invalid '{path}.authorization': it is not a token of printable ASCII characters.",
            f"{path}.authorization",
            "invalid_value",
        )
    return headers | {"Authorization": f"Bearer {token}"}


def _check_installed() -> None:
    if find_spec("mcp") is None:
        raise MissingExtra("mcp", "mcp")
