"""Items that change how what follows is answered: ``additional_tools``, ``tool_search_output``, ``configuration_update``.

They hold from where they are in the conversation, on later turns too, until another one replaces what they set. Their settings
go before those of the request. The model is not shown them as messages.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from antiphon.protocol.responses.item_fields import kind_of
from antiphon.protocol.responses.mcp_fields import HIDDEN_PATH
from antiphon.protocol.responses.request import ResponseRequest, read_format
from antiphon.protocol.responses.tool_search import NAME
from antiphon.protocol.responses.tools import ServedTool, Toolset, check_number, read_tool_choice, read_tools

Json = dict[str, Any]


def configured(request: ResponseRequest, items: Sequence[Json], num_earlier: int) -> ResponseRequest:
    """Return the request as ``items`` change it; the first ``num_earlier`` of them were sent with earlier requests.

    Raises ``ApiError`` 400 for tools that cannot be offered, and for a choice of a tool that nobody gave.
    """
    request = _with_tools(request, items, num_earlier)
    for item in items:
        if kind_of(item) == "configuration_update":
            request = _updated(request, item)
    return request


def _with_tools(request: ResponseRequest, items: Sequence[Json], num_earlier: int) -> ResponseRequest:
    given = request.given
    toolset = request.given.toolset
    for position, item in enumerate(items):
        if kind_of(item) == "tool_search_output":
            toolset = toolset.with_more(_loaded(item, position, num_earlier))
        if kind_of(item) != "additional_tools":
            continue
        where = "tools" if position < num_earlier else f"input[{position - num_earlier}].tools"
        is_earlier = position < num_earlier
        tools = [tool for tool in item["tools"] or () if not (is_earlier and _lacks_secrets(tool))]
        more = read_tools(tools, given.hosted_tools, given.served, where, defers=toolset.searches or None)
        toolset = toolset.with_more(more)
    if toolset is request.given.toolset and not given.is_choice_open and not toolset.deferred:
        return request
    check_number(len(toolset.tools), "tools")
    chat = msgspec.structs.replace(
        request.chat, tools=toolset.tools, tool_choice=read_tool_choice({"tool_choice": given.tool_choice}, toolset)
    )
    return msgspec.structs.replace(
        request, chat=chat, names=toolset.names, left_out=toolset.left_out, served=_searching(toolset)
    )


def _loaded(item: Json, position: int, num_earlier: int) -> Toolset:
    """Return the functions and custom tools that a search has loaded. An MCP server among them is the request's own affair."""
    where = "tools" if position < num_earlier else f"input[{position - num_earlier}].tools"
    own = [tool for tool in item.get("tools") or () if tool["type"] in {"function", "custom", "namespace"}]
    return read_tools(own, "leave-out", where=where, defers=False)


def _searching(toolset: Toolset) -> tuple[ServedTool, ...]:
    """Return the tools that are run here; ``tool_search`` knows what is still to be loaded."""
    waiting = tuple(one for one in toolset.deferred if not toolset.is_loaded(one))
    return tuple(
        msgspec.structs.replace(tool, deferred=waiting) if tool.kind == NAME else tool for tool in toolset.served
    )


def _lacks_secrets(tool: Json) -> bool:
    """Whether this is an MCP server as it is stored, without its address: it is offered again once a request names it again."""
    return tool["type"] == "mcp" and str(tool.get("server_url", "")).endswith(HIDDEN_PATH)


def _updated(request: ResponseRequest, item: Json) -> ResponseRequest:
    chat, echo = request.chat, dict(request.echo)
    reasoning: Json = item.get("reasoning") or {}
    effort = reasoning.get("effort")
    if effort is not None:
        chat = msgspec.structs.replace(chat, reasoning_effort=effort)
        echo["reasoning"] = echo["reasoning"] | {"effort": effort}
    text: Json | None = item.get("text")
    if text is not None:
        chat = msgspec.structs.replace(chat, response_format=read_format(text["format"]))
        echo["text"] = echo["text"] | {"format": text["format"]}
    return msgspec.structs.replace(request, chat=chat, echo=echo)
