"""Finds schemas that never terminate: validation of a value never ends, or only an infinite value satisfies them.

``{"anyOf": [{"$ref": "#"}, ...]}`` says to validate a value by validating it first, which JSON Schema forbids (core, 9.4.1). A node
whose ``next`` is required and a node itself has no last one, so no finite text matches it. Schemas with finite values are the
least fixed point: first those that need no other schema, then those that need only these, until no more are found.
"""

from typing import Any, cast

from antiphon.prompting.schemas.traversal import Schema, schemas_in
from antiphon.protocol.json_pointer import resolve_pointer

_IN_PLACE = ("allOf", "anyOf", "oneOf")
"""Hold schemas for the value itself, not for a part of it."""


def never_ends(root: Schema) -> bool:
    """Whether a part of the schema has no finite value, or refers to itself for the same value."""
    return _is_circular(root) or _Ends(root).are_missing()


def _is_circular(root: Schema) -> bool:
    """Whether a schema comes back to itself without having gone into a list or an object."""
    entered: set[int] = set()
    left: set[int] = set()

    def leads_back(schema: Any) -> bool:
        key = id(schema)
        if not isinstance(schema, dict) or key in left:
            return False
        if key in entered:
            return True
        entered.add(key)
        known = cast("Schema", schema)
        reference = known.get("$ref")
        targets = [resolve_pointer(root, reference)] if isinstance(reference, str) else []
        found = any(map(leads_back, (*targets, *(part for name in _IN_PLACE for part in _list(known, name)))))
        left.add(key)
        return found

    return any(map(leads_back, schemas_in(root)))


class _Ends:
    def __init__(self, root: Schema) -> None:
        self._root = root
        self._found: set[int] = set()

    def are_missing(self) -> bool:
        left = schemas_in(self._root)
        while left:
            still: list[Schema] = [schema for schema in reversed(left) if not self._finds(schema)]
            if len(still) == len(left):
                return True
            left = still
        return False

    def _finds(self, schema: Schema) -> bool:
        if self._ends(schema):
            self._found.add(id(schema))
            return True
        return False

    def _has_end(self, schema: Any) -> bool:
        return not isinstance(schema, dict) or id(cast("Schema", schema)) in self._found

    def _ends(self, schema: Schema) -> bool:
        if "const" in schema or "enum" in schema:
            return True
        return self._reference(schema) and self._parts(schema) and self._object(schema) and self._array(schema)

    def _reference(self, schema: Schema) -> bool:
        reference = schema.get("$ref")
        return not isinstance(reference, str) or self._has_end(resolve_pointer(self._root, reference))

    def _parts(self, schema: Schema) -> bool:
        if not all(map(self._has_end, _list(schema, "allOf"))):
            return False
        return all(any(map(self._has_end, _list(schema, key))) for key in ("anyOf", "oneOf") if _list(schema, key))

    def _object(self, schema: Schema) -> bool:
        properties: Any = schema.get("properties")
        if not isinstance(properties, dict) or not _is_only(schema, "object"):
            return True
        known = cast("Schema", properties)
        return all(self._has_end(known.get(name)) for name in _list(schema, "required") if isinstance(name, str))

    def _array(self, schema: Schema) -> bool:
        least: Any = schema.get("minItems", 0)
        if not isinstance(least, int | float) or least < 1 or not _is_only(schema, "array"):
            return True
        first: Any = next(iter(_list(schema, "prefixItems") or _list(schema, "items")), schema.get("items"))
        return self._has_end(first)


def _is_only(schema: Schema, kind: str) -> bool:
    """Whether values are of ``kind`` and of no other."""
    return schema.get("type") in (kind, [kind])


def _list(schema: Schema, key: str) -> list[Any]:
    value = schema.get(key)
    return cast("list[Any]", value) if isinstance(value, list) else []
