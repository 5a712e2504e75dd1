"""Functions as tools."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from antiphon.toolkit.errors import SchemaError
from antiphon.toolkit.tools.tool import tool
from antiphon.toolkit.tools.toolbox import Toolbox


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Address(BaseModel):
    street: str
    number: int = 1


@dataclass
class Point:
    x: float
    y: float


def parameters(made: Any) -> dict[str, Any]:
    return made.definition["function"]["parameters"]


def test_a_docstring_and_annotations_become_a_strict_schema() -> None:
    """Descriptions come from the docstring or from Annotated; every property is required and no other allowed."""

    @tool
    def get_weather(city: str, unit: Annotated[Literal["C", "F"], "Celsius or Fahrenheit"]) -> str:
        """Look up the weather.

        It is current.

        Args:
            city: The city, e.g. Oslo.
            unit: not used, since Annotated goes first.
        """
        return f"{city}: 20 {unit}"

    assert get_weather.definition == {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Look up the weather.\n\nIt is current.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "The city, e.g. Oslo."},
                    "unit": {"type": "string", "enum": ["C", "F"], "description": "Celsius or Fahrenheit"},
                },
                "required": ["city", "unit"],
                "additionalProperties": False,
            },
            "strict": True,
        },
    }
    assert get_weather("Oslo", "C") == "Oslo: 20 C"


def test_models_dataclasses_enums_and_lists_are_validated_into_themselves() -> None:
    """What the function gets is what it is annotated with."""

    @tool
    def move(to: Address, by: Point, colours: list[Colour], times: Annotated[int, Field(ge=1)]) -> None: ...

    got = move.arguments('{"to": {"street": "A", "number": 2}, "by": {"x": 1, "y": 2}, "colours": ["red"], "times": 3}')
    assert got == {"to": Address(street="A", number=2), "by": Point(1, 2), "colours": [Colour.RED], "times": 3}
    with pytest.raises(ValidationError, match="times"):
        move.arguments('{"to": {"street": "A", "number": 2}, "by": {"x": 1, "y": 2}, "colours": [], "times": 0}')


def test_a_default_holds_where_the_model_sends_null() -> None:
    """Strict schemas require every property, so null stands for the default, which the description names."""

    @tool
    def search(query: str, limit: int = 10) -> None:
        """Search."""

    limit = parameters(search)["properties"]["limit"]
    assert {"type": "null"} in limit["anyOf"]
    assert limit["description"] == "Null means 10."
    assert search.arguments('{"query": "a", "limit": null}') == {"query": "a"}
    assert search.arguments('{"query": "a", "limit": 3}') == {"query": "a", "limit": 3}


def test_parameters_may_be_called_what_models_call_their_own() -> None:
    """No name of a parameter clashes with pydantic's."""

    @tool
    def odd(schema: str, copy: str, model_config: str, _hidden: str) -> None: ...

    assert list(parameters(odd)["properties"]) == ["schema", "copy", "model_config", "_hidden"]
    values = {"schema": "a", "copy": "b", "model_config": "c", "_hidden": "d"}
    assert odd.arguments(str(values).replace("'", '"')) == values


def test_methods_and_plain_functions_are_taken_as_they_are() -> None:
    """A bound method needs no decorator."""

    class Shop:
        def buy(self, item: str) -> str:
            return item

    assert list(Toolbox.of([Shop().buy]).tools) == ["buy"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tool(_no_annotation), "has no annotation"),
        (lambda: tool(_variadic), "variadic positional"),
        (lambda: tool(_free_keys), "allows free keys at '/properties/values'"),
        (lambda: tool(_unknown_type), "cannot be read"),
        (lambda: tool(_any_type), "any type at '/properties/a/items'"),
        (lambda: tool(_not_json), "no JSON schema"),
        (lambda: tool(name="not a name")(_free_keys), "not a name for a tool"),
        (lambda: Toolbox.of([_fine, _fine]), "Two tools are called '_fine'"),
    ],
)
def test_what_a_model_could_not_call_is_refused_at_once(make: Any, message: str) -> None:
    """The error is a SchemaError that names the parameter."""
    with pytest.raises(SchemaError, match=message):
        make()


def test_free_keys_are_allowed_without_strictness() -> None:
    """strict=False says so to the server as well."""
    made = tool(strict=False)(_free_keys)
    assert made.definition["function"]["strict"] is False
    assert made.arguments('{"values": {"a": 1}}') == {"values": {"a": 1}}


def _no_annotation(a) -> None: ...  # noqa: ANN001 - what the test is about


def _variadic(*a: int) -> None: ...


def _free_keys(values: dict[str, int]) -> None: ...


def _unknown_type(a: "Missing") -> None: ...  # noqa: F821 - what the test is about


def _any_type(a: list[Any]) -> None: ...


def _not_json(a: Callable[[], int]) -> None: ...


def _fine(a: int) -> None: ...


def test_a_type_whose_package_is_missing_is_named() -> None:
    """pydantic's own types may need another package; what it says of it is shown, as a SchemaError."""

    class Address:
        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
            raise ImportError("email-validator is not installed")

    def write(to: Address) -> None: ...

    with pytest.raises(SchemaError, match="'write' cannot be validated: email-validator is not installed"):
        tool(write)
