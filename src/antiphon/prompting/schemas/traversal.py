"""Traverses a JSON Schema by position: which of its parts are schemas, and which are data that only look like one."""

from collections.abc import Callable, Iterator
from typing import Any, cast

from antiphon.protocol.json_pointer import resolve_pointer

Schema = dict[str, Any]

NAMED_SCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions"})
"""Keywords whose value maps names to schemas: its keys are not keywords."""

DATA = frozenset({"const", "enum", "default", "examples", "example", "x-guidance"})


def rewritten(schema: Any, rule: Callable[[Schema], Schema]) -> Any:
    """Return the schema with ``rule`` applied to every schema in it, the outer ones first; it is not changed itself."""
    if isinstance(schema, list):
        return [rewritten(item, rule) for item in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    return {key: _inner(key, value, rule) for key, value in rule(cast("Schema", schema)).items()}


def _inner(key: str, value: Any, rule: Callable[[Schema], Schema]) -> Any:
    if key in DATA:
        return value
    if key in NAMED_SCHEMAS and isinstance(value, dict):
        return {name: rewritten(item, rule) for name, item in cast("Schema", value).items()}
    return rewritten(value, rule)


def schemas_in(root: Any) -> list[Schema]:
    """Return every schema in ``root``, itself first, those that are only true or false left out."""
    found: list[Schema] = []

    def note(schema: Schema) -> Schema:
        found.append(schema)
        return schema

    rewritten(root, note)
    return found


def referenced(root: Schema) -> dict[int, bool]:
    """Return the identities of the schemas that references lead to, each with whether it describes nothing but parts of lists and maps."""
    seen: dict[bool, dict[int, Schema]] = {True: {}, False: {}}
    waiting: list[tuple[Any, bool]] = [(root, False)]
    while waiting:
        schema, is_in_list = waiting.pop()
        for part, inner in _places(schema, is_in_list=is_in_list):
            reference = part.get("$ref")
            target = resolve_pointer(root, reference) if isinstance(reference, str) else None
            known = cast("Schema", target) if isinstance(target, dict) else part
            if known is not part and id(known) not in seen[inner]:
                seen[inner][id(known)] = known
                waiting.append((known, inner))
    return {known: known not in seen[False] for known in (*seen[True], *seen[False])}


def _places(schema: Any, *, is_in_list: bool) -> Iterator[tuple[Schema, bool]]:
    """Yield the schemas in ``schema`` but for definitions, each with whether it is inside a list or a map."""
    if isinstance(schema, list):
        for item in cast("list[Any]", schema):
            yield from _places(item, is_in_list=is_in_list)
    if not isinstance(schema, dict):
        return
    yield cast("Schema", schema), is_in_list
    for key, value in cast("Schema", schema).items():
        if key in NAMED_SCHEMAS - {"$defs", "definitions"} and isinstance(value, dict):
            for item in cast("Schema", value).values():
                yield from _places(item, is_in_list=is_in_list)
        elif key not in DATA | NAMED_SCHEMAS:
            yield from _places(value, is_in_list=is_in_list or key in {"items", "additionalProperties"})


def has_more_than(value: Any, num_chars: int) -> bool:
    """Whether a JSON value has more characters than ``num_chars``; it is read only as far as needed. Punctuation counts one."""
    waiting: list[Any] = [value]
    left = num_chars
    while waiting and left >= 0:
        item = waiting.pop()
        left -= 1
        if isinstance(item, str):
            left -= len(item)
        elif isinstance(item, dict):
            names = cast("Schema", item)
            left -= sum(map(len, names)) + len(names)
            waiting += names.values()
        elif isinstance(item, list):
            waiting += cast("list[Any]", item)
        elif isinstance(item, int):
            left -= item.bit_length() // 3
    return left < 0
