"""Numbers of many digits are enforced exactly, or refused with the reason."""

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


@settings(deadline=None, max_examples=60)
@given(st.integers(50, 110), st.integers(-2, 2), st.sampled_from([1, -1]), st.booleans())
def test_each_end_of_a_range(bits: int, offset: int, sign: int, is_float: bool) -> None:
    """Whatever the size of an end, the integer on its inner side is taken and the one on its outer side is not."""
    end: Any = sign * 2**bits + offset
    if is_float:
        end = float(end)
    whole = int(end)
    for keyword, inner, outer in (
        ("minimum", whole, whole - 1),
        ("maximum", whole, whole + 1),
        ("exclusiveMinimum", whole + 1, whole),
        ("exclusiveMaximum", whole - 1, whole),
    ):
        form = JsonSchemaFormat("x", {"type": "integer", keyword: end})
        check(form.schema)
        assert (accepts(form, str(inner)), accepts(form, str(outer))) == (True, False), keyword


@pytest.mark.parametrize(
    "value", [-(2**63), 2**64, -1e300, 0.1 + 0.2, 1e-30, 5e-324, 1e22, 1.5e300, 12345678901234567.5, 10**400]
)
def test_constants_of_many_digits(value: float) -> None:
    """A constant that the compiler might take for another number is written as it is, wherever in the data it is."""
    for schema, answer in (
        ({"const": value}, value),
        ({"enum": [None, value]}, value),
        ({"const": {"a": [1, value]}}, {"a": [1, value]}),
    ):
        check(schema)
        text = accepted_text(answer)
        assert accepts(JsonSchemaFormat("x", schema), text)
        assert not accepts(JsonSchemaFormat("x", schema), text.replace(json.dumps(whole(value)), "7"))


def whole(value: float) -> float:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 10**22 else value


def accepted_text(answer: Any) -> str:
    """Return JSON in which whole numbers have no fraction."""
    if isinstance(answer, dict):
        return json.dumps({key: [1, whole(value)] for key, (_, value) in answer.items()})
    return json.dumps(whole(answer))


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"minimum": 10**18}, ["1000000000000000000", "1000000000000000000.5"], ["999999999999999999.9"]),
        ({"maximum": 10**18}, ["1000000000000000000", "999999999999999999.5", "-5.5", "0.1"], ["1000000000000000000.1"]),
        ({"minimum": -(10**18), "maximum": 3}, ["-999999999999999999.5", "2.9", "-0.5", "3"], ["3.1", "-1000000000000000000.1"]),
        ({"maximum": -(10**18)}, ["-1000000000000000000.1", "-1000000000000000001"], ["-999999999999999999.9", "0.5"]),
        ({"minimum": 10**18, "maximum": 10**18}, ["1000000000000000000"], ["1000000000000000000.1", "1000000000000000001"]),
    ],
)  # fmt: skip
def test_ranges_of_numbers_with_a_fraction(schema: dict[str, Any], good: list[str], bad: list[str]) -> None:
    """A range of numbers that begins far from zero holds for fractions too; they are written without an exponent."""
    form = JsonSchemaFormat("x", {"type": "number", **schema})
    check(form.schema)
    assert [accepts(form, text) for text in good] == [True] * len(good)
    assert [accepts(form, text) for text in bad] == [False] * len(bad)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": BIG, "multipleOf": 3},
        {"type": "number", "minimum": 10**18, "maximum": 10**19 + 0.0, "exclusiveMinimum": 1},
        {"allOf": [{"const": BIG}]},
        {"type": "object", "properties": {"a": {"const": BIG}}, "additionalProperties": True},
        {"type": "string", "enum": [BIG]},
        {"type": "integer", "minimum": BIG, "maximum": BIG - 1},
    ],
)
def test_what_cannot_be_exact(schema: dict[str, Any]) -> None:
    """Where such an integer meets a keyword that these rules do not support, the schema is refused, never rounded."""
    assert re.search("so many digits|no integer", refusal_of(schema))


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
