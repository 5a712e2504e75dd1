"""Schemas of types: what the toolkit sends is what a strict server accepts."""

import re
import uuid
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypeVar

import pytest
from pydantic import AnyUrl, BaseModel, ConfigDict, Field, Json, RootModel, SecretStr, create_model
from typing_extensions import TypedDict

from antiphon.protocol.chat import Tool as ServerTool
from antiphon.protocol.strict_schema import check_function_parameters, check_response_schema
from antiphon.toolkit.errors import SchemaError
from antiphon.toolkit.schemas.json_schema import strict_schema
from antiphon.toolkit.schemas.output_schema import describe_output
from antiphon.toolkit.tools.tool import tool

T = TypeVar("T")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Point(NamedTuple):
    x: int
    y: int


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"]


class Node(BaseModel):
    name: str
    children: list["Node"] = []


class Page(BaseModel, Generic[T]):
    items: list[T]


class Numbers(RootModel[list[int]]):
    pass


# Each kind of field that an application may write, and a value of it as a model would answer.
KINDS: dict[str, tuple[Any, Any]] = {
    "text": (str, "a"),
    "integer": (int, 1),
    "number": (float, 1.5),
    "truth value": (bool, True),
    "nothing": (None, None),
    "optional": (int | None, None),
    "bytes": (bytes, "a"),
    "decimal": (Decimal, "1.5"),
    "enumeration": (Colour, "red"),
    "literal": (Literal["a", "b", 3], 3),
    "date": (date, "2024-01-01"),
    "date and time": (datetime, "2024-01-01T00:00:00Z"),
    "time": (time, "10:00:00"),
    "duration": (timedelta, "P1D"),
    "UUID": (uuid.UUID, "12345678-1234-5678-1234-567812345678"),
    "URL": (AnyUrl, "http://a.test/"),
    "path": (Path, "/tmp"),
    "address": (IPv4Address, "127.0.0.1"),
    "secret": (SecretStr, "a"),
    "JSON in a text": (Json[list[int]], "[1]"),
    "list": (list[int], [1]),
    "set": (set[int], [1]),
    "frozen set": (frozenset[str], ["a"]),
    "tuple of one type": (tuple[int, int], [1, 2]),
    "tuple of several": (tuple[int, str], [1, "a"]),
    "tuple of any length": (tuple[int, ...], [1, 2, 3]),
    "named tuple": (Point, [1, 2]),
    "typed dict": (Movie, {"title": "a", "year": 1}),
    "model": (Cat, {"kind": "cat", "lives": 9}),
    "generic model": (Page[int], {"items": [1]}),
    "recursive model": (Node, {"name": "a", "children": [{"name": "b", "children": []}]}),
    "root model": (Numbers, [1]),
    "union": (int | str, "a"),
    "union with a discriminator": (Annotated[Cat | Dog, Field(discriminator="kind")], {"kind": "dog"}),
    "bounds": (Annotated[int, Field(gt=0, le=9, multiple_of=3)], 3),
    "pattern": (Annotated[str, Field(pattern="^a+$")], "aa"),
    "lengths": (Annotated[list[str], Field(min_length=1, max_length=3)], ["a"]),
    "default": (Annotated[int, Field(default=5)], 7),
    "described reference": (Annotated[Cat, Field(description="the pet")], {"kind": "cat", "lives": 1}),
    "example of an older style": (Annotated[str, Field(json_schema_extra={"example": "a"})], "a"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_field_is_accepted_by_a_strict_server(kind: str) -> None:
    """As a field of an answer, as the whole answer, and as a parameter of a tool."""
    annotation, value = KINDS[kind]
    model = create_model("Answer", field=(annotation, ...))
    for output in (model, annotation):
        described = describe_output(output)
        check_response_schema(described.name, described.schema)
    assert describe_output(model).adapter.validate_python({"field": value}) is not None

    def function(field: Any) -> None: ...

    function.__annotations__["field"] = annotation
    made = tool(function).definition["function"]
    check_function_parameters(ServerTool(made["name"], parameters=made["parameters"], strict=True), "tools")


DECIMALS = [Decimal, Annotated[Decimal, Field(max_digits=5, decimal_places=2)], Annotated[Decimal, Field(ge=0)]]


@pytest.mark.parametrize("kind", DECIMALS)
def test_a_decimal_number_in_a_text_is_a_number(kind: Any) -> None:
    """Pydantic's own pattern looks ahead, which strict mode refuses; without any, a price may be a word."""
    schema = describe_output(create_model("Answer", price=(kind, ...))).schema["properties"]["price"]
    pattern = next(option["pattern"] for option in schema["anyOf"] if option["type"] == "string")
    for text in ("1", "20.50", "+0.5", ".5", "7.", "-3", "EUR", "", ".", "-", "1.2.3", "1e5", "1 000"):
        is_number = bool(re.search(r"\d", text)) and text.count(".") < 2 and not re.search(r"[^-+.\d]", text)
        assert bool(re.search(pattern, text)) == is_number, text


KEYWORDS = (
    *("properties", "items", "anyOf", "oneOf", "allOf", "additionalProperties", "title", "default", "required"),
    *("enum", "type", "not", "const", "format", "pattern", "prefixItems", "discriminator"),
)


@pytest.mark.parametrize("name", [*KEYWORDS, "$ref", "$defs"])
def test_a_property_may_have_the_name_of_a_keyword(name: str) -> None:
    """In an answer, nested in one, and as a parameter of a tool: schemas are walked by position."""
    inner: Any = create_model("Inner", field=(list[str], Field(alias=name)))
    outer: Any = create_model("Outer", field=(inner, Field(alias=name)), plain=(int, ...))
    schema = describe_output(outer).schema
    check_response_schema("Outer", schema)
    assert schema["required"] == [name, "plain"]
    assert schema["$defs"]["Inner"]["properties"] == {name: {"type": "array", "items": {"type": "string"}}}


@pytest.mark.parametrize("name", [name for name in KEYWORDS if name.isidentifier() and name != "not"])
def test_a_parameter_of_a_tool_may_have_the_name_of_a_keyword(name: str) -> None:
    """And reaches the function under it."""
    namespace: dict[str, Any] = {}
    exec(f"def function({name}: str) -> str:\n    return {name}", namespace)
    made = tool(namespace["function"])
    parameters = made.definition["function"]["parameters"]
    assert parameters["properties"] == {name: {"type": "string"}}
    assert made(**made.arguments(f'{{"{name}": "a"}}')) == "a"


@pytest.mark.parametrize(
    ("annotation", "where"),
    [
        (dict[str, int], "/properties/field"),
        (dict[Annotated[str, Field(pattern="^a")], int], "/properties/field"),
        (list[Any], "/properties/field/items"),
        (Any, "/properties/field"),
        (list[dict[str, Any]], "/properties/field/items"),
        (create_model("Open", __config__=ConfigDict(extra="allow"), a=(int, ...)), "/$defs/Open"),
        (Annotated[int, Field(json_schema_extra={"not": {"const": 3}})], "/properties/field"),
        (Callable[[], int], "Answer"),
    ],
)
def test_what_strict_mode_cannot_express_is_refused_with_its_place(annotation: Any, where: str) -> None:
    """Before anything is sent."""
    with pytest.raises(SchemaError) as caught:
        strict_schema(create_model("Answer", field=(annotation, ...)), "Answer")
    assert where in caught.value.message


def test_a_tuple_keeps_its_length_and_says_its_order() -> None:
    """Strict mode has no list of types by position; pydantic checks the order afterwards."""
    schema = describe_output(create_model("Answer", pair=(tuple[int, str], ...))).schema
    assert schema["properties"]["pair"] == {
        "type": "array",
        "items": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        "minItems": 2,
        "maxItems": 2,
        "description": "In this order: integer, string.",
    }


def test_a_format_that_strict_mode_refuses_is_said_in_words() -> None:
    """The type's own validation still holds."""
    schema = describe_output(create_model("Answer", url=(Annotated[AnyUrl, Field(description="A link.")], ...))).schema
    assert schema["properties"]["url"] == {"type": "string", "minLength": 1, "description": "A link. Format: uri."}


def test_a_tool_that_is_not_strict_keeps_its_free_keys() -> None:
    """Free keys are what strict=False is for."""

    @tool(strict=False)
    def count(words: dict[str, int]) -> int:
        return sum(words.values())

    assert count.definition["function"]["parameters"]["properties"]["words"] == {
        "type": "object",
        "additionalProperties": {"type": "integer"},
    }
