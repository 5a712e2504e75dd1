"""JSON schemas as the API's strict mode wants them, out of pydantic models."""

from __future__ import annotations

from typing import Any, cast

from openai import pydantic_function_tool
from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema

from antiphon.toolkit.errors import SchemaError


def strict_schema(model: type[BaseModel], what: str, *, allow_free_keys: bool = False) -> dict[str, Any]:
    """Return the schema of ``model`` as the official client makes it: all required, no further keys, no titles.

    Raises SchemaError, naming ``what``, if there is none, or (unless allowed) if it holds an object with free keys.
    """
    try:
        made = cast("dict[str, Any]", pydantic_function_tool(model))
    except (PydanticInvalidForJsonSchema, TypeError, ValueError) as error:
        raise SchemaError(f"{what} has no strict JSON schema: {error}") from error
    schema = without_titles(made["function"]["parameters"])
    if not allow_free_keys and (where := find_unsayable(schema)) is not None:
        raise SchemaError(
            f"{what} allows free keys or any type at {where!r}, which strict schemas cannot say",
            hint="give it a pydantic model, a dataclass or another definite type; a tool may be @tool(strict=False)",
        )
    return schema


def without_titles(schema: Any) -> Any:
    # pydantic's titles repeat the names and cost tokens in every request.
    if isinstance(schema, list):
        return [without_titles(item) for item in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    items = cast("dict[str, Any]", schema).items()
    return {key: without_titles(value) for key, value in items if not (key == "title" and isinstance(value, str))}


def find_unsayable(schema: Any, where: str = "") -> str | None:
    """Return the path of an object with free keys or of a value without a type, or None."""
    if isinstance(schema, list):
        pairs = [(str(index), item) for index, item in enumerate(cast("list[Any]", schema))]
    elif isinstance(schema, dict):
        mapping = cast("dict[str, Any]", schema)
        if mapping.get("additionalProperties", False) is not False or _is_untyped(mapping, where):
            return where or "/"
        pairs = list(mapping.items())
    else:
        return None
    found = (find_unsayable(value, f"{where}/{key}") for key, value in pairs)
    return next((path for path in found if path is not None), None)


def _is_untyped(schema: dict[str, Any], where: str) -> bool:
    *_, parent, name = ("", "", *where.split("/"))
    is_value = parent in {"properties", "anyOf"} or name == "items"
    return is_value and not schema.keys() & {"type", "anyOf", "allOf", "$ref", "enum", "const"}
