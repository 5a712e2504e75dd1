"""The tables of MCP: the tool of a request, the choice of it, and the items that it leads to.

A tool's headers and its authorization are for the MCP server alone: they are neither stored nor shown.
"""

from typing import Any, cast
from urllib.parse import urlsplit

from antiphon.protocol.fields import Enumeration, Flag, Spec, String
from antiphon.protocol.shapes import Array, Either, JsonObject, Mapping, Object, Unsupported

Json = dict[str, Any]
HIDDEN_PATH = "/<redacted>"
LABEL_PATTERN = "^[a-zA-Z][a-zA-Z0-9_-]*$"

_label = String(min_length=1, max_length=64, pattern=LABEL_PATTERN)
_names = Array(String(min_length=1, max_length=128), "strings", max_length=256)
_filter_fields: dict[str, Spec] = {
    "tool_names": _names,
    "read_only": Flag(nullable=True, note="Whether the server says with `readOnlyHint` that the tool changes nothing."),
}
_filter = Object(_filter_fields)

mcp_tool = Object(
    {
        "type": String(),
        "server_label": _label,
        "server_url": String(
            min_length=1,
            max_length=2048,
            note="Left out: the server of the label in `[responses.mcp_servers]` of the configuration.",
        ),
        "server_description": String(max_length=4096),
        "allowed_tools": Either((_names, _filter), nullable=True),
        "require_approval": Either(
            (Enumeration(("always", "never")), Object({"always": _filter, "never": _filter})),
            nullable=True,
            note="Left out: always.",
        ),
        "headers": Mapping(
            String(max_length=8192), max_properties=32, max_name_length=128, nullable=True, note="Not stored."
        ),
        "authorization": String(max_length=16384, note="A bearer token. Not stored."),
        "connector_id": Unsupported(
            String(), "Connectors of OpenAI are not available on this server; use 'server_url'."
        ),
        "tunnel_id": Unsupported(String(), "Tunnels of OpenAI are not available on this server; use 'server_url'."),
        "defer_loading": Flag(note="With the tool `tool_search`: the server is asked for its tools when it is loaded."),
        "allowed_callers": Array(
            Enumeration(("direct", "programmatic"), supported=("direct",)), "strings", nullable=True
        ),
    },
    required=("type", "server_label"),
)
mcp_choice = Object(
    {"type": String(), "server_label": _label, "name": String(min_length=1, max_length=128, nullable=True)},
    required=("type", "server_label"),
)

_item_id = String(max_length=128, nullable=True)
_status = Enumeration(("in_progress", "completed", "incomplete", "calling", "failed"), nullable=True)
_named: dict[str, Spec] = {
    "type": String(),
    "id": _item_id,
    "server_label": String(max_length=128),
    "name": String(note="As the MCP server has it, whatever it is."),
    "arguments": String(),
}
_listed = Object(
    {
        "name": String(),
        "description": String(nullable=True),
        "input_schema": Spec(),
        "annotations": JsonObject(nullable=True),
    },
    required=("name", "input_schema"),
)
MCP_ITEMS: dict[str, Object] = {
    "mcp_list_tools": Object(
        {
            "type": String(),
            "id": _item_id,
            "server_label": String(max_length=128),
            "tools": Array(_listed, "objects", max_length=2048),
            "error": Spec(nullable=True),
        },
        required=("server_label", "tools"),
    ),
    "mcp_call": Object(
        {
            **_named,
            "approval_request_id": _item_id,
            "output": String(nullable=True),
            "error": Spec(nullable=True),
            "status": _status,
        },
        required=("server_label", "name", "arguments"),
    ),
    "mcp_approval_request": Object(_named, required=("id", "server_label", "name", "arguments")),
    "mcp_approval_response": Object(
        {
            "type": String(),
            "id": _item_id,
            "approval_request_id": String(min_length=1, max_length=128),
            "approve": Flag(),
            "reason": String(max_length=4096, nullable=True),
        },
        required=("approval_request_id", "approve"),
    ),
}


def shown_tool(tool: Json) -> Json:
    """Return an MCP tool as it is stored and shown: without headers and authorization, and of its address the host alone.

    As OpenAI does it: servers that are made for one client have their secret in the path.
    """
    shown = {key: value for key, value in tool.items() if key not in {"headers", "authorization"}}
    if isinstance(tool.get("server_url"), str):
        shown["server_url"] = shown_address(tool["server_url"])
    return shown


def shown_address(url: str) -> str:
    """Return scheme, host and port of an address."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:
        return HIDDEN_PATH
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}{HIDDEN_PATH}"


def without_secrets(value: Any) -> Any:
    """Return a request's value with every MCP tool in it as ``shown_tool`` shows it, however deep it lies."""
    if isinstance(value, dict):
        given = cast("Json", value)
        if given.get("type") == "mcp" and "server_label" in given:
            given = shown_tool(given)
        return {key: without_secrets(item) for key, item in given.items()}
    if isinstance(value, list):
        return [without_secrets(item) for item in cast("list[Any]", value)]
    return value
