"""Shapes of objects as a person types them: ``name, age int, tags list[str], price float?``."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, create_model

from antiphon.errors import AntiphonError

_TYPES: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "list[str]": list[str],
    "list[int]": list[int],
    "list[float]": list[float],
}
_SHAPE_HINT = f"write 'name, age int', with types of {', '.join(_TYPES)}; or a JSON Schema"


def model_of(specs: Iterable[str]) -> type[BaseModel]:
    """Return a model with a field for each NAME, NAME:TYPE or NAME:TYPE?. Raises AntiphonError, which names the field."""
    kinds: dict[str, Any] = {}
    for name, kind in map(_field, specs):
        if name in kinds:
            raise AntiphonError(f"the field {name!r} is named twice", hint="give each field a name of its own")
        kinds[name] = kind
    if not kinds:
        raise AntiphonError("no field is named", hint="name some: name, age int")
    # By alias, since names such as json and _id mean something else to a pydantic model.
    fields: dict[str, Any] = {
        f"field_{number}": (kind, Field(alias=name)) for number, (name, kind) in enumerate(kinds.items())
    }
    return create_model("Extracted", **fields)


def shape_of(text: str) -> type[BaseModel] | dict[str, Any]:
    """Return the shape that ``--schema`` names: fields in one line, or a JSON Schema, as text or in a file."""
    if text.lstrip().startswith("{") or text.endswith(".json"):
        source = text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8")
        try:
            schema: Any = json.loads(source)
        except ValueError as error:
            raise AntiphonError(f"the schema is not JSON: {error}") from error
        if not isinstance(schema, dict):
            raise AntiphonError("the schema is not a JSON object", hint='write {"type": "object", "properties": {...}}')
        return schema  # pyright: ignore[reportUnknownVariableType]
    specs = [":".join(field.split(maxsplit=1)) for field in text.split(",") if field.strip()]
    try:
        return model_of(specs)
    except AntiphonError as error:
        raise AntiphonError(f"cannot read the shape {text!r}: {error.message}", hint=_SHAPE_HINT) from error


def _field(spec: str) -> tuple[str, Any]:
    """Return a field's name and its type."""
    name, _, kind = spec.strip().partition(":")
    is_optional = spec.endswith("?")
    kind = kind.removesuffix("?") or "str"
    name = name.removesuffix("?")
    if not name.isidentifier() or kind not in _TYPES:
        raise AntiphonError(
            f"cannot read the field {spec!r}", hint=f"write NAME:TYPE with a type of {', '.join(_TYPES)}"
        )
    return name, _TYPES[kind] | None if is_optional else _TYPES[kind]
