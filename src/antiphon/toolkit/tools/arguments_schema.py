"""A JSON Schema that was not made from a Python signature, and the check of a model's arguments against it.

The schema may come from another machine (an MCP server): references that lead outside it are refused, never fetched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from antiphon.toolkit.errors import SchemaError

_MAX_PROBLEMS = 5


class ArgumentsSchema:
    """The schema of an object. Raises SchemaError, which names ``what``, for anything else."""

    def __init__(self, schema: Mapping[str, Any], what: str) -> None:
        from jsonschema import exceptions, validators  # noqa: PLC0415 - 0.1 s to import, and not always needed
        from referencing import Registry  # noqa: PLC0415

        kind = validators.validator_for(dict(schema), default=validators.Draft202012Validator)
        try:
            kind.check_schema(dict(schema))
        except exceptions.SchemaError as error:
            raise SchemaError(f"{what} is not a JSON Schema: {error.message}") from error
        if schema.get("type", "object") != "object":
            raise SchemaError(
                f"{what} is of the type {schema['type']!r}, and arguments are an object",
                hint="write {'type': 'object', 'properties': {...}}",
            )
        # An empty registry: without one the library fetches references over the network.
        self._validator: Any = kind(dict(schema), registry=Registry())

    def read(self, text: str) -> dict[str, Any]:
        """Return the object that ``text`` holds; raises ValueError, which names each problem and its place."""
        from referencing.exceptions import Unresolvable  # noqa: PLC0415

        value: Any = json.loads(text or "{}")
        if not isinstance(value, dict):
            raise ValueError(f"the whole: arguments are a JSON object, not {text[:200]!r}")  # noqa: TRY004 - one kind
        try:
            problems = sorted(self._validator.iter_errors(value), key=lambda problem: list(map(str, problem.path)))
        except Unresolvable as error:
            raise ValueError(f"the tool's schema has a reference that leads nowhere: {error}") from error
        if problems:
            shown = [f"{_place(problem)}: {problem.message[:200]}" for problem in problems[:_MAX_PROBLEMS]]
            raise ValueError("; ".join(shown))
        return cast("dict[str, Any]", value)


def _place(problem: Any) -> str:
    return ".".join(map(str, problem.absolute_path)) or "the whole"
