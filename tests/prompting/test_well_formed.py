"""A keyword whose value it cannot have is refused in the words of JSON, and one written in an unusual way is understood."""

import json
from typing import Any

import pytest
from tests.prompting.test_schema import accepts, check, refusal_of

from antiphon.protocol.chat import JsonSchemaFormat


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"type": "integer", "minimum": "3"}, "'minimum' must be a number, but is a string."),
        ({"type": "integer", "maximum": None}, "'maximum' must be a number, but is null."),
        ({"type": "integer", "exclusiveMinimum": [1]}, "'exclusiveMinimum' must be a number, but is an array."),
        ({"type": "integer", "multipleOf": 0}, "'multipleOf' must be a number above 0, but is 0."),
        ({"type": "string", "minLength": -1}, "'minLength' must be an integer of at least 0, but is -1."),
        ({"type": "string", "maxLength": 1.5}, "'maxLength' must be an integer of at least 0, but is 1.5."),
        ({"type": "array", "minItems": True}, "'minItems' must be an integer of at least 0, but is a boolean."),
        ({"type": "object", "properties": []}, "'properties' must be an object, but is an array."),
        ({"type": "object", "required": "a"}, "'required' must be an array of strings, but is a string."),
        ({"type": "object", "required": [1]}, "'required' must be an array of strings, but is an array."),
        ({"type": "string", "pattern": 5}, "'pattern' must be a string, but is 5."),
        ({"enum": {"a": 1}}, "'enum' must be an array, but is an object."),
        ({"$ref": 1}, "'$ref' must be a string, but is 1."),
        ({"anyOf": [{"type": "string", "maxLength": "9"}]}, "'maxLength' must be an integer of at least 0, but is a string."),
    ],
)  # fmt: skip
def test_values_that_a_keyword_cannot_have(schema: dict[str, Any], problem: str) -> None:
    """The message names the keyword, what it takes and what it got; nothing of the compiler's own types."""
    assert refusal_of(schema) == f"Invalid schema for response_format 'x': {problem}"


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string", "minLength": 2.0, "maxLength": 3.0}, ["ab", "abc"], ["a", "abcd"]),
        ({"type": "array", "items": {"type": "null"}, "minItems": 1.0}, [[None]], [[]]),
        ({"type": "string", "maxLength": 10**30}, ["", "a" * 50], [1]),
        ({"type": "array", "items": {"type": "null"}, "maxItems": 2**64}, [[], [None]], [[1]]),
    ],
)
def test_counts(schema: dict[str, Any], good: list[Any], bad: list[Any]) -> None:
    """A count may be written as a whole number with a fraction, and may exceed every answer."""
    check(schema)
    form = JsonSchemaFormat("x", schema)
    assert [accepts(form, json.dumps(value)) for value in good] == [True] * len(good)
    assert [accepts(form, json.dumps(value)) for value in bad] == [False] * len(bad)


@pytest.mark.parametrize(
    ("schema", "keywords"),
    [
        ({"type": "integer", "multipleOf": 2**53 + 1}, "'multipleOf'"),
        ({"type": "number", "multipleOf": 1e-20}, "'multipleOf'"),
        ({"type": "number", "minimum": 1e-320}, "'minimum'"),
    ],
)
def test_what_the_compiler_has_no_rule_for(schema: dict[str, Any], keywords: str) -> None:
    """The message blames the keyword that is there, without the compiler's own expression."""
    problem = refusal_of(schema)
    assert problem.startswith(f"Invalid schema for response_format 'x': {keywords} cannot be enforced here")
    assert len(problem) < 200
