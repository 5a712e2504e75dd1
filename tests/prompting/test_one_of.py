"""``oneOf`` is enforced as ``anyOf`` exactly where no value satisfies two alternatives."""

from typing import Any

import pytest

from antiphon.prompting.schemas.one_of import with_exclusive_alternatives

TEXT = {"type": "string"}


def tagged(value: object, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"kind": {"const": value}, "x": TEXT}, "required": ["kind"], **more}


def closed(*keys: str) -> dict[str, Any]:
    properties = dict.fromkeys(keys, TEXT)
    return {"type": "object", "properties": properties, "required": list(keys), "additionalProperties": False}


@pytest.mark.parametrize(
    "alternatives",
    [
        [TEXT, {"type": "integer"}, {"type": ["null", "array"]}],
        [{"const": 1}, {"enum": [2, 3]}, TEXT],
        [tagged(1), tagged(2), tagged("1")],
        [closed("a", "b"), closed("a", "c")],
        [tagged(f"tag {number}") for number in range(1000)],
        [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
        [TEXT],
    ],
)
def test_exclusive(alternatives: list[Any]) -> None:
    """Alternatives that exclude each other by type, constant, tag or forbidden key are as good as ``anyOf``."""
    root = {"type": "object", "properties": {"v": {"oneOf": alternatives}}, "$defs": {"a": tagged(1), "b": tagged(2)}}
    assert with_exclusive_alternatives(root)["properties"]["v"] == {"anyOf": alternatives}


@pytest.mark.parametrize(
    "alternatives",
    [
        [{"type": "integer"}, {"type": "number"}],
        [TEXT, {"minLength": 2}],
        [{"enum": [1, 2]}, {"enum": [2, 3]}],
        [tagged(1), {"type": "object", "properties": {"kind": {"const": 2}}}],
        [{"type": "object", "required": ["a"]}, {"type": "object", "required": ["b"]}],
        [{"$ref": "#"}, {"$ref": "#"}],
        [{"$ref": "#/nowhere"}, TEXT],
        [True, TEXT],
        [tagged("a"), tagged("b"), tagged("a")],
        [tagged(number) for number in range(1000)],
        [{"type": "object", "required": 5}, {"type": "object", "required": ["a"], "properties": []}],
        [{"type": 5}, {"type": [[]]}, {"enum": 5}],
    ],
)
def test_overlapping(alternatives: list[Any]) -> None:
    """Where two may hold at once, or it is not plain to see, ``oneOf`` stays and is refused later."""
    schema = {"oneOf": alternatives}
    assert with_exclusive_alternatives(schema) == schema


def test_data_is_no_schema() -> None:
    """A constant that looks like a schema is left alone."""
    schema = {"const": {"oneOf": [TEXT]}}
    assert with_exclusive_alternatives(schema) == schema
