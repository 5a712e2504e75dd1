"""An MCP server as a tool of one turn: its list of tools, calls of them, and requests for approval, all as items."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

import msgspec
from mcp_types import CallToolResult
from mcp_types import Tool as ListedTool

from antiphon.protocol.chat import Tool
from antiphon.protocol.ids import new_id
from antiphon.protocol.responses.mcp_history import McpRecord
from antiphon.protocol.responses.output_items import ItemAdded, ItemDone, ItemEvent, ItemNews
from antiphon.protocol.responses.tool_names import shown_name
from antiphon.server.responses.mcp.session import McpFailure, McpSession
from antiphon.server.responses.server_tool import ServerCall

Json = dict[str, Any]
MAX_LISTED = 128
"""Tools that a server may list."""
MAX_LIST_BYTES = 1024 * 1024
MAX_RESULT_CHARS = 262_144
"""Characters of a call's result."""
_HIDDEN = "<redacted>"
_SHORTEST_SECRET = 6


class McpTool:
    """``spec`` is the entry of ``tools``, checked; ``secrets`` are the values that must not be shown."""

    def __init__(self, spec: Json, session: McpSession, secrets: Sequence[str]) -> None:
        self._label: str = spec["server_label"]
        self._spec = spec
        self._session = session
        self._secrets = [secret for secret in secrets if len(secret) >= _SHORTEST_SECRET]
        self._listing: Json | None = None
        self._is_from_history = False
        self._names: dict[str, Json] = {}

    @property
    def definitions(self) -> Sequence[Tool]:
        return [
            Tool(name=shown, description=listed.get("description"), parameters=_parameters(listed["input_schema"]))
            for shown, listed in self._names.items()
        ]

    async def prepare(self, items: Sequence[Json]) -> AsyncGenerator[ItemEvent]:
        earlier = [
            item
            for item in items
            if item.get("type") == "mcp_list_tools" and item["server_label"] == self._label and not item.get("error")
        ]
        if earlier and self._listing is None:
            # The client, or the response that this one follows, has the list: asking again would change the prompt.
            self._listing, self._is_from_history = earlier[-1], True
            self._choose()
        if self._is_from_history:
            return
        begun: Json = {"id": new_id("mcpl", "_"), "type": "mcp_list_tools", "server_label": self._label, "tools": []}
        if self._listing is not None:
            begun["id"] = self._listing["id"]
        yield ItemAdded(begun)
        yield ItemNews(begun["id"], "response.mcp_list_tools.in_progress")
        if self._listing is None:
            self._listing = await self._list(begun)
            self._choose()
        outcome = "failed" if self._listing.get("error") else "completed"
        yield ItemNews(begun["id"], f"response.mcp_list_tools.{outcome}")
        yield ItemDone(self._listing)

    async def resume(self, items: Sequence[Json]) -> AsyncGenerator[ItemEvent]:
        for request in McpRecord(items).approved:
            if request["server_label"] != self._label:
                continue
            begun = self._begun(request["name"], request["id"]) | {"arguments": request["arguments"]}
            yield ItemAdded(begun)
            yield ItemNews(begun["id"], "response.mcp_call.in_progress")
            async for event in self._execute(begun):
                yield event

    def begin(self, call: ServerCall) -> list[ItemEvent]:
        listed = self._names[call.name]
        if self._needs_approval(listed):
            return []
        begun = self._begun(listed["name"], None)
        call.item_id = begun["id"]
        return [ItemAdded(begun), ItemNews(call.item_id, "response.mcp_call.in_progress")]

    def add_arguments(self, call: ServerCall, text: str) -> list[ItemEvent]:
        return [ItemNews(call.item_id, "response.mcp_call_arguments.delta", {"delta": text})] if call.item_id else []

    async def run(self, call: ServerCall) -> AsyncGenerator[ItemEvent]:
        name: str = self._names[call.name]["name"]
        if not call.item_id:
            call.ends_turn = True
            request: Json = {
                "id": new_id("mcpr", "_"),
                "type": "mcp_approval_request",
                "arguments": call.arguments,
                "name": name,
                "server_label": self._label,
            }
            yield ItemAdded(request)
            yield ItemDone(request)
            return
        yield ItemNews(call.item_id, "response.mcp_call_arguments.done", {"arguments": call.arguments})
        async for event in self._execute(self._begun(name, None) | {"id": call.item_id, "arguments": call.arguments}):
            yield event

    def abandon(self, call: ServerCall) -> list[ItemEvent]:
        if not call.item_id:
            return []
        item = self._begun(self._names[call.name]["name"], None) | {"id": call.item_id, "arguments": call.arguments}
        return [ItemDone(item | {"status": "incomplete"})]

    async def aclose(self) -> None:
        await self._session.aclose()

    async def _list(self, begun: Json) -> Json:
        try:
            tools = [_listed(tool) for tool in await self._session.list_tools(MAX_LISTED)]
        except McpFailure as error:
            return begun | {"error": self._shown(error.message)}
        if len(msgspec.json.encode(tools)) > MAX_LIST_BYTES:
            return begun | {"error": f"The server's list of tools has more than {MAX_LIST_BYTES} bytes."}
        return begun | {"tools": [tool for tool in tools if self._is_allowed(tool)], "error": None}

    def _choose(self) -> None:
        assert self._listing is not None
        tools: list[Json] = self._listing["tools"]
        self._names = {shown_name(self._label, tool["name"]): tool for tool in tools if self._is_allowed(tool)}

    def _begun(self, name: str, approval: str | None) -> Json:
        return {
            "id": new_id("mcp", "_"),
            "type": "mcp_call",
            "status": "in_progress",
            "approval_request_id": approval,
            "arguments": "",
            "error": None,
            "name": name,
            "output": None,
            "server_label": self._label,
        }

    async def _execute(self, item: Json) -> AsyncGenerator[ItemEvent]:
        try:
            result = await self._session.call(item["name"], _decoded(item["arguments"]))
            done = item | self._outcome(result)
        except McpFailure as error:
            failure = {"type": "mcp_protocol_error", "code": error.code, "message": self._shown(error.message)}
            done = item | {"status": "failed", "error": failure}
        yield ItemNews(item["id"], f"response.mcp_call.{done['status']}")
        yield ItemDone(done)

    def _outcome(self, result: CallToolResult) -> Json:
        text = self._shown(_text_of(result))
        if len(text) > MAX_RESULT_CHARS:
            raise McpFailure(f"The result has {len(text)} characters, more than the {MAX_RESULT_CHARS} that are taken.")
        if result.is_error:
            content = [{"type": "text", "text": text}]
            return {"status": "failed", "error": {"type": "mcp_tool_execution_error", "content": content}}
        return {"status": "completed", "output": text}

    def _shown(self, text: str) -> str:
        """Return a text of the server without the secrets that it was sent."""
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        return text

    def _is_allowed(self, tool: Json) -> bool:
        allowed = self._spec.get("allowed_tools")
        if allowed is None:
            return True
        chosen: Json = {"tool_names": allowed} if isinstance(allowed, list) else cast("Json", allowed)
        return _matches(chosen, tool) if chosen else True

    def _needs_approval(self, tool: Json) -> bool:
        """Every call needs one, unless the request says otherwise of its tool."""
        rule = self._spec.get("require_approval") or "always"
        if isinstance(rule, str):
            return rule == "always"
        rules = cast("Json", rule)
        return _matches(rules.get("always") or {}, tool) or not _matches(rules.get("never") or {}, tool)


def _matches(chosen: Json, tool: Json) -> bool:
    """Whether a filter names the tool. A filter of two conditions wants both; one without any matches nothing."""
    names, read_only = chosen.get("tool_names"), chosen.get("read_only")
    if names is None and read_only is None:
        return False
    hint: Json = tool.get("annotations") or {}
    is_read_only = hint.get("readOnlyHint", hint.get("read_only")) is True
    return (names is None or tool["name"] in names) and (read_only is None or read_only is is_read_only)


def _listed(tool: ListedTool) -> Json:
    annotations = tool.annotations.model_dump(by_alias=True, exclude_none=True) if tool.annotations else None
    return {
        "name": tool.name,
        "description": tool.description,
        "input_schema": tool.input_schema,
        "annotations": annotations,
    }


def _parameters(schema: Any) -> Json:
    """Return the schema of a call's arguments; any object where the server's own is none of an object."""
    given = cast("Json", schema) if isinstance(schema, dict) else {}
    return given if given.get("type") == "object" else {"type": "object"}


def _decoded(arguments: str) -> Json:
    try:
        value: Any = msgspec.json.decode(arguments or "{}")
    except msgspec.DecodeError as error:
        raise McpFailure(f"The arguments are not valid JSON: {error}.", -32602) from None
    if not isinstance(value, dict):
        raise McpFailure("The arguments are not a JSON object.", -32602)
    return cast("Json", value)


def _text_of(result: CallToolResult) -> str:
    """Return a result as text: its text parts, what is structured if there is no text, and of other parts what they are."""
    parts: list[str] = []
    for block in result.content:
        match block.type:
            case "text":
                parts.append(block.text)
            case "resource":
                text = getattr(block.resource, "text", None)
                parts.append(text if isinstance(text, str) else f"[a resource: {block.resource.uri}]")
            case "resource_link":
                parts.append(f"[a resource: {block.uri}]")
            case _:
                parts.append(f"[{block.type}: {block.mime_type}; this model reads text only]")
    if not parts and result.structured_content is not None:
        return msgspec.json.encode(result.structured_content).decode()
    return "\n".join(parts)
