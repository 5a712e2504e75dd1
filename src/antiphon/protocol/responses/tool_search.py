"""The tool ``tool_search``: its table, the tools that wait for it, and how the model is offered them.

Tools with ``defer_loading`` are left out of the prompt where a request has this tool. The model sees the name and the
description of each function, namespace and MCP server that it may load, and names what it needs as ``paths``. What it has
loaded is a ``tool_search_output``, and can be called from there on, on later turns too.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from antiphon.protocol import problems
from antiphon.protocol.chat import Tool
from antiphon.protocol.fields import Enumeration, String
from antiphon.protocol.responses.tool_names import shown_name
from antiphon.protocol.shapes import JsonObject, Object

Json = dict[str, Any]
NAME = "tool_search"
MAX_DEFERRED = 1024
"""Functions and custom tools of one request that wait to be loaded."""
tool_search_tool = Object(
    {
        "type": String(),
        "execution": Enumeration(("server", "client"), note="Left out: server."),
        "description": String(nullable=True, note="Shown to the model."),
        "parameters": JsonObject(nullable=True, note='Of the call; only with `execution: "client"`.'),
    },
    required=("type",),
)
tool_search_choice = Object({"type": String()}, required=("type",))
_MAX_PATHS = 8
"""Paths that one call names, where the grammar holds it to them."""
_PURPOSE = "Load tools that you need and cannot call yet. Afterwards they can be called like the others."


class DeferredTools(msgspec.Struct, frozen=True, kw_only=True):
    """What is loaded under one path: a function, the deferred tools of a namespace, or an MCP server.

    ``shown`` is the entry of ``tool_search_output``; ``tools`` are what the model can call then, empty for an MCP server, whose
    tools are not known yet.
    """

    path: str
    shown: Json
    tools: tuple[Tool, ...] = ()

    @property
    def description(self) -> str:
        return str(self.shown.get("description") or self.shown.get("server_description") or "")

    @property
    def text(self) -> str:
        """What a search in words reads."""
        parts = (self.path, self.description, *(f"{tool.name} {tool.description or ''}" for tool in self.tools))
        return " ".join(parts).replace("_", " ")


def search_tool(spec: Json, deferred: Sequence[DeferredTools]) -> Tool:
    """Return the tool as the model sees it, with what is there to load."""
    listed = "\n".join(f"- {one.path}: {one.description}".removesuffix(": ") for one in deferred)
    purpose = spec.get("description") or _PURPOSE
    return Tool(
        name=NAME,
        description=f"{purpose}\nWhat can be loaded:\n{listed}" if listed else purpose,
        parameters=spec.get("parameters") or _paths([one.path for one in deferred]),
    )


def _paths(names: Sequence[str]) -> Json:
    one: Json = {"type": "string", "enum": list(names)} if names else {"type": "string"}
    bounds = {"minItems": 1, "maxItems": min(len(names), _MAX_PATHS)} if names else {}
    return {
        "type": "object",
        "properties": {"paths": {"type": "array", "items": one, **bounds}},
        "required": ["paths"],
        "additionalProperties": False,
    }


def check_search_tool(tool: Json, path: str) -> None:
    """Raise ``ApiError`` 400 for parameters of a search that this server runs: it takes paths."""
    if tool.get("execution") != "client" and tool.get("parameters") is not None:
        raise problems.bad_request(
            "'parameters' is only allowed with 'execution' \"client\".", f"{path}.parameters", "invalid_value"
        )


def loaded_names(item: Json) -> list[str]:
    """Return the names of what a ``tool_search_output`` has loaded, as the model calls them, MCP servers by their labels."""
    names: list[str] = []
    for tool in item.get("tools") or ():
        if tool.get("type") == "namespace":
            names += [shown_name(tool.get("name"), str(one.get("name"))) for one in tool.get("tools") or ()]
        else:
            names.append(str(tool.get("name") or tool.get("server_label")))
    return names


def result_text(item: Json) -> str:
    """Return a ``tool_search_output`` as the model reads it; the definitions themselves are among its tools."""
    names = loaded_names(item)
    return f"Loaded: {', '.join(names)}." if names else "Nothing was found under these names."
