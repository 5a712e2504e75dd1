"""Tools of a Responses request: flat functions, custom tools, namespaces, and hosted ones, which this server runs or not."""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Literal, NoReturn

import msgspec

from antiphon.protocol import problems
from antiphon.protocol.chat import Tool, ToolChoice
from antiphon.protocol.errors import ApiError
from antiphon.protocol.responses.mcp_fields import shown_tool
from antiphon.protocol.responses.tool_fields import HOSTED_TOOLS, MAX_TOOLS, SERVED_CHOICES, SERVED_TOOLS
from antiphon.protocol.responses.tool_names import SEPARATOR, ToolNames, shown_name
from antiphon.protocol.responses.tool_search import (
    MAX_DEFERRED,
    NAME,
    DeferredTools,
    check_search_tool,
    search_tool,
)
from antiphon.protocol.strict_schema import check_function_parameters

Json = dict[str, Any]
HostedTools = Literal["refuse", "leave-out"]
_ANY = SEPARATOR + "*"
_SETTING = {"mcp": "To run MCP tools, list the server's host in [responses] mcp_hosts. "}
"""What has to be set for a hosted tool that this server could run."""


class ServedTool(msgspec.Struct, frozen=True):
    """A hosted tool that this server runs: its definition as it was given, and its place in the request.

    ``shows_results``: the client asked with ``include`` for what a search found. ``deferred``: what ``tool_search`` may still
    load.
    """

    spec: Json
    path: str
    shows_results: bool = False
    deferred: tuple[DeferredTools, ...] = ()

    @property
    def kind(self) -> str:
        return self.spec["type"]

    @property
    def key(self) -> tuple[str, str | None]:
        """What no other tool of a request may share."""
        return self.kind, self.spec.get("server_label")


class Toolset(msgspec.Struct, frozen=True):
    """The tools that clients run, their names, the list as echoed, the hosted ones that were left out, those run here.

    ``deferred`` wait to be loaded by ``tool_search``, which is among ``served`` or, run by the client, among ``tools``.
    """

    tools: tuple[Tool, ...] = ()
    names: ToolNames = ToolNames()
    echoed: tuple[Json, ...] = ()
    left_out: tuple[str, ...] = ()
    served: tuple[ServedTool, ...] = ()
    deferred: tuple[DeferredTools, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not (self.tools or self.served)

    def with_more(self, more: "Toolset") -> "Toolset":
        """Return both together; a tool of ``more`` takes the place of one with its name. What is echoed stays."""
        keys = {served.key for served in more.served}
        return Toolset(
            tools=(*(tool for tool in self.tools if tool.name not in more.names.wire), *more.tools),
            names=self.names.with_more(more.names),
            echoed=self.echoed,
            left_out=tuple(dict.fromkeys((*self.left_out, *more.left_out))),
            served=(*(served for served in self.served if served.key not in keys), *more.served),
            deferred=(*self.deferred, *more.deferred),
        )

    @property
    def searches(self) -> bool:
        """Whether tools can be loaded by ``tool_search``, wherever that is run."""
        return self.names.searches or any(tool.kind == NAME for tool in self.served)

    def is_loaded(self, deferred: DeferredTools) -> bool:
        """Whether all tools of it can be called; of an MCP server that is not known here."""
        names = {tool.name for tool in self.tools}
        return bool(deferred.tools) and all(tool.name in names for tool in deferred.tools)


def read_tools(
    given: Sequence[Json],
    hosted_tools: HostedTools,
    served: AbstractSet[str] = frozenset(),
    where: str = "tools",
    *,
    defers: bool | None = None,
) -> Toolset:
    """Return the tools of a checked list. ``served`` are the hosted tools that this server runs; ``where`` is the list's path.

    ``defers``: whether tools with ``defer_loading`` wait for ``tool_search``; None: they do if the list has that tool.
    Raises ``ApiError`` 400 for a repeated name, for parameters that are not a schema or (asked to be strict) not of the
    strict subset, and for a hosted tool that is not run where those are refused.
    """
    reading = _Reading(hosted_tools, served, defers=any(map(_is_search, given)) if defers is None else defers)
    for index, tool in enumerate(given):
        reading.take(tool, f"{where}[{index}]")
    return reading.toolset(where)


def _is_search(tool: Json) -> bool:
    return tool["type"] == NAME


def _is_deferred(tool: Json) -> bool:
    return bool(tool.get("defer_loading"))


class _Reading:
    """Reads one list."""

    def __init__(self, hosted_tools: HostedTools, served: AbstractSet[str], *, defers: bool) -> None:
        self._hosted_tools = hosted_tools
        self._served_kinds = served
        self._defers = defers
        self._tools: list[Tool] = []
        self._wire: dict[str, tuple[str | None, str]] = {}
        self._echoed: list[Json] = []
        self._left_out: list[str] = []
        self._run: list[ServedTool] = []
        self._deferred: list[DeferredTools] = []
        self._search: tuple[Json, str] | None = None

    def toolset(self, where: str) -> Toolset:
        if self._search is not None:
            self._add_search(*self._search)
        check_number(len(self._tools), where)
        num_deferred = sum(len(one.tools) for one in self._deferred)
        if num_deferred > MAX_DEFERRED:
            raise problems.wrong_length(where, "array", MAX_DEFERRED, num_deferred, above=True)
        return Toolset(
            tuple(self._tools),
            ToolNames(self._wire, self._search is not None),
            tuple(self._echoed),
            tuple(self._left_out),
            tuple(self._run),
            tuple(self._deferred),
        )

    def take(self, tool: Json, path: str) -> None:
        """Read one entry."""
        kind = tool["type"]
        if _is_search(tool) and tool.get("execution") == "client":
            _check_served(tool, path)
            self._search = (tool, path) if self._search is None else _refuse_second(path)
            self._echoed.append(tool)
        elif kind in self._served_kinds:
            self._run.append(_served(tool, path, self._run))
            self._echoed.append(shown_tool(tool))
            if kind == "mcp" and self._defers and _is_deferred(tool):
                self._deferred.append(DeferredTools(path=tool["server_label"], shown=shown_tool(tool)))
        elif kind in HOSTED_TOOLS:
            if self._hosted_tools == "refuse":
                raise _not_run_here(kind, path)
            self._left_out.append(kind)
        else:
            self._take_own(tool, path)

    def _take_own(self, tool: Json, path: str) -> None:
        """Read a function, a custom tool, or a namespace of them."""
        waiting: list[tuple[Tool, Json]] = []
        echoed: list[Json] = []
        for namespace, one, place in _members(tool, path):
            read, shown = _read(one, namespace, place)
            self._name(read.name, namespace, one["name"], place)
            echoed.append(shown)
            if self._defers and _is_deferred(one):
                waiting.append((read, shown))
            else:
                self._tools.append(read)
        is_namespace = tool["type"] == "namespace"
        self._echoed.append(tool | {"tools": echoed} if is_namespace else echoed[0])
        if waiting:
            shown = tool | {"tools": [one for _, one in waiting]} if is_namespace else waiting[0][1]
            self._deferred.append(
                DeferredTools(path=tool["name"], shown=shown, tools=tuple(read for read, _ in waiting))
            )

    def _add_search(self, tool: Json, path: str) -> None:
        read = search_tool(tool, self._deferred)
        self._name(NAME, None, NAME, path)
        strict = tool.get("parameters") is None or _is_strict(msgspec.structs.replace(read, strict=True), path)
        read = msgspec.structs.replace(read, strict=strict)
        check_function_parameters(read, f"{path}.parameters")
        self._tools.append(read)

    def _name(self, shown: str, namespace: str | None, name: str, place: str) -> None:
        if shown in self._wire:
            raise problems.bad_request(
                f"Invalid '{place}.name': duplicate tool name '{name}'. Each tool needs a name of its own.",
                f"{place}.name",
                "invalid_value",
            )
        self._wire[shown] = (namespace, name)


def _refuse_second(path: str) -> NoReturn:
    raise problems.bad_request(f"Invalid '{path}': the tool '{NAME}' is there twice.", path, "invalid_value")


def check_number(count: int, where: str) -> None:
    """Raise ``ApiError`` 400 for more tools than are taken."""
    if count > MAX_TOOLS:
        raise problems.wrong_length(where, "array", MAX_TOOLS, count, above=True)


def _check_served(tool: Json, path: str) -> None:
    table = SERVED_TOOLS[tool["type"]]
    table.check(tool, path)
    table.refuse(tool, path)
    if _is_search(tool):
        check_search_tool(tool, path)


def _served(tool: Json, path: str, earlier: Sequence[ServedTool]) -> ServedTool:
    _check_served(tool, path)
    made, label = ServedTool(tool, path), tool.get("server_label")
    if any(other.key == made.key for other in earlier):
        what = f"the server label '{label}'" if label is not None else f"the tool '{tool['type']}'"
        raise problems.bad_request(f"Invalid '{path}': {what} is there twice.", path, "invalid_value")
    return made


def _members(tool: Json, path: str) -> Iterator[tuple[str | None, Json, str]]:
    if tool["type"] != "namespace":
        yield None, tool, path
        return
    for index, member in enumerate(tool["tools"]):
        yield tool["name"], member, f"{path}.tools[{index}]"


def _read(tool: Json, namespace: str | None, path: str) -> tuple[Tool, Json]:
    name = shown_name(namespace, tool["name"])
    description = tool.get("description")
    if tool["type"] == "custom":
        spec: Json = tool.get("format") or {"type": "text"}
        grammar = (spec["syntax"], spec["definition"]) if spec["type"] == "grammar" else None
        return Tool(name=name, description=description, kind="custom", grammar=grammar), tool | {"format": spec}
    given = Tool(name=name, description=description, parameters=tool.get("parameters"), strict=True)
    strict = tool.get("strict")
    if strict is None:
        strict = _is_strict(given, path)
    read = msgspec.structs.replace(given, strict=strict)
    check_function_parameters(read, f"{path}.parameters")
    return read, tool | {"strict": strict, "parameters": tool.get("parameters"), "description": description}


def _is_strict(tool: Tool, path: str) -> bool:
    """Left out, ``strict`` means: if the schema allows it."""
    if tool.parameters is None:
        return False
    try:
        check_function_parameters(tool, path)
    except ApiError:
        return False
    return True


def _not_run_here(kind: str, path: str) -> ApiError:
    return problems.bad_request(
        f"Hosted tool '{kind}' is not supported with this model: this server does not run it. {_SETTING.get(kind, '')}"
        'Set [responses] hosted_tools = "leave-out", or send the header x-antiphon-hosted-tools: leave-out, to answer '
        "without such tools.",
        path,
        "unsupported_value",
    )


def read_tool_choice(request: Json, tools: Toolset) -> ToolChoice:
    """Return what may or must be called. Raises ``ApiError`` 400 for a choice of a tool that was not given.

    Of tools that this server runs, the names are not known yet: ``among`` finds the names that a choice means.
    """
    choice = request.get("tool_choice")
    if choice is None:
        choice = "auto"
    if isinstance(choice, str):
        if choice == "required" and tools.is_empty:
            raise problems.bad_request(
                "Tool choice 'required' must be specified with 'tools' parameter.", "tool_choice"
            )
        return ToolChoice("none" if tools.is_empty else choice)  # pyright: ignore[reportArgumentType] - the table checked it
    if choice["type"] != "allowed_tools":
        return ToolChoice("required", (_chosen(choice, tools, "tool_choice"),))
    allowed = [tool for tool in choice["tools"] if tool["type"] not in tools.left_out]
    names = tuple(
        _chosen(tool, tools, f"tool_choice.tools[{index}]", is_later_enough=True) for index, tool in enumerate(allowed)
    )
    return ToolChoice(choice["mode"], names) if names else ToolChoice("none")


def _chosen(choice: Json, tools: Toolset, path: str, *, is_later_enough: bool = False) -> str:
    """Return the name of a choice. ``is_later_enough``: it may name what is still to be loaded."""
    kind: str = choice["type"]
    if any(tool.kind == kind for tool in tools.served):
        return _served_choice(choice, tools, path)
    name = shown_name(choice.get("namespace"), choice["name"]) if kind in {"function", "custom"} else kind
    own = "function" if kind == NAME else kind
    if any(tool.name == name and tool.kind == own for tool in tools.tools):
        return name
    if any(tool.name == name and tool.kind == own for one in tools.deferred for tool in one.tools):
        if is_later_enough:
            return name
        raise problems.bad_request(
            f"Tool choice '{name}' has 'defer_loading': it can be chosen once '{NAME}' has loaded it.", path
        )
    raise problems.bad_request(f"Tool choice '{name}' not found in 'tools' parameter.", path)


def _served_choice(choice: Json, tools: Toolset, path: str) -> str:
    table = SERVED_CHOICES[choice["type"]]
    table.check(choice, path)
    label = choice.get("server_label")
    if label is None:
        return choice["type"]
    if not any(tool.spec.get("server_label") == label for tool in tools.served):
        raise problems.bad_request(f"Tool choice '{label}' not found in 'tools' parameter.", path)
    return label + _ANY if choice.get("name") is None else shown_name(label, choice["name"])


def among(choice: ToolChoice, tools: Sequence[Tool]) -> ToolChoice:
    """Return the choice in names of ``tools``, now that they are all known.

    Mode ``none`` if nothing is left to choose from.
    """
    if not tools or choice.mode == "none":
        return ToolChoice("none")
    if not choice.names:
        return choice
    names = tuple(tool.name for tool in tools if any(_matches(tool.name, wanted) for wanted in choice.names))
    return msgspec.structs.replace(choice, names=names) if names else ToolChoice("none")


def _matches(name: str, wanted: str) -> bool:
    return name.startswith(wanted[:-1]) if wanted.endswith(_ANY) else name == wanted
