"""Bounds for models that do not know when to stop.

A small model may go on inside a string, list or number until the context is full, and what is cut off there is no JSON. Where
a schema sets no bound, a model without tool training generates within these; all that is generated satisfies the schema
as it stands.
"""

from typing import Any, cast

MAX_STRING = 1000
MAX_ITEMS = 32
MAX_NUMBER = 10**15
PRECISION = 1e-06

_FIXED = {"enum", "const", "$ref", "allOf"}
_FIXED_TEXT = {"pattern", "format", "maxLength"}
_ONE = ("items", "additionalProperties")
_MANY = ("properties", "patternProperties", "$defs", "definitions")


_WORDS = {"description", "title", "default", "examples"}
_SCALARS: list[dict[str, Any]] = [
    {"type": "string", "maxLength": MAX_STRING},
    {"type": "number", "minimum": -MAX_NUMBER, "maximum": MAX_NUMBER, "multipleOf": PRECISION},
    {"type": ["boolean", "null"]},
]
_ANYTHING: list[dict[str, Any]] = [
    *_SCALARS,
    {"type": "array", "maxItems": MAX_ITEMS, "items": {"anyOf": _SCALARS}},
    {"type": "object", "maxProperties": MAX_ITEMS, "additionalProperties": {"anyOf": _SCALARS}},
]
_ANY_OBJECT: dict[str, Any] = {
    "$ref": "#/$defs/object",
    "$defs": {
        "object": {"type": "object", "maxProperties": MAX_ITEMS, "additionalProperties": {"$ref": "#/$defs/value"}},
        "value": {
            "anyOf": [
                *_SCALARS,
                {"type": "array", "maxItems": MAX_ITEMS, "items": {"$ref": "#/$defs/value"}},
                {"$ref": "#/$defs/object"},
            ]
        },
    },
}


def bounded(schema: Any) -> Any:
    """Return the schema with bounds for strings, lists and numbers where it has no rule of its own in their place."""
    return _ANY_OBJECT if schema == {"type": "object"} else _bounded(schema)


def _bounded(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    known = cast("dict[str, Any]", schema)
    if set(known) <= _WORDS:
        return {**known, "anyOf": _ANYTHING}
    made = dict(known) if _FIXED & set(known) else _with_bounds(known)
    for key in _ONE:
        if key in known:
            made[key] = _bounded(known[key])
    for key in _MANY:
        if isinstance(known.get(key), dict):
            made[key] = {name: _bounded(value) for name, value in known[key].items()}
    if isinstance(known.get("anyOf"), list):
        made["anyOf"] = [_bounded(value) for value in cast("list[Any]", known["anyOf"])]
    return made


def _with_bounds(schema: dict[str, Any]) -> dict[str, Any]:
    made = dict(schema)
    kinds = _kinds(schema)
    if "string" in kinds and not _FIXED_TEXT & set(schema):
        made["maxLength"] = max(MAX_STRING, schema.get("minLength", 0))
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
