"""From ``tools``, ``tool_choice`` and their older forms to the values that prompting works with."""

from collections.abc import Sequence
from typing import Any, Literal, cast

from antiphon.protocol import problems
from antiphon.protocol.chat import Tool, ToolChoice
from antiphon.protocol.strict_schema import check_function_parameters


def read_tools(request: dict[str, Any]) -> tuple[Tool, ...]:
    """Return the tools of a checked request, older functions included.

    Raises ``ApiError`` 400 for a repeated name and for parameters that are not a schema, or not in the strict subset.
    """
    if request.get("functions") is not None:
        if request.get("tools") is not None:
            raise _only_one("functions", "tools")
        return _functions(request["functions"])
    tools = tuple(_tool(tool) for tool in request.get("tools") or ())
    _check_names(tools, "tools[{}]." + "{}.name")
    for index, tool in enumerate(tools):
        if tool.kind == "function":
            check_function_parameters(tool, f"tools[{index}].function.parameters")
    return tools


def _functions(functions: Sequence[dict[str, Any]]) -> tuple[Tool, ...]:
    tools = tuple(_function(function) for function in functions)
    _check_names(tools, "functions[{}].name")
    for index, tool in enumerate(tools):
        check_function_parameters(tool, f"functions[{index}].parameters")
    return tools


def _check_names(tools: Sequence[Tool], path: str) -> None:
    seen: set[str] = set()
    for index, tool in enumerate(tools):
        if tool.name in seen:
            where = path.format(index, tool.kind)
            raise problems.bad_request(
                f"Invalid '{where}': duplicate tool name '{tool.name}'. Each tool needs a name of its own.",
                where,
                "invalid_value",
            )
        seen.add(tool.name)


def _tool(tool: dict[str, Any]) -> Tool:
    return _function(tool["function"]) if tool["type"] == "function" else _custom(tool["custom"])


def _function(function: dict[str, Any]) -> Tool:
    return Tool(
        name=function["name"],
        description=function.get("description"),
        parameters=function.get("parameters"),
        strict=bool(function.get("strict")),
    )


def _custom(custom: dict[str, Any]) -> Tool:
    spec = custom.get("format", {"type": "text"})
    grammar = (spec["grammar"]["syntax"], spec["grammar"]["definition"]) if spec["type"] == "grammar" else None
    return Tool(name=custom["name"], description=custom.get("description"), kind="custom", grammar=grammar)


def read_tool_choice(request: dict[str, Any], tools: Sequence[Tool]) -> ToolChoice:
    """Return what may or must be called. Raises ``ApiError`` 400 for a choice without tools or of an absent tool."""
    for key in ("tool_choice", "parallel_tool_calls"):
        if request.get(key) is not None and request.get("tools") is None:
            raise _needs(key, "tools")
    if request.get("function_call") is not None and request.get("functions") is None:
        raise _needs("function_call", "functions")
    if not tools:
        return ToolChoice("none")
    if request.get("functions") is not None:
        return _function_call(request.get("function_call", "auto"), tools)
    return _tool_choice(request.get("tool_choice", "auto"), tools)


def _function_call(choice: Any, tools: Sequence[Tool]) -> ToolChoice:
    if isinstance(choice, str):
        return ToolChoice("none" if choice == "none" else "auto")
    name: str = choice["name"]
    _check_known(name, "function", tools)
    return ToolChoice("required", (name,))


def _tool_choice(choice: Any, tools: Sequence[Tool]) -> ToolChoice:
    if isinstance(choice, str):
        return ToolChoice(cast("Literal['none', 'auto', 'required']", choice))
    kind: str = choice["type"]
    if kind == "allowed_tools":
        allowed = choice["allowed_tools"]
        names = tuple(_allowed_name(tool, tools) for tool in allowed["tools"])
        return ToolChoice(allowed["mode"], names)
    name: str = choice[kind]["name"]
    _check_known(name, kind, tools)
    return ToolChoice("required", (name,))


def _allowed_name(tool: dict[str, Any], tools: Sequence[Tool]) -> str:
    name: str = tool[tool["type"]]["name"]
    _check_known(name, tool["type"], tools)
    return name


def _check_known(name: str, kind: str, tools: Sequence[Tool]) -> None:
    # The API speaks of functions in the older words also where the newer ones were used.
    param, among = ("function_call", "functions") if kind == "function" else ("tool_choice", "tools")
    if not any(tool.name == name and tool.kind == kind for tool in tools):
        raise problems.bad_request(
            f"Invalid value for '{param}': no {kind} named '{name}' was specified in the '{among}' parameter.", param
        )


def _needs(key: str, other: str) -> Exception:
    return problems.bad_request(
        f"Invalid value for '{key}': '{key}' is only allowed when '{other}' are specified.", key
    )


def _only_one(key: str, other: str) -> Exception:
    return problems.bad_request(f"Invalid value for '{key}': '{key}' is not allowed when '{other}' are specified.", key)
