"""Tools and formats described in words."""

from typing import Any

import pytest

from antiphon.prompting.instructions import form_in_words
from antiphon.protocol.chat import JsonSchemaFormat


def described(properties: dict[str, Any], required: list[str]) -> list[str]:
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
    """A type is described in a word or two where that says all but its bounds, and by its schema otherwise."""
    assert described({"key": schema}, ["key"]) == [f"- key ({words})"]


def test_required_keys_are_marked_where_some_are_optional() -> None:
    """Each line has few words; descriptions follow."""
    properties = {"a": {"type": "string", "description": "An a"}, "b": {"type": "integer"}}
    assert described(properties, ["a"]) == ["- a (string, required): An a", "- b (integer)"]
    assert described(properties, ["a", "b"]) == ["- a (string): An a", "- b (integer)"]
