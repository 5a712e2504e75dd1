"""Tools of a Responses request: flat functions, custom tools, namespaces, and hosted ones, which this server runs or not."""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Literal

import msgspec

from antiphon.protocol import problems
from antiphon.protocol.chat import Tool, ToolChoice
from antiphon.protocol.errors import ApiError
from antiphon.protocol.responses.mcp_fields import shown_tool
from antiphon.protocol.responses.tool_fields import HOSTED_TOOLS, MAX_TOOLS, SERVED_CHOICES, SERVED_TOOLS
from antiphon.protocol.strict_schema import check_function_parameters

Json = dict[str, Any]
HostedTools = Literal["refuse", "leave-out"]
_SEPARATOR = "__"
_ANY = _SEPARATOR + "*"
_SETTING = {"mcp": "To run MCP tools, list the server's host in [responses] mcp_hosts. "}
"""What has to be set for a hosted tool that this server could run."""


class ServedTool(msgspec.Struct, frozen=True):
    """A hosted tool that this server runs: its definition as it was given, and its place in the request.

    ``shows_results``: the client asked with ``include`` for what a search found.
    """

    spec: Json
    path: str
    shows_results: bool = False

    @property
    def kind(self) -> str:
        return self.spec["type"]

    @property
    def key(self) -> tuple[str, str | None]:
        """What no other tool of a request may share."""
        return self.kind, self.spec.get("server_label")


class ToolNames(msgspec.Struct, frozen=True):
    """What the model calls each tool, and what the wire calls it: ``shown`` maps to ``(namespace, name)``."""

    wire: Mapping[str, tuple[str | None, str]] = {}

    def of(self, shown: str) -> tuple[str | None, str]:
        """Return namespace and name of a tool that the model called."""
        return self.wire.get(shown, (None, shown))


def shown_name(namespace: str | None, name: str) -> str:
    """Return the one name under which the model sees a tool of a namespace."""
    return name if namespace is None else f"{namespace}{_SEPARATOR}{name}"


class Toolset(msgspec.Struct, frozen=True):
    """The tools that clients run, their names, the list as echoed, the hosted ones that were left out, those run here."""

    tools: tuple[Tool, ...] = ()
    names: ToolNames = ToolNames()
    echoed: tuple[Json, ...] = ()
    left_out: tuple[str, ...] = ()
    served: tuple[ServedTool, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not (self.tools or self.served)

    def with_more(self, more: "Toolset") -> "Toolset":
        """Return both together; a tool of ``more`` takes the place of one with its name. What is echoed stays."""
        keys = {served.key for served in more.served}
        return Toolset(
            tools=(*(tool for tool in self.tools if tool.name not in more.names.wire), *more.tools),
            names=ToolNames({**self.names.wire, **more.names.wire}),
            echoed=self.echoed,
            left_out=tuple(dict.fromkeys((*self.left_out, *more.left_out))),
            served=(*(served for served in self.served if served.key not in keys), *more.served),
        )


def read_tools(
    given: Sequence[Json], hosted_tools: HostedTools, served: AbstractSet[str] = frozenset(), where: str = "tools"
) -> Toolset:
    """Return the tools of a checked list. ``served`` are the hosted tools that this server runs; ``where`` is the list's path.

    Raises ``ApiError`` 400 for a repeated name, for parameters that are not a schema or (asked to be strict) not of the
    strict subset, and for a hosted tool that is not run where those are refused.
    """
    tools: list[Tool] = []
    wire: dict[str, tuple[str | None, str]] = {}
    echoed: list[Json] = []
    left_out: list[str] = []
    run: list[ServedTool] = []
    for index, tool in enumerate(given):
        path = f"{where}[{index}]"
        if tool["type"] in served:
            run.append(_served(tool, path, run))
            echoed.append(shown_tool(tool))
            continue
        if tool["type"] in HOSTED_TOOLS:
            if hosted_tools == "refuse":
                raise _not_run_here(tool["type"], path)
            left_out.append(tool["type"])
            continue
        found: list[tuple[Tool, Json]] = []
        for namespace, one, place in _members(tool, path):
            read, shown = _read(one, namespace, place)
            if read.name in wire:
                raise problems.bad_request(
                    f"Invalid '{place}.name': duplicate tool name '{one['name']}'. Each tool needs a name of its own.",
                    f"{place}.name",
                    "invalid_value",
                )
            wire[read.name] = (namespace, one["name"])
            found.append((read, shown))
        tools.extend(read for read, _ in found)
        echoed.append(found[0][1] if tool["type"] != "namespace" else tool | {"tools": [shown for _, shown in found]})
    check_number(len(tools), where)
    return Toolset(tuple(tools), ToolNames(wire), tuple(echoed), tuple(left_out), tuple(run))


def check_number(count: int, where: str) -> None:
    """Raise ``ApiError`` 400 for more tools than are taken."""
    if count > MAX_TOOLS:
        raise problems.wrong_length(where, "array", MAX_TOOLS, count, above=True)


def _served(tool: Json, path: str, earlier: Sequence[ServedTool]) -> ServedTool:
    table = SERVED_TOOLS[tool["type"]]
    table.check(tool, path)
    table.refuse(tool, path)
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
    names = tuple(_chosen(tool, tools, f"tool_choice.tools[{index}]") for index, tool in enumerate(allowed))
    return ToolChoice(choice["mode"], names) if names else ToolChoice("none")


def _chosen(choice: Json, tools: Toolset, path: str) -> str:
    kind: str = choice["type"]
    if any(tool.kind == kind for tool in tools.served):
        return _served_choice(choice, tools, path)
    name = shown_name(choice.get("namespace"), choice["name"]) if kind in {"function", "custom"} else kind
    if not any(tool.name == name and tool.kind == kind for tool in tools.tools):
        raise problems.bad_request(f"Tool choice '{name}' not found in 'tools' parameter.", path)
    return name


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
