"""Signatures of tools: what pydantic means by them, or refused by name."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from pydantic import Field, ValidationError

from antiphon.toolkit.errors import SchemaError
from antiphon.toolkit.tools.tool import Tool, tool
from antiphon.toolkit.tools.toolbox import Toolbox


def field_default(age: int | None = Field(None, gt=0, description="In years.")) -> Any:
    return age


def field_value(age: int = Field(5, gt=0, description="In years.")) -> Any:
    return age


def field_factory(tags: list[str] = Field(default_factory=list, max_length=2)) -> Any:  # noqa: B008
    return tags


def field_required(age: int = Field(..., gt=0)) -> Any:
    return age


def annotated(age: Annotated[int, Field(gt=0, description="In years.")]) -> Any:
    return age


def annotated_default(age: Annotated[int, Field(gt=0)] = 5) -> Any:
    return age


def annotated_inner_default(age: Annotated[int, Field(gt=0, default=5)]) -> Any:
    return age


def plain_default(age: Annotated[int, "In years."] = 5) -> Any:
    return age


def pair(both: tuple[int, str]) -> Any:
    return both


def aliased(class_: Annotated[str, Field(alias="class")]) -> Any:
    return class_


def bound(age: int, unit: str, scale: object) -> Any:
    return (age, unit, scale)


class Doubler:
    """A class whose objects are tools."""

    arguments = "an attribute with the name of a tool's method"

    def __init__(self, factor: int) -> None:
        self.definition = factor

    def __call__(self, age: int) -> int:
        """Multiply.

        Args:
            age: In years.
        """
        return age * self.definition


class AsyncDoubler:
    async def __call__(self, age: int) -> int:
        return age * 2


@dataclass
class Holder:
    factor: int

    def method(self, age: int) -> int:
        """Multiply by the factor."""
        return age * self.factor


@pytest.mark.parametrize(
    ("function", "arguments", "result"),
    [
        (field_default, '{"age": 3}', 3),
        (field_default, '{"age": null}', None),
        (field_value, '{"age": null}', 5),
        (field_factory, '{"tags": null}', []),
        (field_required, '{"age": 1}', 1),
        (annotated, '{"age": 1}', 1),
        (annotated_default, '{"age": null}', 5),
        (annotated_inner_default, '{"age": null}', 5),
        (plain_default, '{"age": null}', 5),
        (pair, '{"both": [1, "a"]}', (1, "a")),
        (aliased, '{"class": "a"}', "a"),
        (functools.partial(bound, unit="cm", scale=object), '{"age": 1}', (1, "cm", object)),
        (functools.partial(bound, 7, scale=object), '{"unit": "m"}', (7, "m", object)),
        (Doubler(2), '{"age": 4}', 8),
        (functools.partial(Doubler(3)), '{"age": 4}', 12),
        (Holder(5).method, '{"age": 2}', 10),
    ],
)
def test_arguments_reach_the_function(function: Callable[..., Any], arguments: str, result: object) -> None:
    """With the defaults of ``Field`` where the model leaves them, and what a partial has bound."""
    made: Tool[..., Any] = tool(function)
    assert made(**made.arguments(arguments)) == result


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (field_default, '{"age": -3}'),
        (field_value, '{"age": 0}'),
        (field_factory, '{"tags": ["a", "b", "c"]}'),
        (field_required, '{"age": null}'),
        (annotated, '{"age": -1}'),
        (annotated_default, '{"age": -1}'),
        (annotated_inner_default, '{"age": -1}'),
        (pair, '{"both": ["a", 1]}'),
        (pair, '{"both": [1]}'),
        (functools.partial(bound, unit="cm", scale=object), '{"age": 1, "unit": "m"}'),
    ],
)
def test_bounds_hold(function: Callable[..., Any], arguments: str) -> None:
    """Wherever they are written; and a bound argument is not the model's to choose."""
    with pytest.raises(ValidationError):
        tool(function).arguments(arguments)


@pytest.mark.parametrize(
    ("function", "schema"),
    [
        (
            field_default,
            {"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "null"}], "description": "In years."},
        ),
        (
            field_value,
            {
                "anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "null"}],
                "description": "In years. Null means 5.",
            },
        ),
        (annotated, {"type": "integer", "exclusiveMinimum": 0, "description": "In years."}),
        (Doubler(2), {"type": "integer", "description": "In years."}),
    ],
)
def test_the_schema_has_the_bounds_and_words(function: Callable[..., Any], schema: dict[str, Any]) -> None:
    """And never the text of a ``Field`` object."""
    properties = tool(function).definition["function"]["parameters"]["properties"]
    assert properties == {"age": schema}


def test_names_and_descriptions_are_those_of_the_definition() -> None:
    """Of the function behind a partial, and of a callable object's class and its ``__call__``."""
    made = Toolbox.of([functools.partial(field_value), Doubler(2), Holder(1).method])
    described = {d["function"]["name"]: d["function"]["description"] for d in made.definitions}
    assert described == {"field_value": "", "Doubler": "Multiply.", "method": "Multiply by the factor."}
    assert tool(AsyncDoubler()).is_async
    assert tool(functools.partial(AsyncDoubler())).is_async


def test_a_docstring_of_arguments_alone_describes_them() -> None:
    """The tool itself then has no description."""

    def shout(text: str) -> str:
        """Args:
            text: What to shout.
        """  # fmt: skip
        return text

    function = tool(shout).definition["function"]
    assert function["description"] == ""
    assert function["parameters"]["properties"]["text"]["description"] == "What to shout."


def _variadic(*args: int) -> None: ...
def _keywords(**kwargs: int) -> None: ...
def _positional(a: int, /) -> None: ...
def _not_python(a: "not python(") -> None: ...  # pyright: ignore # noqa: F722, PGH003 - the annotation is the test
def _number(a: 5) -> None: ...  # pyright: ignore # noqa: PGH003


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_variadic, r"\*args"),
        (_keywords, r"\*\*kwargs"),
        (_positional, "'?a"),
        (_not_python, "cannot be read"),
        (_number, "_number"),
        (dict, "dict"),
    ],
)
def test_what_a_model_cannot_give_is_refused_by_name(function: Callable[..., Any], message: str) -> None:
    """With a SchemaError, never another error."""
    with pytest.raises(SchemaError, match=message):
        tool(function)
