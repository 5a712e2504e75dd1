"""A model without tool training keeps to bounds inside arguments where the schema sets none."""

from typing import Any

import pytest

from antiphon.prompting.schemas.bounds import (
    KEY,
    MAX_ITEMS,
    MAX_ITEMS_IN_LIST,
    MAX_OBJECTS,
    MAX_STRING,
    MAX_STRING_IN_LIST,
    MAX_WORD,
    bounded,
    max_word,
)
from antiphon.prompting.schemas.compile import within_bounds

TEXT = {"type": "string"}


def test_open_ends_are_bounded() -> None:
    """Strings and lists without a bound get one, wherever they are."""
    schema = {"type": "object", "properties": {"a": TEXT, "b": {"type": "array", "items": {"anyOf": [TEXT]}}}}
    within = bounded(schema)["properties"]
    assert within["a"]["maxLength"] == MAX_STRING
    assert within["b"]["maxItems"] == MAX_ITEMS
    assert within["b"]["items"]["anyOf"][0]["maxLength"] == MAX_STRING_IN_LIST


def test_a_value_of_any_type() -> None:
    """Where any value is allowed, a bounded value is generated."""
    kinds = [kind["type"] for kind in bounded({"properties": {"a": {"description": "A"}}})["properties"]["a"]["anyOf"]]
    assert kinds == ["string", "number", ["boolean", "null"], "array", "object"]


def test_lists_within_lists_are_short() -> None:
    """Bounds multiply with each level, so that inner lists and maps hold fewer entries."""
    inner = bounded({"type": "array", "items": {"type": "array", "items": TEXT}})["items"]
    assert inner["maxItems"] == MAX_ITEMS_IN_LIST
    assert bounded({"type": "array", "items": {"type": "object"}})["items"]["maxProperties"] == MAX_ITEMS_IN_LIST


def test_lists_of_objects_are_shorter() -> None:
    """An entry with parts of its own is long, whether it is described in its place or by reference."""
    entry = {"type": "object", "properties": {"a": TEXT}}
    assert bounded({"type": "array", "items": entry})["maxItems"] == MAX_OBJECTS
    referred = {"type": "array", "items": {"$ref": "#/$defs/x"}, "$defs": {"x": entry}}
    assert bounded(referred)["maxItems"] == MAX_OBJECTS
    assert bounded({**referred, "minItems": 20})["maxItems"] == 20


def test_what_stands_in_lists_by_reference() -> None:
    """Definitions that describe nothing but parts of lists are bounded like these, also where they refer to each other."""
    inner = {"type": "object", "properties": {"a": TEXT, "self": {"$ref": "#/$defs/inner"}}}
    outer = {"type": "object", "properties": {"b": TEXT, "c": {"$ref": "#/$defs/inner"}}}
    schema = {"properties": {"list": {"type": "array", "items": {"$ref": "#/$defs/outer"}}}}
    within = bounded({**schema, "$defs": {"inner": inner, "outer": outer}})["$defs"]
    assert within["inner"]["properties"]["a"]["maxLength"] == MAX_STRING_IN_LIST
    assert within["outer"]["properties"]["b"]["maxLength"] == MAX_STRING_IN_LIST
    schema["properties"]["one"] = {"$ref": "#/$defs/inner"}
    within = bounded({**schema, "$defs": {"inner": inner, "outer": outer}})["$defs"]
    assert within["inner"]["properties"]["a"]["maxLength"] == MAX_STRING
    assert within["outer"]["properties"]["b"]["maxLength"] == MAX_STRING_IN_LIST


@pytest.mark.parametrize(
    ("rule", "most"),
    [({}, MAX_WORD), ({"format": "date"}, MAX_WORD), ({"format": "uri"}, None), ({"maxLength": 9}, None)],
)
def test_words(rule: dict[str, Any], most: int | None) -> None:
    """Words are bounded unless a schema, in any of its parts, says how long a string may be."""
    assert max_word([{"type": "object"}, {"items": {**TEXT, **rule}}]) == most


def test_definitions_that_nobody_uses() -> None:
    """What the compiler never looks at may be of any form."""
    schema = {
        **TEXT,
        "$defs": {"a": {"type": ["string", "number"], "minLength": [], "maximum": {}, "items": {"format": []}}},
    }
    assert bounded(schema)["maxLength"] == MAX_STRING
    assert max_word([{"$defs": {"a": {"format": []}}}]) == MAX_WORD


def test_texts_in_a_form() -> None:
    """Addresses and names are shorter than prose, unless the pattern is too intricate to be combined with a length."""
    for form in ({"format": "email"}, {"pattern": "^a+$"}):
        assert bounded({**TEXT, **form})["maxLength"] == MAX_STRING_IN_LIST
    assert "maxLength" not in bounded({**TEXT, "pattern": "^a+$"}, with_patterns=False)
    intricate = {**TEXT, "pattern": r"^[_a-z0-9-]+(\.[_a-z0-9-]+)*@[_a-z0-9-]+(\.[_a-z0-9-]+)*(\.[a-z]{2,3})$"}
    schema = {"type": "object", "properties": {"a": intricate, "b": TEXT}}
    assert within_bounds(schema)["properties"] == {"a": intricate, "b": {**TEXT, "maxLength": MAX_STRING}}


@pytest.mark.parametrize(
    ("schema", "closed"),
    [
        ({"properties": {"a": TEXT}, "required": ["a"]}, True),
        ({"properties": {"a": TEXT}, "required": ["b"]}, False),
        ({"properties": {"a": TEXT}, "anyOf": [{"required": ["b"]}]}, False),
        ({"properties": {"a": TEXT}, "minProperties": 2}, False),
        ({"properties": {"a": TEXT}, "patternProperties": {"^x": TEXT}}, False),
        ({"properties": {"a": TEXT}, "const": {"b": 1}}, False),
    ],
)
def test_no_keys_are_invented(schema: dict[str, Any], closed: bool) -> None:
    """Where keys are declared and nothing is said of others, there are no others, unless others are needed."""
    assert ("additionalProperties" in bounded({"type": "object", **schema})) is closed


def test_further_keys_that_a_schema_asks_for() -> None:
    """An object that says what its further keys hold may have them, with bounded values."""
    open_ended = bounded({"type": "object", "properties": {"a": TEXT}, "additionalProperties": True})
    assert next(choice.get("maxLength") for choice in open_ended["additionalProperties"]["anyOf"]) == MAX_STRING_IN_LIST
    numbers = bounded({"type": "object", "additionalProperties": {"type": "integer"}})
    assert numbers["patternProperties"][KEY]["maximum"] == 10**15
    assert (numbers["maxProperties"], numbers["additionalProperties"]) == (MAX_ITEMS, False)


def test_parts_of_one_object_are_not_closed() -> None:
    """Where several schemas speak of the same object, none knows all its keys: each is left open, and so are definitions."""
    base = {"type": "object", "properties": {"a": TEXT}}
    schema = {"allOf": [{"$ref": "#/$defs/base"}], "properties": {"b": base}, "$defs": {"base": base}}
    within = bounded(schema)
    assert not any(
        "additionalProperties" in part for part in (within, within["$defs"]["base"], within["properties"]["b"])
    )
    alone = {"type": "object", "properties": {"b": {"$ref": "#/$defs/base"}}, "$defs": {"base": base}}
    assert bounded(alone)["$defs"]["base"]["additionalProperties"] is False


def test_alternatives_are_bounded() -> None:
    """Alternatives that exclude each other are bounded like any other schema."""
    within = within_bounds({"type": "object", "properties": {"a": {"oneOf": [TEXT, {"type": "null"}]}}})
    assert within["properties"]["a"] == {"anyOf": [{**TEXT, "maxLength": MAX_STRING}, {"type": "null"}]}


def test_open_lists_and_objects() -> None:
    """A list or object that says nothing of what is in it holds bounded values."""
    for kind, limit in (("array", "maxItems"), ("object", "maxProperties")):
        assert bounded({"properties": {"a": {"type": kind}}})["properties"]["a"][limit] == MAX_ITEMS


def test_numbers_are_bounded() -> None:
    """Numbers have no endless digits, before the point or after it; bounds of the schema stay."""
    assert bounded({"type": "integer"}) == {"type": "integer", "minimum": -(10**15), "maximum": 10**15}
    assert bounded({"type": "number", "exclusiveMinimum": 0}) == {
        "type": "number",
        "exclusiveMinimum": 0,
        "maximum": 10**15,
        "multipleOf": 1e-06,
    }


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 10**16},
        {"type": "number", "exclusiveMaximum": -(10**16), "multipleOf": 1},
        {"type": "number", "minimum": 1e-7, "maximum": 9e-7},
    ],
)
def test_numbers_beyond_the_bounds(schema: dict[str, Any]) -> None:
    """A range that none of the bounded numbers lies in stays as it is: a key that may be left out would never be written."""
    assert bounded(schema) == schema


def test_stated_rules_stay() -> None:
    """What the schema says itself is not touched, and a greater minimum prevails."""
    for schema in ({**TEXT, "maxLength": 5000}, {**TEXT, "enum": ["a"]}, {"$ref": "#/x"}):
        assert bounded(schema) == schema
    assert bounded({**TEXT, "minLength": 2000})["maxLength"] == 2000
    assert bounded({"type": "array", "minItems": 50})["maxItems"] == 50


def test_contradiction() -> None:
    """Where nothing would satisfy the bounds as well, the schema is left unchanged."""
    note = {"allOf": [{"minLength": 2000}], "anyOf": [TEXT]}
    schema = {"type": "object", "properties": {"note": note}, "required": ["note"]}
    assert within_bounds(schema) == schema


def test_any_object() -> None:
    """An object of any kind is bounded throughout."""
    assert within_bounds({"type": "object"})["$defs"]["value"]["anyOf"][0]["maxLength"] == MAX_STRING
