"""A JSON Schema that was not made from Python types, and the check of JSON against it.

The schema may come from another machine (an MCP server): references that lead outside it are refused, never fetched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from antiphon.toolkit.errors import SchemaError

_MAX_PROBLEMS = 5


class JsonShape:
    """The schema of any value. Raises SchemaError, which names ``what``, if it is not a JSON Schema."""

    def __init__(self, schema: Mapping[str, Any], what: str) -> None:
        from jsonschema import exceptions, validators  # noqa: PLC0415 - 0.1 s to import, and not always needed
        from referencing import Registry  # noqa: PLC0415

        kind = validators.validator_for(dict(schema), default=validators.Draft202012Validator)
        try:
            kind.check_schema(dict(schema))
        except exceptions.SchemaError as error:
            raise SchemaError(f"{what} is not a JSON Schema: {error.message}") from error
        self._what = what
        # An empty registry: without one the library fetches references over the network.
        self._validator: Any = kind(dict(schema), registry=Registry())

    def read(self, text: str) -> Any:
        """Return the value that ``text`` holds; raises ValueError if it is not JSON or not of this shape."""
        value: Any = json.loads(text)
        self.require(value)
        return value

    def require(self, value: Any) -> None:
        """Raise ValueError, which names each problem and its place, unless ``value`` is of this shape."""
        from referencing.exceptions import Unresolvable  # noqa: PLC0415

        try:
            problems = sorted(self._validator.iter_errors(value), key=lambda problem: list(map(str, problem.path)))
        except Unresolvable as error:
            raise ValueError(f"{self._what} has a reference that leads nowhere: {error}") from error
        if problems:
            shown = [f"{_place(problem)}: {problem.message[:200]}" for problem in problems[:_MAX_PROBLEMS]]
            raise ValueError("; ".join(shown))


def _place(problem: Any) -> str:
    return ".".join(map(str, problem.absolute_path)) or "the whole"
