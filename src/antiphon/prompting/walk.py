"""Going through a JSON Schema: what in it is a schema again, and what is data that only looks like one."""

from collections.abc import Callable
from typing import Any, cast

Schema = dict[str, Any]

NAMED_SCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions"})
"""Keywords whose value maps names to schemas: its keys are no keywords."""

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


def resolved(root: Any, reference: str) -> Any:
    """Return what a reference into ``root`` points to, None if that is nothing or lies elsewhere."""
    place: Any = root if reference.startswith("#") else None
    for part in reference.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        place = cast("Schema", place).get(name) if isinstance(place, dict) else None
    return place
