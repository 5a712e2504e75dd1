"""Turns ``oneOf`` into ``anyOf`` where that is the same: where no value can satisfy two of the alternatives.

A grammar can say "one of these at least", not "exactly one". Where alternatives exclude each other by type, by
constants, by what a required key must be, or by a key that one requires and another forbids, there is no difference.
"""

import itertools
from typing import Any, cast

from antiphon.prompting.walk import Schema, resolved, rewritten

_DEPTH = 8


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
        pairs = itertools.combinations(cast("list[Any]", alternatives), 2)
        return all(self._exclude(one, other, _DEPTH) for one, other in pairs)

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
        required_a, required_b = (set(cast("list[str]", schema.get("required") or [])) for schema in (a, b))
        if any(_forbids(b, key) for key in required_a) or any(_forbids(a, key) for key in required_b):
            return True
        keys_a, keys_b = (cast("Schema", schema.get("properties") or {}) for schema in (a, b))
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
            schema = resolved(self._root, reference)
        return None


def _kinds(schema: Schema) -> set[str] | None:
    """Return the types that values can have, None if any; an integer is a number."""
    values = _values(schema)
    if values is not None:
        return {_kind(value) for value in values}
    kind = schema.get("type")
    named = [kind] if isinstance(kind, str) else kind
    return {"number" if name == "integer" else name for name in cast("list[str]", named)} if named else None


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
    return cast("list[Any] | None", schema.get("enum"))


def _forbids(schema: Schema, key: str) -> bool:
    is_closed = schema.get("additionalProperties") is False and "patternProperties" not in schema
    return is_closed and key not in cast("Schema", schema.get("properties") or {})
