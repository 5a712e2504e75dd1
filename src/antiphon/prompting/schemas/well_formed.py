"""Checks what kind of value each keyword has, so that a wrong one is named in the words of JSON, and not in the compiler's."""

from collections.abc import Callable
from typing import Any, cast

from antiphon.prompting.schemas.compiler_limits import is_number
from antiphon.prompting.schemas.traversal import Schema, schemas_in

MOST_COUNT = 2**31
"""No answer has more characters or items: a count beyond means the same as this one."""
COUNTS = frozenset({"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"})


def malformed(root: Schema) -> str | None:
    """Return which keyword of a schema has a value that it cannot have, None if all are well formed."""
    for schema in schemas_in(root):
        for keyword, (is_right, words) in _VALUES.items():
            if keyword in schema and not is_right(schema[keyword]):
                return f"'{keyword}' must be {words}, but is {_described(schema[keyword])}."
    return None


def with_whole_counts(schema: Schema) -> Schema:
    """Return a schema whose counts are integers that the compiler can hold; JSON Schema allows 2.0 and 10**30 too."""
    return {key: _count(value) if key in COUNTS else value for key, value in schema.items()}


def _count(value: Any) -> Any:
    is_count = is_number(value) and value >= 0 and value == value // 1
    return min(int(value), MOST_COUNT) if is_count else value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in cast("list[Any]", value))


def _described(value: Any) -> str:
    if is_number(value):
        return str(value)
    kinds = {bool: "a boolean", str: "a string", list: "an array", dict: "an object"}
    return kinds.get(cast("Any", type(value)), "null")


_NUMBER: tuple[Callable[[Any], bool], str] = (is_number, "a number")
_COUNT: tuple[Callable[[Any], bool], str] = (_is_count, "an integer of at least 0")
_OBJECT: tuple[Callable[[Any], bool], str] = (lambda value: isinstance(value, dict), "an object")
_TEXT: tuple[Callable[[Any], bool], str] = (lambda value: isinstance(value, str), "a string")
_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _NUMBER),
    "multipleOf": (lambda value: is_number(value) and value > 0, "a number above 0"),
    **dict.fromkeys(sorted(COUNTS), _COUNT),
    **dict.fromkeys(("properties", "patternProperties", "$defs", "definitions"), _OBJECT),
    **dict.fromkeys(("pattern", "$ref"), _TEXT),
    "enum": (lambda value: isinstance(value, list), "an array"),
    "required": (_is_names, "an array of strings"),
}
