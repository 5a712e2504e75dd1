"""A reference may lead anywhere in its document, by names in any characters."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.prompting.test_schema import accepts, check, refusal_of

from antiphon.prompting.schemas.references import MAX_EXPANDED_CHARS, ExpandedSchemaError, with_plain_references
from antiphon.protocol.chat import JsonSchemaFormat
from antiphon.protocol.errors import ApiError
from antiphon.protocol.json_pointer import resolve_pointer
from antiphon.protocol.strict_schema import check_response_schema

Json = dict[str, Any]


def an_object(**properties: Any) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def named(name: str, reference: str) -> Json:
    return an_object(v={"$ref": reference}) | {"$defs": {name: {"type": "integer"}}}


TREE = an_object(left={"anyOf": [{"type": "integer"}, {"type": "null"}]})
DOCUMENTS = {
    "percent": named("Page[int]", "#/$defs/Page%5Bint%5D"),
    "plain brackets": named("Page[int]", "#/$defs/Page[int]"),
    "blanks and umlauts": named("Mein Größe", "#/$defs/Mein Größe"),
    "percent umlauts": named("Mein Größe", "#/$defs/Mein%20Gr%C3%B6%C3%9Fe"),
    "a name with percent signs": named("Page%5Bint%5D", "#/$defs/Page%5Bint%5D"),
    "a percent sign": named("100%", "#/$defs/100%"),
    "slash": named("a/b", "#/$defs/a~1b"),
    "tilde": named("a~b", "#/$defs/a~0b"),
    "tilde one": named("a~1b", "#/$defs/a~01b"),
    "hash": named("a#b", "#/$defs/a#b"),
    "quotes": named('a"b\\', '#/$defs/a"b\\'),
    "empty": named("", "#/$defs/"),
    "emoji": named("日本😀", "#/$defs/日本😀"),
    "keywords": named("$ref", "#/$defs/$ref"),
    "through a list": an_object(tree=TREE, v={"$ref": "#/properties/tree/properties/left/anyOf/0"}),
    "a property": an_object(tree={"type": "integer"}, v={"$ref": "#/properties/tree"}),
    "items": an_object(tree={"type": "array", "items": {"type": "integer"}}, v={"$ref": "#/properties/tree/items"}),
    "twice": an_object(tree={"$ref": "#/properties/v"}, v={"$ref": "#/$defs/a b"})
    | {"$defs": {"a b": {"type": "integer"}}},
    "a name like ours": named("part0", "#/$defs/part0") | {"description": "x"},
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_references_lead_where_they_say(name: str) -> None:
    """Such a schema is strict, can be enforced, and holds the answer to what the reference leads to."""
    schema = DOCUMENTS[name]
    check_response_schema("x", schema)
    check(schema)
    others = {key: {"left": 1} if key == "tree" and value is TREE else [1] if value.get("type") == "array" else 1
              for key, value in schema["properties"].items()}  # fmt: skip
    form = JsonSchemaFormat("x", schema)
    assert accepts(form, json.dumps({**others, "v": 5}))
    assert not accepts(form, json.dumps({**others, "v": "5"}))


@pytest.mark.parametrize(
    "reference", ["#/$defs/b", "#/$defs", "#/nothing/0", "#/required/0", "#/$defs/Page%5Bint%5D/0", "#/properties/v/~2"]
)
def test_references_that_lead_nowhere(reference: str) -> None:
    """They are refused, with the reference."""
    schema = named("a", reference)
    assert reference in refusal_of(schema)
    if reference != "#/$defs":
        with pytest.raises(ApiError, match="which was not found in the schema"):
            check_response_schema("x", schema)


def test_what_is_renamed_on_the_way() -> None:
    """A reference through what is written in other words for the compiler leads to the same part."""
    schema = {
        "type": "object",
        "properties": {
            "a": {"oneOf": [{"type": "integer"}, {"type": "string"}]},
            "b": {"$ref": "#/properties/a/oneOf/0"},
        },
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    check(schema)
    form = JsonSchemaFormat("x", schema)
    assert accepts(form, '{"a": "x", "b": 5}')
    assert not accepts(form, '{"a": "x", "b": "5"}')


def test_parts_that_contain_each_other() -> None:
    """References to many levels of one long nest would repeat it for each level, and are refused."""
    schema: Json = {"type": "string", "description": "x" * 100_000}
    for _ in range(20):
        schema = {"type": "object", "properties": {"a": schema}}
    references = {f"r{n}": {"$ref": "#/properties/a" + "/properties/a" * n} for n in range(10)}
    schema["properties"] |= references
    with pytest.raises(ExpandedSchemaError):
        with_plain_references(schema)
    assert len(json.dumps(schema)) < MAX_EXPANDED_CHARS
    assert "use '$defs' for what is used twice" in refusal_of(schema)


@settings(deadline=None)
@given(st.text(max_size=8), st.booleans())
def test_any_name(name: str, is_encoded: bool) -> None:
    """A definition of any name is found by its pointer, encoded or not, and gets a name that the compiler takes."""
    from urllib.parse import quote  # noqa: PLC0415 - for this test alone

    pointer = name.replace("~", "~0").replace("/", "~1")
    reference = "#/$defs/" + (quote(pointer) if is_encoded else pointer.replace("%", "%25"))
    target = {"type": "integer"}
    root = {"properties": {"a": {"$ref": reference}}, "$defs": {name: target}}
    assert resolve_pointer(root, reference) is target
    made = with_plain_references(root)
    assert resolve_pointer(made, made["properties"]["a"]["$ref"]) == target
    assert made["properties"]["a"]["$ref"].isascii()
