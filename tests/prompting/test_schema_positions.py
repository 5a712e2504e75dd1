"""Schemas are read by position: a property may have any name, and a constant any characters."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.prompting.test_schema import accepts, check

from antiphon.prompting import ChatPrompter
from antiphon.prompting.instructions import tools_in_words
from antiphon.protocol.chat import ChatRequest, JsonSchemaFormat, Message, Tool, ToolChoice
from antiphon.protocol.strict_schema import KEYWORDS, check_function_parameters, check_response_schema

NAMES = sorted(
    {*KEYWORDS, "allOf", "oneOf", "not", "if", "then", "else", "patternProperties", "propertyNames", "uniqueItems", "contains",
     "nullable", "extends", "disallow", "discriminator", "x-guidance", "$anchor", "dependentSchemas", "prefixItems", "keys", "get"}
)  # fmt: skip
TEMPLATE = (
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}{{ m.content }}"
    '{% for c in m.tool_calls or [] %}<tool_call>\n{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}{% endfor %}"
)


def an_object(names: list[str], value: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict.fromkeys(names, value),
        "required": names,
        "additionalProperties": False,
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_property_named_like_a_keyword(name: str) -> None:
    """It is a property like any other: strict, enforced, described in words, in answers and in tools' parameters."""
    inner = an_object([name], {"type": "integer"})
    schema = an_object([name, "b"], inner)
    value = json.dumps({name: {name: 1}, "b": {name: 2}})
    check_response_schema("x", schema)
    check_function_parameters(Tool("f", parameters=schema, strict=True), "p")
    check(schema)
    form = JsonSchemaFormat("x", schema)
    assert accepts(form, value)
    assert not accepts(form, value.replace("1", '"1"'))
    tool = Tool("f", parameters=schema)
    assert f"- {name} (" in tools_in_words([tool])
    for template in (TEMPLATE, "{% for m in messages %}{{ m.content }}{% endfor %}"):
        plan = ChatPrompter(template=template).plan(
            ChatRequest(model="m", messages=(Message("user", "Hi"),), tools=(tool,), tool_choice=ToolChoice("required"))
        )
        assert plan.grammar is not None
        assert json.dumps(name) in plan.grammar.replace('\\"', '"')


@pytest.mark.parametrize(
    "code", [*range(0x20), *range(0x7E, 0xA1), 0xAD, 0x2028, 0xFEFF, 0xFFFE, 0xFFFF, 0x1F600, 0x10FFFF]
)
@pytest.mark.parametrize("keyword", ["const", "enum"])
def test_constants_of_any_character(code: int, keyword: str) -> None:
    """A constant may hold any character; the answer that is held to it is that constant."""
    text = f"a{chr(code)}b"
    schema = an_object(["v"], {"const": text} if keyword == "const" else {"enum": [text, "c"]})
    check(schema)
    written = json.dumps({"v": text}, ensure_ascii=False)
    by_number = json.dumps({"v": text})
    form = JsonSchemaFormat("x", schema)
    assert (
        accepts(form, written)
        or accepts(form, by_number)
        or accepts(form, written.replace(chr(code), f"\\u{code:04x}"))
    )


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=6))
def test_constants_of_any_text(text: str) -> None:
    """The same for any text."""
    schema = {"const": text}
    check(schema)
    form = JsonSchemaFormat("x", schema)
    escaped = "".join(
        f"\\u{ord(char):04x}" if char == "\x7f" else json.dumps(char, ensure_ascii=False)[1:-1] for char in text
    )
    assert accepts(form, f'"{escaped}"')


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("^\x7f$", "\x7f"),
        (r"^\x7f$", "\x7f"),
        (r"^\u007f$", "\x7f"),
        (r"^\x{7F}$", "\x7f"),
        (r"^\u{7f}$", "\x7f"),
        (r"^a\x1fa$", "a\x1fa"),
        (r"^\u0001$", "\x01"),
        (r"^\v\a$", "\x0b\x07"),
        (r"^[\x00-\x7f]{3}$", "\x00a\x7f"),
    ],
)
def test_patterns_that_need_a_control_character(pattern: str, text: str) -> None:
    """A pattern may ask for characters that JSON writes as escapes by number only, in each form of such an escape."""
    schema = {"type": "string", "pattern": pattern}
    check(schema)
    escaped = "".join(f"\\u{ord(char):04x}" if char < " " or char == "\x7f" else char for char in text)
    assert accepts(JsonSchemaFormat("x", schema), f'"{escaped}"')
