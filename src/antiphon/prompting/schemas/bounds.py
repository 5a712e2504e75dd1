"""Bounds for models that do not know when to stop.

A small model may continue a string, list or number, or add keys, until the context is full, and the cut-off answer is not JSON. Where a schema sets no bound, a model without tool training generates within these; all that is generated
satisfies the original schema.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import msgspec

from antiphon.prompting.schemas.traversal import Schema, referenced, schemas_in
from antiphon.protocol.json_pointer import resolve_pointer

MAX_STRING = 1000
MAX_STRING_IN_LIST = 200
MAX_ITEMS = 32
MAX_OBJECTS = 16
"""Entries of a list whose entries have parts themselves."""
MAX_ITEMS_IN_LIST = 8
MAX_NUMBER = 10**15
PRECISION = 1e-06
KEY = r"^[\p{L}\p{N}_$@][\p{L}\p{N}_$@ .:/-]{0,39}$"
"""The form of a map's keys where its schema has no rule for them."""

MAX_WORD = 160
"""Visible ASCII characters in a string without a blank: an SHA-512 in hexadecimal digits, a long address."""
CLOSING_TEXTS = ('"', "]", "}")
"""The texts that close open JSON once a model repeats itself: the string first, then the list or the object."""

_LENGTHS = frozenset({"maxLength", "minLength", "pattern", "patternProperties"})
_LONG_FORMATS = frozenset({"uri", "email", "hostname"})
_COMPOSE = frozenset({"allOf", "anyOf", "oneOf", "$ref"})
_VALUES = frozenset({"enum", "const"})
_SAY_WHICH_KEYS = _COMPOSE | _VALUES | {"properties", "patternProperties", "required"}
_WORDS = frozenset({"description", "title", "default", "examples"})


class _Place(msgspec.Struct, frozen=True):
    """The position of a schema. ``is_whole``: no other schema describes the same value, so all of its keys are declared here."""

    is_in_list: bool = False
    is_whole: bool = True

    @property
    def max_string(self) -> int:
        return MAX_STRING_IN_LIST if self.is_in_list else MAX_STRING

    @property
    def max_items(self) -> int:
        return MAX_ITEMS_IN_LIST if self.is_in_list else MAX_ITEMS


def bounded(schema: Any, *, with_patterns: bool = True) -> Any:
    """Return the schema with bounds for strings, lists, maps and numbers where it has no rule of its own in their place.

    Not ``with_patterns``: strings with a pattern stay as they are, since both together may be too much to compile.
    """
    if schema == {"type": "object"}:
        return _ANY_OBJECT
    return _Bounds(schema, with_patterns=with_patterns).bound(schema, _Place())


def max_word(schemas: Iterable[Mapping[str, Any]]) -> int | None:
    """Return how long words may be; None where a schema says itself how long a string may be, since it may mean a word."""
    parts = [part for schema in schemas for part in schemas_in(schema)]
    formats = {part["format"] for part in parts if isinstance(part.get("format"), str)}
    says_length = bool(formats & _LONG_FORMATS) or any(_LENGTHS & set(part) for part in parts)
    return None if says_length else MAX_WORD


class _Bounds:
    def __init__(self, root: Any, *, with_patterns: bool) -> None:
        self._root = root
        self._are_whole = not _is_composed(root)
        self._referenced = referenced(root)
        self._as_it_is = _VALUES | {"$ref", "allOf"} | (set[str]() if with_patterns else {"pattern"})

    def bound(self, schema: Any, place: _Place) -> Any:
        if not isinstance(schema, dict):
            return schema
        known = cast("Schema", schema)
        if set(known) <= _WORDS | {"type"}:
            return _of_type(known, place)
        made = dict(known)
        if not self._as_it_is & set(known):
            made = _with_bounds(known, place, holds_parts=self._has_parts(known.get("items")))
        made |= self._parts(known, place)
        if place.is_whole and _leaves_keys_open(known):
            made["additionalProperties"] = False
        return _as_map(made, place) if _is_map(known) else made

    def _parts(self, known: Schema, place: _Place) -> Schema:
        """Return the schemas inside, bounded."""
        is_whole = place.is_whole and not _is_shared(known)
        inner = _Place(place.is_in_list, is_whole)
        made: Schema = {}
        for key in ("properties", "patternProperties"):
            if isinstance(known.get(key), dict):
                made[key] = {name: self.bound(value, inner) for name, value in known[key].items()}
        for key in ("$defs", "definitions"):
            if isinstance(known.get(key), dict):
                made[key] = {name: self._definition(value) for name, value in known[key].items()}
        if isinstance(known.get("anyOf"), list):
            made["anyOf"] = [self.bound(value, inner) for value in cast("list[Any]", known["anyOf"])]
        for key in ("items", "additionalProperties"):
            if key in known:
                value: Any = {} if known[key] is True else known[key]
                made[key] = self.bound(value, _Place(is_in_list=True, is_whole=is_whole))
        return made

    def _definition(self, definition: Any) -> Any:
        """Return a definition, bounded if it is used: the compiler has looked at no other, which may be of any form."""
        is_in_list = self._referenced.get(id(definition))
        if is_in_list is None:
            return definition
        return self.bound(definition, _Place(is_in_list=is_in_list, is_whole=self._are_whole))

    def _has_parts(self, schema: Any) -> bool:
        """Whether values are lists or objects, as far as is plain to see."""
        known = cast("Schema", schema) if isinstance(schema, dict) else {}
        reference = known.get("$ref")
        target = resolve_pointer(self._root, reference) if isinstance(reference, str) else known
        return isinstance(target, dict) and bool({"properties", "items"} & set(cast("Schema", target)))


def _is_shared(schema: Schema) -> bool:
    """Whether several parts of the schema speak of the same object or of the same key in it."""
    has_keys = "properties" in schema
    return "allOf" in schema or (has_keys and bool((_COMPOSE | {"patternProperties"}) & set(schema)))


def _is_composed(root: Any) -> bool:
    """Whether a definition may be one of several schemas for the same value."""
    return any(map(_is_shared, schemas_in(root)))


def _leaves_keys_open(schema: Schema) -> bool:
    """Whether an object's keys are declared and it is not said whether there may be others: a model only invents them."""
    declared: Any = schema.get("properties")
    if not isinstance(declared, dict) or {"additionalProperties", "patternProperties", "minProperties"} & set(schema):
        return False
    required: Any = schema.get("required") or []
    return not (_COMPOSE | _VALUES) & set(schema) and set(required) <= set(cast("Schema", declared))


def _is_map(schema: Schema) -> bool:
    return "object" in _kinds(schema) and not _SAY_WHICH_KEYS & set(schema)


def _as_map(schema: Schema, place: _Place) -> Schema:
    """Give an object whose keys are not declared keys of a bounded length, and not too many."""
    value = schema.get("additionalProperties", _INNER)
    if value is False:
        return schema
    most = schema.get("maxProperties", max(place.max_items, schema.get("minProperties", 0)))
    return {**schema, "maxProperties": most, "patternProperties": {KEY: value}, "additionalProperties": False}


def _scalars(max_string: int) -> list[Schema]:
    return [
        {"type": "string", "maxLength": max_string},
        {"type": "number", "minimum": -MAX_NUMBER, "maximum": MAX_NUMBER, "multipleOf": PRECISION},
        {"type": ["boolean", "null"]},
    ]


def _list(most: int, item: Schema) -> Schema:
    return {"type": "array", "maxItems": most, "items": item}


def _map(most: int, value: Schema) -> Schema:
    return {"type": "object", "maxProperties": most, "patternProperties": {KEY: value}, "additionalProperties": False}


def _value(depth: int) -> Schema:
    """Return a schema for any value of so many levels."""
    choices = _scalars(MAX_STRING_IN_LIST)
    if depth:
        inner = _value(depth - 1)
        choices += [_list(MAX_ITEMS_IN_LIST, inner), _map(MAX_ITEMS_IN_LIST, inner)]
    return {"anyOf": choices}


_INNER = _value(3)
_ANY_OBJECT: Schema = {
    "$ref": "#/$defs/object",
    "$defs": {
        "object": _map(MAX_ITEMS, {"$ref": "#/$defs/value"}),
        "value": {
            "anyOf": [
                *_scalars(MAX_STRING),
                _list(MAX_ITEMS, {"$ref": "#/$defs/value"}),
                {"$ref": "#/$defs/object"},
            ]
        },
    },
}


def _of_type(schema: Schema, place: _Place) -> Schema:
    """Bound a schema that says no more than a type, or not even that."""
    of_list, of_map = _list(place.max_items, _INNER), _map(place.max_items, _INNER)
    match schema.get("type"):
        case None:
            return {**schema, "anyOf": [*_scalars(place.max_string), of_list, of_map]}
        case "object":
            return {**schema, **of_map}
        case "array":
            return {**schema, **of_list}
        case _:
            return _with_bounds(schema, place)


def _with_bounds(schema: Schema, place: _Place, *, holds_parts: bool = False) -> Schema:
    made = dict(schema)
    kinds = _kinds(schema)
    if "string" in kinds and "maxLength" not in schema:
        made["maxLength"] = max(_max_length(schema, place), schema.get("minLength", 0))
    if {"integer", "number"} & set(kinds):
        _bound_number(made, has_fraction="number" in kinds)
    if "array" in kinds and "maxItems" not in schema and "prefixItems" not in schema:
        most = min(place.max_items, MAX_OBJECTS) if holds_parts else place.max_items
        made["maxItems"] = max(most, schema.get("minItems", 0))
    return made


def _max_length(schema: Schema, place: _Place) -> int:
    """A text in a form of its own (an address, a name) is shorter than prose."""
    return MAX_STRING_IN_LIST if {"pattern", "format"} & set(schema) else place.max_string


def _bound_number(schema: Schema, *, has_fraction: bool) -> None:
    """Bound a number, but for where the schema's own range lies beyond the bounds or between two steps of the precision."""
    least = max(schema.get(key, -math.inf) for key in ("minimum", "exclusiveMinimum"))
    most = min(schema.get(key, math.inf) for key in ("maximum", "exclusiveMaximum"))
    if least == -math.inf and most > -MAX_NUMBER:
        schema["minimum"] = -MAX_NUMBER
    if most == math.inf and least < MAX_NUMBER:
        schema["maximum"] = MAX_NUMBER
    if has_fraction and "multipleOf" not in schema and most - least > PRECISION:
        schema["multipleOf"] = PRECISION


def _kinds(schema: Schema) -> list[str]:
    kind = schema.get("type")
    named = cast("list[Any]", kind) if isinstance(kind, list) else [kind]
    return [name for name in named if isinstance(name, str)]
