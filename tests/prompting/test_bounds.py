"""A model without tool training keeps to bounds inside arguments where the schema sets none."""

from antiphon.prompting.bounds import MAX_ITEMS, MAX_STRING, MAX_STRING_IN_LIST, bounded
from antiphon.prompting.schema import within_bounds

TEXT = {"type": "string"}


def test_open_ends_are_bounded() -> None:
    """Strings and lists without a bound get one, wherever they stand."""
    schema = {"type": "object", "properties": {"a": TEXT, "b": {"type": "array", "items": {"anyOf": [TEXT]}}}}
    within = bounded(schema)["properties"]
    assert within["a"]["maxLength"] == MAX_STRING
    assert within["b"]["maxItems"] == MAX_ITEMS
    assert within["b"]["items"]["anyOf"][0]["maxLength"] == MAX_STRING_IN_LIST


def test_a_value_of_any_type() -> None:
    """Where anything may stand, a bounded value does."""
    kinds = [kind["type"] for kind in bounded({"properties": {"a": {"description": "A"}}})["properties"]["a"]["anyOf"]]
    assert kinds == ["string", "number", ["boolean", "null"], "array", "object"]


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


def test_stated_rules_stay() -> None:
    """What the schema says itself is not touched, and a greater minimum prevails."""
    for schema in ({**TEXT, "maxLength": 5000}, {**TEXT, "enum": ["a"]}, {**TEXT, "format": "date"}, {"$ref": "#/x"}):
        assert bounded(schema) == schema
    assert bounded({**TEXT, "minLength": 2000})["maxLength"] == 2000
    assert bounded({"type": "array", "minItems": 50})["maxItems"] == 50


def test_contradiction() -> None:
    """Where nothing would satisfy the bounds as well, the schema stands as it is."""
    note = {"allOf": [{"minLength": 2000}], "anyOf": [TEXT]}
    schema = {"type": "object", "properties": {"note": note}, "required": ["note"]}
    assert within_bounds(schema) == schema


def test_any_object() -> None:
    """An object of any kind is bounded throughout."""
    assert within_bounds({"type": "object"})["$defs"]["value"]["anyOf"][0]["maxLength"] == MAX_STRING
