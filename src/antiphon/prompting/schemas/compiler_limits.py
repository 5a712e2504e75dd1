"""Refuses schemas that crash the compiler.

The engine compiles every schema in its own process, so a crash there ends all requests. Found by compiling random and hostile
schemas: integers at the lower end of 64 bits, and chains of references that fill the stack, or lead to unchecked parts.
"""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, TypeGuard, cast

from antiphon.prompting.schemas.traversal import Schema, schemas_in
from antiphon.protocol.json_pointer import resolve_pointer

MOST_INTEGER = 2**63 - 4096
"""The compiler counts in 64 bits, and does not survive a range at their lower end."""
_EXACT_DIGITS, _EXACT_EXPONENT = 15, 22
"""Decimal fractions within these are read exactly by every parser (Clinger 1990); the compiler's reads others almost so."""
MAX_LEVELS = 500
"""Nested objects from the root through references: half of what fills a usual stack."""


def beyond_compiler(root: Schema) -> str | None:
    """Return why a schema must not be given to the compiler, None if it may be."""
    stray = _stray_reference(root)
    if stray is not None:
        return stray
    levels = _Levels(root).most()
    if levels > MAX_LEVELS:
        return f"its references nest up to {levels} levels, which exceeds the limit of {MAX_LEVELS}."
    return None


def _stray_reference(root: Schema) -> str | None:
    """Return which reference leads to a part that is not checked here: another document, an anchor, or data that look like a schema."""
    schemas = schemas_in(root)
    known = {id(schema) for schema in schemas}
    keys = ("$id", "id") if any(map(_is_draft_4, schemas)) else ("$id",)
    for schema in schemas[1:]:
        names = [schema.get(key) for key in keys]
        if any(isinstance(name, str) and not name.startswith("#") for name in names) and _references(
            schemas_in(schema)
        ):
            return "an '$id' below the root gives '$ref' another meaning, which is not permitted."
    for reference in _references(schemas):
        target = resolve_pointer(root, reference)
        if not (isinstance(target, bool) or id(target) in known):
            return f"the '$ref' {reference!r} does not point to a part of the schema, as '#/$defs/name' does, which is not permitted."
    return None


def _is_draft_4(schema: Schema) -> bool:
    draft = schema.get("$schema")
    return isinstance(draft, str) and ("draft-04" in draft or "draft-03" in draft)


def _references(schemas: Iterable[Schema]) -> list[str]:
    return [schema["$ref"] for schema in schemas if isinstance(schema.get("$ref"), str)]


def is_misread(value: Any) -> bool:
    """Whether data hold a number that the compiler would take for another one."""
    if isinstance(value, list):
        return any(map(is_misread, cast("list[Any]", value)))
    if isinstance(value, dict):
        return any(map(is_misread, cast("Schema", value).values()))
    if isinstance(value, float) and not value.is_integer():
        digits = Decimal(repr(value)).as_tuple()
        return len(digits.digits) > _EXACT_DIGITS or abs(cast("int", digits.exponent)) > _EXACT_EXPONENT
    return is_number(value) and abs(value) > MOST_INTEGER


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a number of JSON."""
    return isinstance(value, int | float) and not isinstance(value, bool)


class _Levels:
    """The longest way down, entering each definition once: definitions that lead to each other count all together.

    Strongly connected definitions are found after Tarjan (1972).
    """

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._order: dict[int, int] = {}
        self._lowest: dict[int, int] = {}
        self._open: list[Schema] = []
        self._below: dict[int, int] = {}
        """Levels from a definition on, once all that it leads to is known."""

    def most(self) -> int:
        self._visit(self._root)
        return self._below[id(self._root)]

    def _visit(self, definition: Schema) -> None:
        key = id(definition)
        self._order[key] = self._lowest[key] = len(self._order)
        self._open.append(definition)
        for target in self._targets(definition):
            if id(target) not in self._order:
                self._visit(target)
            if id(target) not in self._below:
                self._lowest[key] = min(self._lowest[key], self._lowest[id(target)])
        if self._lowest[key] == self._order[key]:
            self._close(definition)

    def _close(self, first: Schema) -> None:
        """Add up the definitions that lead to each other, of which ``first`` was entered first."""
        start = next(place for place, open_one in enumerate(self._open) if open_one is first)
        group, self._open[start:] = self._open[start:], []
        beyond = [self._below.get(id(target), 0) for one in group for target in self._targets(one)]
        levels = sum(map(_depth, group)) + max(beyond, default=0)
        self._below.update((id(one), levels) for one in group)

    def _targets(self, definition: Schema) -> list[Schema]:
        references = sorted(set(_references(schemas_in(definition))))
        targets = [resolve_pointer(self._root, reference) for reference in references]
        return [cast("Schema", target) for target in targets if isinstance(target, dict)]


def _depth(value: Any) -> int:
    if isinstance(value, list):
        return max(map(_depth, cast("list[Any]", value)), default=0)
    return 1 + max(map(_depth, cast("Schema", value).values()), default=0) if isinstance(value, dict) else 0
