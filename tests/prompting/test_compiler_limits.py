"""What the native compiler would not survive is refused before it sees it."""

from typing import Any

import pytest

from antiphon.prompting.schemas.compile import check_schema
from antiphon.prompting.schemas.compiler_limits import MAX_LEVELS, beyond_compiler
from antiphon.protocol.errors import ApiError

LOW = -(10**24)


def refusal(schema: dict[str, Any]) -> str:
    with pytest.raises(ApiError) as caught:
        check_schema(schema, what="x", param="x")
    assert caught.value.status == 400
    return caught.value.message


@pytest.mark.parametrize("low", [LOW, -(2**63), -(2**63) + 1, -1e300, -(10**18)])
def test_ranges_below_64_bits(low: float) -> None:
    """A range at or below the least integer of 64 bits, which the compiler does not survive, never reaches it."""
    check_schema({"type": "integer", "minimum": low, "maximum": low}, what="x", param="x")
    for part in ({"exclusiveMaximum": low}, {"minimum": low}):
        assert "so many digits" in refusal({"allOf": [{"type": "integer", "minimum": LOW}, part]})
        assert "so many digits" in refusal({"type": "integer", "multipleOf": 3, **part})


def test_usual_constants() -> None:
    """Numbers as people write them, and integers written as fractions, are no obstacle."""
    check_schema({"enum": [0, -1, 0.5, 19.99, 1.5e-7, 5.25e16, 2**53, True, None]}, what="x", param="x")


@pytest.mark.parametrize(("least", "most"), [(-(2**63), 2**63 - 1), (0, 2**64 - 1), (-(2**31), 2**31 - 1)])
def test_usual_ranges(least: int, most: int) -> None:
    """The ranges of programming languages' integers are no obstacle."""
    check_schema({"type": "integer", "minimum": least, "maximum": most}, what="x", param="x")


def chain(length: int) -> dict[str, Any]:
    """Definitions that each need the next."""
    links = {f"a{n}": {"type": "array", "items": {"$ref": f"#/$defs/a{n + 1}"}} for n in range(length)}
    return {"$ref": "#/$defs/a0", "$defs": {**links, f"a{length}": {"type": "string"}}}


@pytest.mark.parametrize("length", [MAX_LEVELS, 3000])
def test_references_that_lead_on_and_on(length: int) -> None:
    """A chain of definitions that would fill the stack is refused."""
    assert "nest" in refusal(chain(length))


@pytest.mark.parametrize("prefix", ["#/%24defs/a", "#/$defs/%61"])
def test_references_in_disguise(prefix: str) -> None:
    """However a reference is spelt, it counts."""
    links = {f"a{n}": {"type": "array", "items": {"$ref": f"{prefix}{n + 1}"}} for n in range(MAX_LEVELS)}
    assert "nest" in refusal({"$ref": f"{prefix}0", "$defs": {**links, f"a{MAX_LEVELS}": {}}})
    entries = [{"type": "array", "items": {"$ref": f"#/anyOf/{n + 1}"}} for n in range(MAX_LEVELS)]
    assert "nest" in refusal({"$ref": "#/anyOf/0", "anyOf": [*entries, {}]})


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/examples/0", "examples": [{"type": "integer", "const": -(2**63)}]},
        {"$ref": "#a", "$defs": {"x": {"$anchor": "a", "type": "string"}}},
        {"$ref": "http://x/#/$defs/a", "$id": "http://x/", "$defs": {"a": {}}},
        {"$ref": "#/$defs", "$defs": {"const": {}}},
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "properties": {"a": {"id": "b", "items": {"$ref": "#"}}},
        },
        {"properties": {"a": {"$id": "http://x/", "$ref": "#/$defs/b", "$defs": {"b": {}}}}, "$defs": {"b": {}}},
    ],
)
def test_references_to_where_nobody_looks(schema: dict[str, Any]) -> None:
    """A reference to data, to an anchor or out of the schema is refused: what it leads to is not looked through."""
    assert "'$ref'" in refusal(schema)


def test_references_in_a_ring() -> None:
    """Definitions that lead to each other count all together, as the compiler may enter one after the other."""
    ring = {f"a{n}": {"properties": {"x": {"$ref": f"#/$defs/a{(n + 1) % 200}"}}} for n in range(200)}
    assert "exceeds the limit" in (beyond_compiler({"$ref": "#/$defs/a7", "$defs": ring}) or "")


def test_references_as_people_write_them() -> None:
    """Many definitions side by side, a few levels deep and recursive, are taken."""
    leaves = {f"leaf{n}": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}} for n in range(60)}
    node = {"anyOf": [{"$ref": f"#/$defs/leaf{n}"} for n in range(60)]}
    check_schema({"$ref": "#/$defs/node", "$defs": {**leaves, "node": node}}, what="x", param="x")
    check_schema(chain(50), what="x", param="x")


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
        {"type": "array", "prefixItems": [{"$ref": "#"}], "minItems": 1},
        {"anyOf": [{"allOf": [{"$ref": "#"}]}, {"$ref": "#"}]},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"$ref": "#/$defs/a"}}},
    ],
)
def test_endless_values(schema: dict[str, Any]) -> None:
    """A schema that only an endless value would satisfy is refused: no model could ever finish it."""
    assert "leads back to itself without a way out" in refusal(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"next": {"$ref": "#"}}},
        {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["next"]},
        {"type": "array", "items": {"$ref": "#"}},
        {"$ref": "#/components/schemas/a~1b", "components": {"schemas": {"a/b": {"type": "string"}}}},
        {"properties": {"a": {"id": "Name", "$ref": "#/$defs/b"}}, "$defs": {"b": {"type": "string"}}},
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "properties": {"a": {"id": "#/properties/a", "items": {"$ref": "#/definitions/b"}}},
            "definitions": {"b": {"type": "string"}},
        },
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"$ref": "#/anyOf/0"}, "minItems": 1}]},
        {"type": ["object", "null"], "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"enum": [1], "$ref": "#/$defs/number", "$defs": {"number": {"type": "integer"}}},
    ],
)
def test_recursion_with_an_end(schema: dict[str, Any]) -> None:
    """Recursion that can end is accepted."""
    check_schema(schema, what="x", param="x")
