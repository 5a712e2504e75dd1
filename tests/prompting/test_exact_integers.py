"""Integers beyond 2^53 are enforced exactly, or refused with the reason."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.prompting.test_schema import accepts, check, refusal_of

from antiphon.prompting import ChatPrompter
from antiphon.prompting.schemas.exact import _integers
from antiphon.protocol.chat import ChatRequest, JsonSchemaFormat, Message, Tool, ToolChoice

BIG = 2**53 + 1
SNOWFLAKE = 1234567890123456789
NODE = {"type": "object", "properties": {"id": {"const": BIG}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
        "required": ["id", "next"], "additionalProperties": False}  # fmt: skip


def an_object(value: Any, required: tuple[str, ...] = ("v",)) -> dict[str, Any]:
    properties = {"v": value, "o": {"type": "string"}, "p": value}
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


CASES: list[tuple[dict[str, Any], list[Any], list[Any]]] = [
    ({"const": BIG}, [BIG], [BIG - 1, BIG + 1, -BIG]),
    ({"const": -BIG}, [-BIG], [BIG, -BIG - 1]),
    ({"const": SNOWFLAKE, "type": "integer"}, [SNOWFLAKE], [SNOWFLAKE + 1, SNOWFLAKE - 21]),
    ({"enum": [BIG, 1, BIG + 2]}, [BIG, 1, BIG + 2], [BIG + 1, 2]),
    ({"const": {"a": [BIG, "x"]}}, [{"a": [BIG, "x"]}], [{"a": [BIG - 1, "x"]}]),
    ({"type": "integer", "minimum": BIG, "maximum": BIG}, [BIG], [BIG - 1, BIG + 1]),
    ({"type": "number", "minimum": BIG, "maximum": BIG}, [BIG], [BIG - 1, BIG + 1]),
    ({"type": "integer", "minimum": BIG}, [BIG, BIG + 1, 10 * BIG], [BIG - 1, 5, -BIG]),
    ({"type": "integer", "maximum": BIG}, [BIG, 0, -1, -(10**20)], [BIG + 1, 10**17]),
    ({"type": "integer", "exclusiveMinimum": -BIG, "exclusiveMaximum": BIG}, [BIG - 1, 0, 1 - BIG], [BIG, -BIG]),
    ({"type": ["integer", "null"], "minimum": BIG}, [BIG, None], [BIG - 1, "null"]),
    ({"type": ["integer", "null"], "enum": [BIG, None, "a"]}, [BIG, None], [BIG - 1, "a"]),
    ({"type": ["integer", "string"], "minimum": BIG}, [BIG, "ab"], [BIG - 1]),
    ({"type": ["integer"], "const": BIG}, [BIG], [BIG - 1]),
    ({"anyOf": [{"type": "integer", "enum": [BIG]}, {"type": "string"}]}, [BIG, "x"], [BIG - 1, None]),
    ({"type": "array", "items": {"const": BIG}, "minItems": 1, "maxItems": 2}, [[BIG], [BIG, BIG]], [[], [BIG] * 3, [BIG - 1]]),
    ({"type": "array", "items": {"const": BIG}}, [[], [BIG] * 5], [[BIG, 1]]),
    (an_object({"const": BIG}), [{"v": BIG}, {"v": BIG, "o": "x", "p": BIG}, {"v": BIG, "p": BIG}], [{"o": "x"}, {"v": BIG - 1}, {}]),
    (an_object({"const": BIG}, ()), [{}, {"o": "x"}, {"p": BIG}, {"v": BIG, "o": ""}], [{"v": 1}, {"x": 1}]),
    (an_object({"anyOf": [{"const": BIG}, {"type": "null"}]}), [{"v": BIG}, {"v": None}], [{"v": 0}]),
    ({"$ref": "#/$defs/node", "$defs": {"node": NODE}}, [{"id": BIG, "next": {"id": BIG, "next": None}}], [{"id": BIG, "next": {"id": 1, "next": None}}]),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "good", "bad"), CASES)
def test_exact(schema: dict[str, Any], good: list[Any], bad: list[Any]) -> None:
    """What the schema admits can be written, and nothing else, in a format and in the arguments of a tool."""
    check(schema)
    form = JsonSchemaFormat("x", schema)
    assert [accepts(form, json.dumps(value)) for value in good] == [True] * len(good)
    assert [accepts(form, json.dumps(value)) for value in bad] == [False] * len(bad)
    tool = Tool(
        "f",
        parameters={"type": "object", "properties": {"w": schema}, "required": ["w"], "$defs": schema.get("$defs", {})},
    )
    for template in ("{% for m in messages %}{{ m.content }}{% endfor %}",):
        plan = ChatPrompter(template=template).plan(
            ChatRequest(model="m", messages=(Message("user", "Hi"),), tools=(tool,), tool_choice=ToolChoice("required"))
        )
        assert plan.grammar is not None


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": BIG, "multipleOf": 3},
        {"allOf": [{"const": BIG}]},
        {"type": "object", "properties": {"a": {"const": BIG}}, "additionalProperties": True},
        {"type": "string", "enum": [BIG]},
        {"type": "integer", "minimum": BIG, "maximum": BIG - 1},
    ],
)
def test_what_cannot_be_exact(schema: dict[str, Any]) -> None:
    """Where such an integer meets a keyword that these rules do not support, the schema is refused, never rounded."""
    assert re.search("53 bits|no integer", refusal_of(schema))


@settings(deadline=None)
@given(
    st.integers(-2000, 2000) | st.none(),
    st.integers(-2000, 2000) | st.none(),
    st.lists(st.integers(-3000, 3000), max_size=30),
)
def test_any_range(least: int | None, most: int | None, numbers: list[int]) -> None:
    """The expression of a range matches its integers and no other text."""
    if least is not None and most is not None and least > most:
        least, most = most, least
    expression = re.compile(_integers(least, most))
    for number in [*numbers, *(end for end in (least, most) if end is not None)]:
        is_inside = (least is None or number >= least) and (most is None or number <= most)
        assert bool(expression.fullmatch(str(number))) == is_inside
        assert not expression.fullmatch(f"0{number}")
    assert not expression.fullmatch("-0")
