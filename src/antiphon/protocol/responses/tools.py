"""Tools of a Responses request: flat functions, custom tools, namespaces, and the hosted ones that are not run here."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from antiphon.protocol import problems
from antiphon.protocol.chat import Tool, ToolChoice
from antiphon.protocol.errors import ApiError
from antiphon.protocol.responses.fields import HOSTED_TOOLS, MAX_TOOLS
from antiphon.protocol.strict_schema import check_function_parameters

Json = dict[str, Any]
HostedTools = Literal["refuse", "leave-out"]
_SEPARATOR = "__"


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
    """The tools that may be called, their names, the list as echoed, and the hosted ones that were left out."""

    tools: tuple[Tool, ...] = ()
    names: ToolNames = ToolNames()
    echoed: tuple[Json, ...] = ()
    left_out: tuple[str, ...] = ()


def read_tools(given: Sequence[Json], hosted_tools: HostedTools) -> Toolset:
    """Return the tools of a checked request.

    Raises ``ApiError`` 400 for a repeated name, for parameters that are not a schema or (asked to be strict) not of the
    strict subset, and for a hosted tool where those are refused.
    """
    tools: list[Tool] = []
    wire: dict[str, tuple[str | None, str]] = {}
    echoed: list[Json] = []
    left_out: list[str] = []
    for index, tool in enumerate(given):
        path = f"tools[{index}]"
        if tool["type"] in HOSTED_TOOLS:
            if hosted_tools == "refuse":
                raise _not_run_here(tool["type"], path)
            left_out.append(tool["type"])
            continue
        found: list[tuple[Tool, Json]] = []
        for namespace, one, where in _members(tool, path):
            read, shown = _read(one, namespace, where)
            if read.name in wire:
                raise problems.bad_request(
                    f"Invalid '{where}.name': duplicate tool name '{one['name']}'. Each tool needs a name of its own.",
                    f"{where}.name",
                    "invalid_value",
                )
            wire[read.name] = (namespace, one["name"])
            found.append((read, shown))
        tools.extend(read for read, _ in found)
        echoed.append(found[0][1] if tool["type"] != "namespace" else tool | {"tools": [shown for _, shown in found]})
    if len(tools) > MAX_TOOLS:
        raise problems.wrong_length("tools", "array", MAX_TOOLS, len(tools), above=True)
    return Toolset(tuple(tools), ToolNames(wire), tuple(echoed), tuple(left_out))


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
        f"Hosted tool '{kind}' is not supported with this model: this server does not run it. Set [responses] "
        'hosted_tools = "leave-out", or send the header x-antiphon-hosted-tools: leave-out, to answer without such tools.',
        path,
        "unsupported_value",
    )


def read_tool_choice(request: Json, tools: Toolset) -> ToolChoice:
    """Return what may or must be called. Raises ``ApiError`` 400 for a choice of a tool that was not given."""
    choice = request.get("tool_choice")
    if choice is None:
        choice = "auto"
    if isinstance(choice, str):
        if choice == "required" and not tools.tools:
            raise problems.bad_request(
                "Tool choice 'required' must be specified with 'tools' parameter.", "tool_choice"
            )
        return ToolChoice(choice if tools.tools else "none")  # pyright: ignore[reportArgumentType] - the table checked it
    if choice["type"] != "allowed_tools":
        return ToolChoice("required", (_chosen(choice, tools, "tool_choice"),))
    allowed = [tool for tool in choice["tools"] if tool["type"] not in tools.left_out]
    names = tuple(_chosen(tool, tools, f"tool_choice.tools[{index}]") for index, tool in enumerate(allowed))
    return ToolChoice(choice["mode"], names) if names else ToolChoice("none")


def _chosen(choice: Json, tools: Toolset, path: str) -> str:
    kind: str = choice["type"]
    name = shown_name(choice.get("namespace"), choice["name"]) if kind in {"function", "custom"} else kind
    if not any(tool.name == name and tool.kind == kind for tool in tools.tools):
        raise problems.bad_request(f"Tool choice '{name}' not found in 'tools' parameter.", path)
    return name
