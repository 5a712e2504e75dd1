"""The JSON Schema of a tool's arguments, and the check of what a model wrote against it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from antiphon.toolkit.errors import SchemaError
from antiphon.toolkit.tools.json_shape import JsonShape


class ArgumentsSchema(JsonShape):
    """The schema of an object. Raises SchemaError, which names ``what``, for anything else."""

    def __init__(self, schema: Mapping[str, Any], what: str) -> None:
        super().__init__(schema, what)
        if schema.get("type", "object") != "object":
            raise SchemaError(
                f"{what} is of the type {schema['type']!r}, and arguments are an object",
                hint="write {'type': 'object', 'properties': {...}}",
            )

    def read(self, text: str) -> dict[str, Any]:
        """Return the object that ``text`` holds, no text being an empty one; raises ValueError as ``JsonShape`` does."""
        value: Any = json.loads(text or "{}")
        if not isinstance(value, dict):
            raise ValueError(f"the whole: arguments are a JSON object, not {text[:200]!r}")  # noqa: TRY004 - one kind
        self.require(value)
        return cast("dict[str, Any]", value)
