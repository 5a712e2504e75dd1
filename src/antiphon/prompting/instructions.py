"""Describes tools and formats in words, for models whose template has no place for them."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from antiphon.prompting.schemas.compile import shown_parameters
from antiphon.prompting.templates.adaptations import Turn
from antiphon.prompting.tool_calls.syntax import as_json
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
    """Describe the JSON to answer with: as its schema, or with ``as_list`` as a list of its keys, for small models."""
    if isinstance(form, JsonObjectFormat):
        return "Answer with one JSON object and nothing else."
    description = f" ({form.description})" if form.description else ""
    if as_list and form.schema.get("properties"):
        keys = "\n".join(_keys(form.schema))
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


def _keys(schema: Mapping[str, Any]) -> list[str]:
    """Describe the keys of an answer; that all are required goes without saying."""
    all_required = set(cast("dict[str, Any]", schema["properties"])) <= set(schema.get("required") or ())
    return _parameters({**schema, "required": ()} if all_required else schema)


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
    """Return a type in a word or two, without its bounds, which the grammar holds; as the schema where words are too few."""
    return _in_a_word({key: value for key, value in schema.items() if key != "description"}) or as_json(schema)


def _in_a_word(schema: Any) -> str | None:
    word: str | None = None
    match schema:
        case {"description": _}:
            pass
        case {"const": value}:
            word = as_json(value)
        case {"enum": [*choices]}:
            word = "one of " + ", ".join(map(as_json, choices))
        case {"anyOf": [*members], **others} if others.keys() <= {"title", "default"}:
            word = _either([_in_a_word(member) for member in members])
        case {"type": [*kinds]}:
            word = _either([_in_a_word({**schema, "type": kind}) for kind in kinds])
        case {"type": "array", "items": items}:
            item = _in_a_word(items)
            word = f"list of {item}" if item and " or " not in item else None
        case {"type": str(kind)} if kind not in {"object", "array"}:
            word = kind
        case _:
            pass
    return word


def _either(words: list[str | None]) -> str | None:
    return " or ".join(word for word in words if word) if all(words) else None
