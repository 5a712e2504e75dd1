"""``tool_search`` as a tool of one turn, and tools that wait until it has loaded them.

The model names paths; functions under them become tools of the request from the next generation on, and an MCP server is
asked for its tools. A path that is not exact is searched by its words.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

import msgspec

from antiphon.protocol.chat import Tool
from antiphon.protocol.ids import new_id
from antiphon.protocol.responses.output_items import ItemAdded, ItemDone, ItemEvent
from antiphon.protocol.responses.tool_fields import MAX_TOOLS
from antiphon.protocol.responses.tool_search import DeferredTools, search_tool
from antiphon.protocol.responses.tools import ServedTool
from antiphon.search.fts_query import query_words
from antiphon.server.responses.server_tool import ServerCall, ServerTool

Json = dict[str, Any]
_MAX_FOUND = 5
"""Paths that a search by words loads at most."""
_MAX_QUERY = 2000
_OUTPUT = "tool_search_output"


def open_tool_search(served: ServedTool, account: str) -> "ToolSearch":  # noqa: ARG001 - it is the same for all
    """Return the tool for a turn."""
    return ToolSearch(served)


class WaitingServer:
    """An MCP server that waits: implements ``ServerTool`` around the one that it becomes when it is loaded."""

    def __init__(self, label: str, inner: ServerTool) -> None:
        self.label = label
        self._inner = inner
        self._is_loaded = False

    @property
    def definitions(self) -> Sequence[Tool]:
        return self._inner.definitions if self._is_loaded else ()

    @property
    def is_loaded(self) -> bool:
        return self._is_loaded

    async def load(self, items: Sequence[Json]) -> AsyncGenerator[ItemEvent]:
        """Ask the server for its tools, which the model is offered from then on."""
        self._is_loaded = True
        async for event in self._inner.prepare(items):
            yield event

    async def prepare(self, items: Sequence[Json]) -> AsyncGenerator[ItemEvent]:
        self._is_loaded = self._is_loaded or any(_has_loaded(item, self.label) for item in items)
        if self._is_loaded:
            async for event in self._inner.prepare(items):
                yield event

    def resume(self, items: Sequence[Json]) -> AsyncGenerator[ItemEvent]:
        return self._inner.resume(items)

    def begin(self, call: ServerCall) -> list[ItemEvent]:
        return self._inner.begin(call)

    def add_arguments(self, call: ServerCall, text: str) -> list[ItemEvent]:
        return self._inner.add_arguments(call, text)

    def run(self, call: ServerCall) -> AsyncGenerator[ItemEvent]:
        return self._inner.run(call)

    def abandon(self, call: ServerCall) -> list[ItemEvent]:
        return self._inner.abandon(call)

    async def aclose(self) -> None:
        await self._inner.aclose()


class ToolSearch:
    """Implements ``ServerTool``. The call's item and that of its output come together, when it is run."""

    def __init__(self, served: ServedTool) -> None:
        self._spec = served.spec
        self._waiting = {one.path: one for one in served.deferred}
        self._servers: dict[str, WaitingServer] = {}
        self._words: dict[str, set[str]] = {}
        self._items: Sequence[Json] = ()
        self._room = MAX_TOOLS

    def attach(self, servers: Sequence[WaitingServer], num_tools: int) -> None:
        """Take the MCP servers that it can load, and how many tools the request has without it."""
        self._servers = {server.label: server for server in servers}
        self._room = MAX_TOOLS - num_tools - 1

    @property
    def definitions(self) -> Sequence[Tool]:
        waiting = [one for one in self._waiting.values() if not self._is_loaded(one)]
        return (search_tool(self._spec, waiting),) if waiting else ()

    async def prepare(self, items: Sequence[Json]) -> AsyncGenerator[ItemEvent]:
        self._items = items
        for nothing in ():
            yield nothing

    async def resume(self, items: Sequence[Json]) -> AsyncGenerator[ItemEvent]:  # noqa: ARG002 - no call waits
        for nothing in ():
            yield nothing

    def begin(self, call: ServerCall) -> list[ItemEvent]:  # noqa: ARG002 - there is no event for what is being written
        return []

    def add_arguments(self, call: ServerCall, text: str) -> list[ItemEvent]:  # noqa: ARG002
        return []

    async def run(self, call: ServerCall) -> AsyncGenerator[ItemEvent]:
        paths, arguments = _paths(call.arguments)
        searched = _call(arguments, "completed")
        yield ItemAdded(searched | {"status": "in_progress"})
        yield ItemDone(searched)
        found = self._fitting(self._find(paths))
        output: Json = {
            "id": new_id("tso", "_"),
            "type": _OUTPUT,
            "call_id": None,
            "execution": "server",
            "status": "completed",
            "tools": [one.shown for one in found],
        }
        yield ItemAdded(output | {"status": "in_progress", "tools": []})
        yield ItemDone(output)
        for one in found:
            self._waiting.pop(one.path)
            server = self._servers.get(one.path)
            if server is not None:
                async for event in server.load(self._items):
                    yield event

    def abandon(self, call: ServerCall) -> list[ItemEvent]:
        item = _call(_paths(call.arguments)[1], "incomplete")
        return [ItemAdded(item), ItemDone(item)]

    async def aclose(self) -> None:
        """It holds nothing."""

    def _is_loaded(self, one: DeferredTools) -> bool:
        server = self._servers.get(one.path)
        return server is not None and server.is_loaded

    def _find(self, paths: Sequence[str]) -> list[DeferredTools]:
        found: dict[str, DeferredTools] = {}
        for path in paths:
            exact = self._waiting.get(path)
            for one in [exact] if exact is not None else self._by_words(path):
                if not self._is_loaded(one):
                    found[one.path] = one
        return list(found.values())

    def _by_words(self, query: str) -> list[DeferredTools]:
        """Return what shares most words with the query, best first."""
        if not self._words:
            # Once for all queries: a call may have many, and a request a thousand tools that wait.
            self._words = {path: _words(one.text) for path, one in self._waiting.items()}
        words = _words(query)
        scores = {path: len(words & self._words[path]) for path in self._waiting}
        best = sorted((path for path in scores if scores[path]), key=lambda path: -scores[path])
        return [self._waiting[path] for path in best[:_MAX_FOUND]]

    def _fitting(self, found: Sequence[DeferredTools]) -> list[DeferredTools]:
        """Return those that the request has room for; the others wait on."""
        fitting: list[DeferredTools] = []
        for one in found:
            if len(one.tools) <= self._room:
                self._room -= len(one.tools)
                fitting.append(one)
        return fitting


def _call(arguments: Any, status: str) -> Json:
    return {
        "id": new_id("tsc", "_"),
        "type": "tool_search_call",
        "call_id": None,
        "execution": "server",
        "status": status,
        "arguments": arguments,
    }


def _paths(arguments: str) -> tuple[list[str], Any]:
    """Return the paths that the model wrote, and the arguments as an item shows them: text where they are not an object."""
    try:
        value: Any = msgspec.json.decode(arguments or "{}")
    except msgspec.DecodeError:
        return [], arguments
    if not isinstance(value, dict):
        return [], arguments
    given: Any = cast("Json", value).get("paths")
    paths = cast("list[Any]", given) if isinstance(given, list) else []
    return [path[:_MAX_QUERY] for path in paths[:MAX_TOOLS] if isinstance(path, str)], cast("Json", value)


def _words(text: str) -> set[str]:
    return {word.lower() for word in query_words(text.replace("_", " "))}


def _has_loaded(item: Json, label: str) -> bool:
    return item.get("type") == _OUTPUT and any(
        tool.get("type") == "mcp" and tool.get("server_label") == label for tool in item.get("tools") or ()
    )
