"""The strict subset: what it admits, where its limits are, and how it says no."""

from typing import Any

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from antiphon.protocol import ApiError
from antiphon.protocol.chat import Tool
from antiphon.protocol.strict_schema import MAX_LEVELS, check_function_parameters, check_response_schema

Json = dict[str, Any]


def an_object(**properties: Any) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def refusal(schema: Json) -> str:
    with pytest.raises(ApiError) as caught:
        check_response_schema("x", schema)
    return caught.value.message.removeprefix("Invalid schema for response_format 'x': ")


class Node(BaseModel):
    """A recursive model with what people use: optional, nested, list, enum by Literal, bounds."""

    name: str = Field(description="its name", min_length=1, pattern="^[a-z]+$")
    weight: float | None
    children: list["Node"]


def test_what_the_official_client_makes_of_pydantic_models() -> None:
    """Its schemas are strict, recursion and references included, for answers and for tools."""
    parameters = openai.pydantic_function_tool(Node)["function"]["parameters"]
    assert isinstance(parameters, dict)
    root = {key: value for key, value in parameters.items() if key != "$ref"}
    if "properties" in root:
        check_response_schema("Node", root)
        check_function_parameters(Tool("node", parameters=root, strict=True), "tools[0].function.parameters")


@pytest.mark.parametrize(
    "schema",
    [
        an_object(),
        an_object(a={"type": ["string", "null"]}, b={"enum": ["x", 1]}, c={"const": 3}),
        an_object(a={"anyOf": [{"type": "string"}, an_object(b={"type": "integer"})]}),
        an_object(a={"$ref": "#"}),
        an_object(a={"$ref": "#/$defs/n"}) | {"$defs": {"n": an_object(next={"$ref": "#/$defs/n"})}},
        an_object(a={"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 1, "maxItems": 3}),
        an_object(a={"type": "string", "format": "date-time", "title": "A", "default": "now", "description": "d"}),
    ],
)
def test_admitted(schema: Json) -> None:
    """Unions, references, recursion, bounds and annotations are of the subset."""
    check_response_schema("x", schema)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({}, "schema must be a JSON Schema of 'type: \"object\"', got 'type: \"None\"'."),
        (an_object() | {"anyOf": []}, "schema must have type 'object' and not have 'oneOf'/'anyOf'/"),
        (an_object(a={"oneOf": []}), "In context=('properties', 'a'), 'oneOf' is not permitted."),
        (an_object(a={"type": "strin"}), "In context=('properties', 'a'), 'strin' is not a valid type."),
        (an_object(a=True), "In context=('properties', 'a'), expected a schema object, but got a boolean."),
        (an_object(a={"enum": []}), "In context=('properties', 'a'), 'enum' must have at least one value."),
        (an_object(a={"enum": 3}), "In context=('properties', 'a'), 'enum' must be an array."),
        (an_object() | {"properties": []}, "In context=(), 'properties' must be an object."),
        (
            an_object() | {"required": ["b"]},
            (
                "In context=(), 'required' is required to be supplied and to be an array including every key in properties. "
                "Extra required key 'b' supplied."
            ),
        ),
        (
            an_object() | {"required": [[]]},
            (
                "In context=(), 'required' is required to be supplied and to be an array including every key in properties. "
                "Extra required key '[]' supplied."
            ),
        ),
        (an_object(a={"type": "string", "format": []}), "In context=('properties', 'a'), [] is not a valid format."),
        (an_object(a={"$ref": "other.json"}), "In context=('properties', 'a'), reference 'other.json' does not point"),
        (
            an_object(a={"$ref": "#/$defs/n"}),
            "In context=('properties', 'a'), reference to component '#/$defs/n' which was not found in the schema.",
        ),
        (
            an_object(a={"anyOf": [{"type": "string"}, {"not": {}}]}),
            "In context=('properties', 'a', 'anyOf', '1'), 'not' is not permitted.",
        ),
        (
            an_object(a={"type": "array", "items": {"type": "array"}}),
            "In context=('properties', 'a', 'items'), array schema missing items.",
        ),
    ],
)
def test_refused_by_name(schema: Json, said: str) -> None:
    """The error tells where and what."""
    assert refusal(schema).startswith(said)


def test_limits() -> None:
    """Levels, properties, enum values and characters of names are counted over the whole schema."""
    deep: Json = {"type": "string"}
    for _ in range(MAX_LEVELS):
        deep = an_object(a=deep)
    check_response_schema("x", deep)
    text = {"type": "string"}
    assert refusal(an_object(a=deep)) == "11 levels of nesting exceeds limit of 10."
    assert refusal(an_object(**{f"p{n}": text for n in range(5001)})).startswith("5001 properties in total")
    assert refusal(an_object(a={"enum": list(range(1001))})).startswith("1001 enum values in total")
    assert "characters" in refusal(an_object(a={"enum": ["x" * 120_000]}))


def test_tools_say_it_in_their_own_words() -> None:
    """Parameter and code are those of functions; a tool that is not strict only has to take an object."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    check_function_parameters(Tool("f", parameters=schema), "tools[0].function.parameters")
    check_function_parameters(Tool("f", strict=True), "tools[0].function.parameters")
    with pytest.raises(ApiError) as caught:
        check_function_parameters(Tool("f", parameters=schema, strict=True), "tools[0].function.parameters")
    assert (caught.value.param, caught.value.code) == ("tools[0].function.parameters", "invalid_function_parameters")


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["type", "properties", "required", "items", "anyOf", "$ref", "$defs", "enum", "format", "a"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


# The time of a draw depends on the machine's other work, and a test's outcome should not.
@settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["properties", "required", "$defs", "items", "additionalProperties"]), _values))
def test_any_json_is_judged(schema: Json) -> None:
    """Whatever stands in place of a schema, the answer is yes or a 400."""
    try:
        check_response_schema("x", {"type": "object"} | schema)
    except ApiError as error:
        assert error.status == 400  # noqa: PT017 - most are refused, and how is the point
