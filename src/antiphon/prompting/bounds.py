"""Bounds for models that do not know when to stop.

A small model may go on inside a string or list until the context is full, and what is cut off there is no JSON. Where
a schema sets no bound, a model without tool training generates within these; all that is generated satisfies the schema
as it stands.
"""

from typing import Any, cast

MAX_STRING = 1000
MAX_ITEMS = 32

_FIXED = {"enum", "const", "pattern", "format", "maxLength", "$ref", "allOf"}
_ONE = ("items", "additionalProperties")
_MANY = ("properties", "patternProperties", "$defs", "definitions")


_ANY_OBJECT: dict[str, Any] = {
    "$ref": "#/$defs/object",
    "$defs": {
        "object": {"type": "object", "maxProperties": MAX_ITEMS, "additionalProperties": {"$ref": "#/$defs/value"}},
        "value": {
            "anyOf": [
                {"type": "string", "maxLength": MAX_STRING},
                {"type": ["number", "boolean", "null"]},
                {"type": "array", "maxItems": MAX_ITEMS, "items": {"$ref": "#/$defs/value"}},
                {"$ref": "#/$defs/object"},
            ]
        },
    },
}


def bounded(schema: Any) -> Any:
    """Return the schema with ``maxLength`` and ``maxItems`` where it has neither them nor another rule in their place."""
    return _ANY_OBJECT if schema == {"type": "object"} else _bounded(schema)


def _bounded(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    known = cast("dict[str, Any]", schema)
    made = dict(known)
    if not _FIXED & set(known):
        kinds = _kinds(known)
        if "string" in kinds:
            made["maxLength"] = max(MAX_STRING, known.get("minLength", 0))
        if "array" in kinds and "maxItems" not in known and "prefixItems" not in known:
            made["maxItems"] = max(MAX_ITEMS, known.get("minItems", 0))
    for key in _ONE:
        if key in known:
            made[key] = _bounded(known[key])
    for key in _MANY:
        if isinstance(known.get(key), dict):
            made[key] = {name: _bounded(value) for name, value in known[key].items()}
    if "anyOf" in known and isinstance(known["anyOf"], list):
        made["anyOf"] = [_bounded(value) for value in cast("list[Any]", known["anyOf"])]
    return made


def _kinds(schema: dict[str, Any]) -> list[str]:
    kind = schema.get("type")
    return cast("list[str]", kind) if isinstance(kind, list) else [kind] if isinstance(kind, str) else []
