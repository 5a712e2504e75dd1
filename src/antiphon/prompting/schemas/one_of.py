"""Turns ``oneOf`` into ``anyOf`` where that is the same: where no value can satisfy two of the alternatives.

A grammar can say "one of these at least", not "exactly one". Where alternatives exclude each other by type, by
constants, by what a required key must be, or by a key that one requires and another forbids, there is no difference.
"""

import itertools
from typing import Any, cast

from antiphon.prompting.schemas.traversal import Schema, rewritten
from antiphon.protocol.json_pointer import resolve_pointer

_DEPTH = 8
_MAX_COMPARED = 128
"""Alternatives that are compared each with each; more of them must differ by a tag."""


def with_exclusive_alternatives(root: Schema) -> Schema:
    """Return the schema with ``anyOf`` for every ``oneOf`` whose alternatives exclude each other."""
    return cast("Schema", rewritten(root, _Alternatives(root).as_any_of))


class _Alternatives:
    def __init__(self, root: Schema) -> None:
        self._root = root

    def as_any_of(self, schema: Schema) -> Schema:
        if "anyOf" in schema or not self._are_exclusive(schema.get("oneOf")):
            return schema
        return {"anyOf" if key == "oneOf" else key: value for key, value in schema.items()}

    def _are_exclusive(self, alternatives: Any) -> bool:
        if not isinstance(alternatives, list):
            return False
        known = [self._resolved(alternative) for alternative in cast("list[Any]", alternatives)]
        if _differ_by_tag([schema for schema in known if schema is not None]) and None not in known:
            return True
        pairs = itertools.combinations(known, 2)
        return len(known) <= _MAX_COMPARED and all(self._exclude(one, other, _DEPTH) for one, other in pairs)

    def _exclude(self, one: Any, other: Any, depth: int) -> bool:
        """Whether no value satisfies both. False where that is not plain to see."""
        a, b = self._resolved(one), self._resolved(other)
        if a is None or b is None or depth == 0:
            return False
        kinds_a, kinds_b = _kinds(a), _kinds(b)
        if kinds_a is not None and kinds_b is not None and not kinds_a & kinds_b:
            return True
        values_a, values_b = _values(a), _values(b)
        if values_a is not None and values_b is not None:
            return not any(value in values_b for value in values_a)
        if kinds_a != {"object"} or kinds_b != {"object"}:
            return False
        return self._keys_exclude(a, b, depth)

    def _keys_exclude(self, a: Schema, b: Schema, depth: int) -> bool:
        required_a, required_b = (set(_names(schema.get("required"))) for schema in (a, b))
        if any(_forbids(b, key) for key in required_a) or any(_forbids(a, key) for key in required_b):
            return True
        keys_a, keys_b = (_properties(schema) for schema in (a, b))
        shared = required_a & required_b & set(keys_a) & set(keys_b)
        return any(self._exclude(keys_a[key], keys_b[key], depth - 1) for key in shared)

    def _resolved(self, schema: Any) -> Schema | None:
        for _ in range(_DEPTH):
            if not isinstance(schema, dict):
                return None
            known = cast("Schema", schema)
            reference = known.get("$ref")
            if not isinstance(reference, str):
                return known
            schema = resolve_pointer(self._root, reference)
        return None


def _differ_by_tag(schemas: list[Schema]) -> bool:
    """Whether all are objects with a required key whose constants differ: the usual form, checked in linear time."""
    if not schemas or any(schema.get("type") != "object" for schema in schemas):
        return False
    shared = set[str].intersection(*(set(_names(schema.get("required"))) for schema in schemas))
    return any(_differ([_properties(schema).get(key) for schema in schemas]) for key in shared)


def _differ(tags: list[Any]) -> bool:
    """Whether all are different constant texts."""
    texts = [cast("Schema", tag).get("const") if isinstance(tag, dict) else None for tag in tags]
    return all(isinstance(text, str) for text in texts) and len(set(texts)) == len(texts)


def _names(required: Any) -> list[str]:
    return [name for name in cast("list[Any]", required) if isinstance(name, str)] if isinstance(required, list) else []


def _kinds(schema: Schema) -> set[str] | None:
    """Return the types that values can have, None if any; an integer is a number."""
    values = _values(schema)
    if values is not None:
        return {_kind(value) for value in values}
    kind = schema.get("type")
    named = [kind] if isinstance(kind, str) else _names(kind)
    return {"number" if name == "integer" else name for name in named} or None


def _kind(value: Any) -> str:
    kinds: dict[type[object], str] = {
        bool: "boolean",
        int: "number",
        float: "number",
        str: "string",
        list: "array",
        dict: "object",
    }
    return kinds.get(cast("type[object]", type(value)), "null")


def _values(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return cast("list[Any]", values) if isinstance(values, list) else None


def _forbids(schema: Schema, key: str) -> bool:
    is_closed = schema.get("additionalProperties") is False and "patternProperties" not in schema
    return is_closed and key not in _properties(schema)


def _properties(schema: Schema) -> Schema:
    properties = schema.get("properties")
    return cast("Schema", properties) if isinstance(properties, dict) else {}
