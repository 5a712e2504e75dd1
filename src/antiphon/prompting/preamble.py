"""What a model is told in words, where its template has no place for it."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from antiphon.prompting.schema import shown_parameters
from antiphon.prompting.syntax import as_json
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


def tools_in_words(tools: Sequence[Tool]) -> str:
    """Describe the tools to a model whose template does not.

    A list in words serves small models better than the schema as JSON does; how a call is written needs no words,
    since the grammar holds it.
    """
    described = "\n\n".join(_in_words(tool) for tool in tools)
    return f"You call tools. Take the arguments from the user's words.\n\n{described}"


def form_in_words(form: JsonSchemaFormat | JsonObjectFormat, *, as_list: bool) -> str:
    """Tell what JSON to answer with: as its schema, or with ``as_list`` as a list of its keys, for small models."""
    if isinstance(form, JsonObjectFormat):
        return "Answer with one JSON object and nothing else."
    description = f" ({form.description})" if form.description else ""
    if as_list and form.schema.get("properties"):
        keys = "\n".join(_parameters(form.schema))
        return f"Answer with JSON for '{form.name}'{description} and nothing else, with these keys:\n{keys}"
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


def _in_words(tool: Tool) -> str:
    title = f"Tool {tool.name}: {tool.description}" if tool.description else f"Tool {tool.name}"
    if tool.kind == "custom":
        return f"{title}\nIts input is plain text."
    return "\n".join([title, *_parameters(shown_parameters(tool))])


def _parameters(schema: Mapping[str, Any]) -> list[str]:
    required = cast("list[str]", schema.get("required") or [])
    properties = cast("dict[str, Any]", schema.get("properties") or {})
    lines = [_parameter(name, value, is_required=name in required) for name, value in properties.items()]
    if any(key in schema for key in ("anyOf", "oneOf", "allOf", "$ref", "$defs", "definitions", "patternProperties")):
        lines.append(f"JSON Schema: {as_json(schema)}")
    return lines


def _parameter(name: str, schema: Any, *, is_required: bool) -> str:
    known: dict[str, Any] = cast("dict[str, Any]", schema) if isinstance(schema, dict) else {}
    mark = ", required" if is_required else ""
    description = known.get("description")
    return f"- {name} ({_kind(known)}{mark}){f': {description}' if description else ''}"


def _kind(schema: dict[str, Any]) -> str:
    """Return a type in a word or two; the schema itself where that would leave something out."""
    kind = schema.get("type")
    if "enum" in schema:
        return "one of " + ", ".join(as_json(choice) for choice in schema["enum"])
    items = schema.get("items")
    if (
        kind == "array"
        and isinstance(items, dict)
        and set(cast("dict[str, Any]", items)) <= {"type", "description", "title"}
    ):
        return f"list of {cast('dict[str, Any]', items).get('type', 'anything')}"
    return kind if isinstance(kind, str) and kind not in {"object", "array"} else as_json(schema)
