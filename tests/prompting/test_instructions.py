"""What a model is told in words."""

from typing import Any

import pytest

from antiphon.prompting.instructions import form_in_words
from antiphon.protocol.chat import JsonSchemaFormat


def told(properties: dict[str, Any], required: list[str]) -> list[str]:
    schema = {"type": "object", "properties": properties, "required": required}
    return form_in_words(JsonSchemaFormat("it", schema), as_list=True).splitlines()[1:]


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "string", "minLength": 3}, "string"),
        ({"type": ["string", "null"]}, "string or null"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}, "string or null"),
        ({"enum": ["a", 1]}, 'one of "a", 1'),
        ({"const": "a", "type": "string"}, '"a"'),
        ({"type": "array", "items": {"type": "string"}, "minItems": 2}, "list of string"),
        ({"type": "array", "items": {"type": ["string", "null"]}}, '{"type": "array", "items": {"type": ["string", "null"]}}'),
        ({"type": "array", "items": {"type": "string", "description": "A word"}},
         '{"type": "array", "items": {"type": "string", "description": "A word"}}'),
        ({"anyOf": [{"type": "string"}, {"$ref": "#"}]}, '{"anyOf": [{"type": "string"}, {"$ref": "#"}]}'),
        ({}, "{}"),
    ],
)  # fmt: skip
def test_types_in_words(schema: dict[str, Any], words: str) -> None:
    """A type is told in a word or two where that says it all but its bounds, and as its schema otherwise."""
    assert told({"key": schema}, ["key"]) == [f"- key ({words})"]


def test_what_is_required_is_told_where_some_is_not() -> None:
    """Each line has few words; descriptions follow."""
    properties = {"a": {"type": "string", "description": "An a"}, "b": {"type": "integer"}}
    assert told(properties, ["a"]) == ["- a (string, required): An a", "- b (integer)"]
    assert told(properties, ["a", "b"]) == ["- a (string): An a", "- b (integer)"]
