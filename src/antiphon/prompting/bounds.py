"""Bounds for models that do not know when to stop.

A small model may go on inside a string, list or number until the context is full, and what is cut off there is no JSON. Where
a schema sets no bound, a model without tool training generates within these; all that is generated satisfies the schema
as it stands.
"""

from typing import Any, cast

MAX_STRING = 1000
MAX_STRING_IN_LIST = 200
MAX_ITEMS = 32
MAX_NUMBER = 10**15
PRECISION = 1e-06

_FIXED = {"enum", "const", "$ref", "allOf"}
_FIXED_TEXT = {"pattern", "format", "maxLength"}
_ONE = ("items", "additionalProperties")
_MANY = ("properties", "patternProperties", "$defs", "definitions")
_WORDS = {"description", "title", "default", "examples"}


def _scalars(max_string: int) -> list[dict[str, Any]]:
    return [
        {"type": "string", "maxLength": max_string},
        {"type": "number", "minimum": -MAX_NUMBER, "maximum": MAX_NUMBER, "multipleOf": PRECISION},
        {"type": ["boolean", "null"]},
    ]


def _value(depth: int) -> dict[str, Any]:
    """Return a schema for any value of so many levels."""
    choices = _scalars(MAX_STRING_IN_LIST)
    if depth:
        inner = _value(depth - 1)
        choices.append({"type": "array", "maxItems": MAX_ITEMS, "items": inner})
        choices.append({"type": "object", "maxProperties": MAX_ITEMS, "additionalProperties": inner})
    return {"anyOf": choices}


_INNER = _value(3)
_OPEN_LIST: dict[str, Any] = {"maxItems": MAX_ITEMS, "items": _INNER}
_OPEN_OBJECT: dict[str, Any] = {"maxProperties": MAX_ITEMS, "additionalProperties": _INNER}
_ANY_OBJECT: dict[str, Any] = {
    "$ref": "#/$defs/object",
    "$defs": {
        "object": {"type": "object", "maxProperties": MAX_ITEMS, "additionalProperties": {"$ref": "#/$defs/value"}},
        "value": {
            "anyOf": [
                *_scalars(MAX_STRING),
                {"type": "array", "maxItems": MAX_ITEMS, "items": {"$ref": "#/$defs/value"}},
                {"$ref": "#/$defs/object"},
            ]
        },
    },
}


def bounded(schema: Any) -> Any:
    """Return the schema with bounds for strings, lists and numbers where it has no rule of its own in their place."""
    return _ANY_OBJECT if schema == {"type": "object"} else _bounded(schema, MAX_STRING)


def _bounded(schema: Any, max_string: int) -> Any:
    if not isinstance(schema, dict):
        return schema
    known = cast("dict[str, Any]", schema)
    if set(known) <= _WORDS | {"type"}:
        return _of_type(known, max_string)
    made = dict(known) if _FIXED & set(known) else _with_bounds(known, max_string)
    for key in _ONE:
        if key in known:
            made[key] = _bounded(known[key], min(max_string, MAX_STRING_IN_LIST))
    for key in _MANY:
        if isinstance(known.get(key), dict):
            made[key] = {name: _bounded(value, max_string) for name, value in known[key].items()}
    if isinstance(known.get("anyOf"), list):
        made["anyOf"] = [_bounded(value, max_string) for value in cast("list[Any]", known["anyOf"])]
    return made


def _of_type(schema: dict[str, Any], max_string: int) -> dict[str, Any]:
    """Bound a schema that says no more than a type, or not even that."""
    match schema.get("type"):
        case None:
            lists = [{"type": "array", **_OPEN_LIST}, {"type": "object", **_OPEN_OBJECT}]
            return {**schema, "anyOf": [*_scalars(max_string), *lists]}
        case "object":
            return {**schema, **_OPEN_OBJECT}
        case "array":
            return {**schema, **_OPEN_LIST}
        case _:
            return _with_bounds(schema, max_string)


def _with_bounds(schema: dict[str, Any], max_string: int) -> dict[str, Any]:
    made = dict(schema)
    kinds = _kinds(schema)
    if "string" in kinds and not _FIXED_TEXT & set(schema):
        made["maxLength"] = max(max_string, schema.get("minLength", 0))
    if {"integer", "number"} & set(kinds):
        _bound_number(made, has_fraction="number" in kinds)
    if "array" in kinds and "maxItems" not in schema and "prefixItems" not in schema:
        made["maxItems"] = max(MAX_ITEMS, schema.get("minItems", 0))
    return made


def _bound_number(schema: dict[str, Any], *, has_fraction: bool) -> None:
    if not {"minimum", "exclusiveMinimum"} & set(schema):
        schema["minimum"] = -MAX_NUMBER
    if not {"maximum", "exclusiveMaximum"} & set(schema):
        schema["maximum"] = MAX_NUMBER
    if has_fraction and "multipleOf" not in schema:
        schema["multipleOf"] = PRECISION


def _kinds(schema: dict[str, Any]) -> list[str]:
    kind = schema.get("type")
    return cast("list[str]", kind) if isinstance(kind, list) else [kind] if isinstance(kind, str) else []
