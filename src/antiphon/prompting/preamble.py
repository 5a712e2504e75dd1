"""What a model is told in words, where its template has no place for it."""

from collections.abc import Sequence
from typing import Any

from antiphon.prompting.schema import shown_parameters
from antiphon.prompting.syntax import ToolSyntax, as_json
from antiphon.prompting.turns import Turn
from antiphon.protocol.chat import JsonObjectFormat, JsonSchemaFormat, Tool


def tool_value(tool: Tool) -> dict[str, Any]:
    """Return a tool as templates take it. A custom tool is shown as a function with one text, its input."""
    if tool.kind == "custom":
        description = tool.description or ""
        text = {"type": "string", "description": "The input, as plain text in place of the arguments object."}
        parameters: dict[str, Any] = {"type": "object", "properties": {"input": text}, "required": ["input"]}
        function = {"name": tool.name, "description": description, "parameters": parameters}
    else:
        function = {"name": tool.name, "description": tool.description or "", "parameters": shown_parameters(tool)}
    return {"type": "function", "function": function}


def tools_in_words(tools: Sequence[Tool], syntax: ToolSyntax) -> str:
    """Describe the tools and the way to call them."""
    listed = "\n".join(as_json(tool_value(tool)["function"]) for tool in tools)
    example = syntax.write([("NAME", '{"PARAMETER": "VALUE"}')])
    return (
        "You can call these tools to help with the user's request:\n"
        f"<tools>\n{listed}\n</tools>\n"
        f"To call a tool, answer with its name and arguments in this form:\n{example}"
    )


def form_in_words(form: JsonSchemaFormat | JsonObjectFormat) -> str:
    """Tell what JSON to answer with."""
    if isinstance(form, JsonObjectFormat):
        return "Answer with one JSON object and nothing else."
    description = f" ({form.description})" if form.description else ""
    return (
        f"Answer with JSON for '{form.name}'{description} and nothing else. "
        f"It follows this JSON Schema:\n{as_json(form.schema)}"
    )


def with_instructions(turns: Sequence[Turn], words: Sequence[str]) -> list[Turn]:
    """Add words to the system turn at the head; make one if there is none."""
    if not words:
        return list(turns)
    added = "\n\n".join(words)
    if turns and turns[0]["role"] in {"system", "developer"}:
        head = {**turns[0], "content": f"{turns[0]['content']}\n\n{added}"}
        return [head, *turns[1:]]
    return [{"role": "system", "content": added}, *turns]
